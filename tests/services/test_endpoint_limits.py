"""C1: limits of single endpoints in policies, at the proxy and at `/verify`, beside quotas, and over instances."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from contracts.policies import AccessRight
from libs.bus.local import LocalBroker, LocalBus
from tests.builders import Response, api_document, make_policy
from tests.eventually import eventually
from tests.services.system import Party, System, open_system
from tests.services.upstreams import Upstream, upstream

OVER = {"error": "Rate Limit Exceeded"}


@pytest.fixture(scope="module", name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


def right(api_id: str, endpoints: dict[str, int]) -> AccessRight:
    """The API, with these calls a minute for GET of each of these paths."""
    said = [
        {"path": path, "methods": [{"name": "GET", "limit": {"rate": rate, "per": 60}}]}
        for path, rate in endpoints.items()
    ]
    return AccessRight.model_validate({"api_id": api_id, "endpoints": said})


async def limited(system: System, behind: Upstream, endpoints: dict[str, int], **fields: Any) -> Party:
    """A client of a new API under a policy with these limits."""
    issuing = await system.party(api_document(**{"x-tyk-api-gateway__upstream__url": behind.url}))
    api_id = issuing.api.api_id
    policy = await make_policy(system.deps, access_rights={api_id: right(api_id, endpoints)}, **fields)
    return await system.client_of(issuing.api, policy_ids=(policy.policy_id,))


async def ask(party: Party, token: str, path: str, door: str = "verify") -> Response:
    """Call the API, or ask about the call."""
    if door == "verify":
        return await party.system.verify(party.at(path), Authorization=f"Bearer {token}")
    return await party.system.call("GET", party.at(path), headers={"Authorization": f"Bearer {token}"})


async def statuses(party: Party, token: str, path: str, times: int, door: str = "verify") -> list[int]:
    return [(await ask(party, token, path, door)).status for _ in range(times)]


@pytest.mark.parametrize("door", ["proxy", "verify"])
async def test_c1_an_endpoint_has_a_rate_of_its_own(system: System, behind: Upstream, door: str) -> None:
    """It counts in place of the policy's rate, for all tokens of the client, and the policy's rate for other paths."""
    party = await limited(system, behind, {"^/reports/{id}$": 2, "/search": 4}, rate=3, per=60)
    token = (await party.tokens()).access
    assert await statuses(party, token, "reports/7", 3, door) == [200, 200, 429]
    refused = await ask(party, (await party.tokens()).access, "reports/8", door)
    assert (refused.status, refused.body) == (429, OVER)
    assert int(refused.headers["Retry-After"]) >= 1
    assert "X-RateLimit-Limit" not in refused.headers
    assert await statuses(party, token, "search?q=1", 5, door) == [200, 200, 200, 200, 429]
    assert await statuses(party, token, "things", 4, door) == [200, 200, 200, 429]
    found = await system.call("POST", "/oauth/introspect", data={"token": token}, headers=party.basic)
    assert found.body["active"] is True  # limits say nothing about the token


async def test_c1_the_doors_share_the_counter_of_an_endpoint(system: System, behind: Upstream) -> None:
    """Calls through the proxy and those that a proxy asks about count together, in every spelling of the path."""
    party = await limited(system, behind, {"^/one$": 2})
    token = (await party.tokens()).access
    assert (await ask(party, token, "one", "proxy")).status == 200
    assert (await ask(party, token, "%6fne", "verify")).status == 200
    assert {(await ask(party, token, "one", door)).status for door in ("proxy", "verify")} == {429}


async def test_c1_an_endpoint_s_calls_use_up_the_quota(system: System, behind: Upstream) -> None:
    """The quota is for all calls; a call over the limit of its endpoint does not use it up."""
    party = await limited(system, behind, {"^/one$": 2}, rate=100, per=60, quota_max=4, quota_renewal_rate=3600)
    token = (await party.tokens()).access
    assert await statuses(party, token, "one", 3) == [200, 200, 429]

    async def remaining() -> int:
        place = party.at("tyk/rate-limits")
        found = await party.system.call("GET", place, headers={"Authorization": f"Bearer {token}"})
        return int(found.body["quota"]["quota_remaining"])

    assert await remaining() == 2
    admitted = await ask(party, token, "things")
    assert (admitted.status, admitted.headers["X-RateLimit-Limit"]) == (200, "4")
    assert await remaining() == 1

    async def used_up() -> bool:
        return 403 in await statuses(party, token, "things", 2)

    await eventually(used_up)
    assert await remaining() == 0
    over = await ask(party, token, "two")
    assert (over.status, over.body) == (403, {"error": "Quota exceeded"})


async def test_c1_limits_of_the_user_and_the_rules_narrow(system: System, behind: Upstream) -> None:
    """The user's policy limits an endpoint further; a rate in `key_rules` is for all endpoints."""
    party = await limited(system, behind, {"^/one$": 50, "^/two$": 50}, rate=100, per=60)
    api_id = party.api.api_id
    theirs = await make_policy(system.deps, access_rights={api_id: right(api_id, {"^/one$": 1})})
    user = await system.user(policy_ids=(theirs.policy_id,))
    token = (await party.password(user.username)).body["access_token"]
    assert await statuses(party, token, "one", 2) == [200, 429]
    assert await statuses(party, token, "two", 2) == [200, 200]
    rules = orjson.dumps({"rate": 2, "per": 60}).decode()
    narrowed = (await party.tokens(key_rules=rules)).access
    assert await statuses(party, narrowed, "two", 2) == [200, 200]
    assert await statuses(party, narrowed, "one", 1) == [429]


async def test_c1_a_limit_is_edited_for_tokens_already_issued(system: System, behind: Upstream) -> None:
    """A limit that is added, or taken away, counts at once."""
    party = await limited(system, behind, {})
    token = (await party.tokens()).access
    assert await statuses(party, token, "one", 3) == [200, 200, 200]
    api_id, ctx = party.api.api_id, system.deps.event_context("tests")
    policy = await system.deps.store.policies.get(party.client.policy_ids[0])
    assert policy is not None
    edited = policy.model_copy(update={"access_rights": {api_id: right(api_id, {"^/one$": 1})}})
    assert await system.deps.store.policies.replace(policy, edited, ctx)

    async def over() -> bool:
        return (await ask(party, token, "one")).status == 429

    await eventually(over)
    assert (await ask(party, token, "two")).status == 200


async def test_c1_endpoint_limits_are_exact_over_instances(mongodb_url: str, behind: Upstream) -> None:
    """Two gateways together admit exactly the endpoint's rate, and exactly the quota over all endpoints."""
    broker, database = LocalBroker(), f"tokenwire_test_{secrets.token_hex(6)}"
    async with (
        open_system(mongodb_url, database, LocalBus(broker)) as one,
        open_system(mongodb_url, database, LocalBus(broker)) as two,
    ):
        party = await limited(one, behind, {"^/one$": 7}, rate=1000, per=60, quota_max=30, quota_renewal_rate=3600)
        token = (await party.tokens()).access
        parties = [replace(party, system=system) for system in (one, two)]
        found = await asyncio.gather(*(ask(parties[number % 2], token, "one") for number in range(20)))
        assert [response.status for response in found].count(200) == 7
        paths = ["things", "one"]
        rest = await asyncio.gather(*(ask(parties[number % 2], token, paths[number % 3 == 0]) for number in range(100)))
        passed = [response.status for response in rest].count(200)

        async def used_up() -> bool:
            nonlocal passed
            more = [(await ask(each, token, "things")).status for each in parties for _ in range(2)]
            passed += more.count(200)
            return passed >= 23

        await eventually(used_up)
        more = await asyncio.gather(*(ask(parties[number % 2], token, "things") for number in range(20)))
        assert passed + [response.status for response in more].count(200) == 23


async def test_c1_a_policy_with_an_endpoint_that_is_no_expression_is_refused(system: System) -> None:
    """Stored with its limits, which the preview shows; refused by name with an expression that RE2 has not."""
    party = await system.party()
    api_id = party.api.api_id
    said: dict[str, Any] = {"access_rights": {api_id: {"endpoints": [{"path": "/a(?=b)", "methods": None}]}}}
    response = await system.operator("POST", "/api/portal/policies", json=said)
    assert response.status == 400
    assert f"access_rights.{api_id}.endpoints: " in response.body["Message"]
    limits: dict[str, Any] = {
        "name": "GET",
        "limit": {"rate": 5, "per": 60, "smoothing": None, "throttle_interval": None},
    }
    said = {"access_rights": {api_id: {"endpoints": [{"path": "/a/{id}", "methods": [limits]}]}}}
    response = await system.operator("POST", "/api/portal/policies", json=said)
    assert (response.status, response.body["Meta"]) == (200, None)
    wanted = {"api_id": api_id, "policy_ids": [response.body["ID"]]}
    shown = (await system.operator("POST", "/api/portal/policies/preview", json=wanted)).body["apis"][0]
    assert [(each["pattern"], each["methods"], each["limits"]["rate"]) for each in shown["endpoints"]] == [
        ("/a/([^/]+)", ["GET"], 5)
    ]
