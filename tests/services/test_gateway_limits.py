"""Rate limits and quotas at the gateway: what is admitted, the refusals, and where the remainder is shown."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from libs.bus.local import LocalBroker, LocalBus
from tests.builders import Response, make_policy
from tests.eventually import eventually
from tests.services.system import Party, System, auth_token, open_system, tokens_of


async def limited(system: System, **fields: Any) -> Party:
    """A client of a new API under a policy with these limits."""
    issuing = await system.party()
    policy = await make_policy(system.deps, issuing.api.api_id, **fields)
    return await system.client_of(issuing.api, policy_ids=(policy.policy_id,))


def figures(response: Response) -> tuple[str | None, ...]:
    """Tyk's three headers."""
    return tuple(response.headers.get(f"X-RateLimit-{name}") for name in ("Limit", "Remaining", "Reset"))


def over_the_rate(response: Response) -> bool:
    """429 with Tyk's text and Retry-After; other credentials would not help."""
    assert (response.status, response.body) == (429, {"error": "Rate Limit Exceeded"})
    assert int(response.headers["Retry-After"]) >= 1
    assert "WWW-Authenticate" not in response.headers
    return True


async def test_the_rate_is_a_limit(system: System) -> None:
    """With three calls a minute the fourth is refused, and not counted."""
    party = await limited(system, rate=3, per=60)
    token = (await party.tokens()).access
    responses = [await party.verify(token) for _ in range(5)]
    assert [response.status for response in responses] == [200, 200, 200, 429, 429]
    assert all(over_the_rate(response) for response in responses[3:])


async def test_the_quota_is_a_limit_of_its_own(system: System) -> None:
    """A used-up quota gets Tyk's 403; headers show the remainder and the renewal."""
    party = await limited(system, quota_max=2, quota_renewal_rate=3600)
    token = (await party.tokens()).access
    responses = [await party.verify(token) for _ in range(3)]
    assert [response.status for response in responses] == [200, 200, 403]
    assert [figures(response)[:2] for response in responses] == [("2", "1"), ("2", "0"), ("2", "0")]
    assert int(figures(responses[2])[2] or 0) > 0
    assert responses[2].body == {"error": "Quota exceeded"}
    assert "WWW-Authenticate" not in responses[2].headers


async def test_without_limits_nothing_is_counted_or_reported(system: System) -> None:
    """Without limits there are neither headers nor counters."""
    party = await limited(system)
    response = await party.verify((await party.tokens()).access)
    assert (response.status, figures(response)) == (200, (None, None, None))


async def test_a5_a_refresh_does_not_reset_what_is_used(system: System) -> None:
    """A refresh or new login of the same user keeps the counter; another user has an own one."""
    party = await limited(system, quota_max=2, rate=100, per=60)
    tokens = await party.tokens(subject="ann")
    assert (await party.verify(tokens.access)).status == 200
    later = await party.refreshed(tokens.refresh)
    assert (await party.verify(later.access)).status == 200
    assert (await party.verify(later.access)).status == 403
    assert (await party.verify((await party.tokens(subject="ann")).access)).status == 403
    assert (await party.verify((await party.tokens(subject="bob")).access)).status == 200


@pytest.mark.parametrize("limit", [{"rate": 2, "per": 3600}, {"quota_max": 2, "quota_renewal_rate": 3600}])
async def test_a5_a_new_token_of_the_client_resets_nothing(system: System, limit: dict[str, int]) -> None:
    """All tokens of a client share its counter; another client has an own one."""
    party = await limited(system, **limit)
    other = await system.client_of(party.api, policy_ids=party.client.policy_ids)

    async def call(caller: Party) -> int:
        return (await caller.verify(tokens_of(await caller.token({"grant_type": "client_credentials"})).access)).status

    assert Counter([await call(party) for _ in range(40)])[200] == 2
    assert await call(other) == 200


async def test_a5_a_new_login_with_the_password_resets_nothing(system: System) -> None:
    """The counter is per client and user: the same user at another client is counted separately."""
    party = await limited(system, quota_max=2)
    other = await system.client_of(party.api, policy_ids=party.client.policy_ids)
    first, second = await system.user(), await system.user()

    async def call(caller: Party, username: str) -> int:
        return (await caller.verify(tokens_of(await caller.password(username)).access)).status

    assert [await call(party, first.username) for _ in range(4)] == [200, 200, 403, 403]
    assert await call(party, second.username) == 200
    assert await call(other, first.username) == 200


async def test_a5_logins_without_a_subject_are_counted_for_the_client(system: System) -> None:
    """Logins without a subject share the client's counter, because they cannot be told apart."""
    party = await limited(system, quota_max=2)
    assert [(await party.verify((await party.tokens()).access)).status for _ in range(4)] == [200, 200, 403, 403]
    own = tokens_of(await party.token({"grant_type": "client_credentials"})).access
    assert (await party.verify(own)).status == 403
    assert (await party.verify((await party.tokens(subject="ann")).access)).status == 200


async def test_a5_names_with_separators_share_no_counter(system: System) -> None:
    """A user name cannot collide with another counter's name."""
    party = await limited(system, quota_max=1)
    names = [party.api.api_id, f".{party.api.api_id}", f"{party.id}.{party.api.api_id}", "a.b", "a", "b", ".a", "a."]
    for name in names:
        assert (await party.verify((await party.tokens(subject=name)).access)).status == 200, name
    for name in names:
        assert (await party.verify((await party.tokens(subject=name)).access)).status == 403, name


async def test_a5_the_remaining_calls_shown_are_the_client_s(system: System) -> None:
    """Caller and operator see the client's remaining calls for each of its tokens."""
    party = await limited(system, rate=10, per=60, quota_max=5, quota_renewal_rate=3600)
    tokens = [tokens_of(await party.token({"grant_type": "client_credentials"})).access for _ in range(3)]
    for token in tokens[:2]:
        assert (await party.verify(token)).status == 200
    response = await system.call("GET", party.at("tyk/rate-limits"), headers={"Authorization": f"Bearer {tokens[2]}"})
    assert response.body["quota"]["quota_remaining"] == 3

    async def listed() -> bool:
        found = await system.operator("GET", f"/api/apis/oauth/{party.api.api_id}/{party.id}/tokens")
        return [token["quota"]["quota_remaining"] for token in found.body] == [3, 3, 3]

    await eventually(listed)  # after the gateway has returned its reservation


async def test_all_apis_of_a_policy_share_a_limit_unless_it_is_their_own(system: System) -> None:
    """The APIs of a policy share one counter, unless an access right has its own `limit` or the policy is per_api."""
    issuing, accepting = await system.party(), await system.party(auth_token())
    api_ids = (issuing.api.api_id, accepting.api.api_id)
    common = await make_policy(system.deps, *api_ids, quota_max=2)
    apart = await make_policy(system.deps, *api_ids, quota_max=1, partitions={"per_api": True})
    for policy, expected in ((common, [200, 200, 403, 403]), (apart, [200, 200, 403, 403])):
        party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
        token = (await party.tokens()).access
        asked = [issuing, accepting, accepting, issuing]
        assert [(await each.verify(token)).status for each in asked] == expected
    own = await system.client_of(issuing.api, policy_ids=(apart.policy_id,))
    token = (await own.tokens()).access
    assert [(await issuing.verify(token)).status for _ in range(2)] == [200, 403]
    assert [(await accepting.verify(token)).status for _ in range(2)] == [200, 403]


async def test_key_rules_may_set_a_tighter_limit(system: System) -> None:
    """Key rules set a tighter limit for one grant."""
    party = await limited(system, rate=100, per=60)
    rules = orjson.dumps({"rate": 1, "per": 60}).decode()
    token = (await party.tokens(key_rules=rules)).access
    assert [(await party.verify(token)).status for _ in range(2)] == [200, 429]
    assert [(await party.verify((await party.tokens()).access)).status for _ in range(2)] == [200, 200]


async def test_an_edited_limit_counts_for_tokens_already_issued(system: System) -> None:
    """An edited limit applies to existing tokens; used calls still count."""
    party = await limited(system, quota_max=1)
    token = (await party.tokens()).access
    assert [(await party.verify(token)).status for _ in range(2)] == [200, 403]
    policy = await system.deps.store.policies.get(party.client.policy_ids[0])
    assert policy is not None
    edited = policy.model_copy(update={"quota_max": 3})
    assert await system.deps.store.policies.replace(policy, edited, system.deps.event_context("tests"))
    statuses: list[int] = []

    async def admitted_again() -> bool:
        statuses.append((await party.verify(token)).status)
        return statuses[-1] == 200

    await eventually(admitted_again, within=2)
    await eventually(lambda: _refused(party, token))
    assert statuses.count(200) <= 2


async def _refused(party: Party, token: str) -> bool:
    return (await party.verify(token)).status == 403


# Reading limits


async def test_the_caller_reads_its_own_limits(system: System) -> None:
    """Tyk's route under listen path and API id; reading is not counted."""
    party = await limited(system, rate=10, per=60, quota_max=5, quota_renewal_rate=3600)
    token = (await party.tokens()).access
    await party.verify(token)
    for place in (party.at("tyk/rate-limits"), party.at("tyk/rate-limits/"), f"/{party.api.api_id}/tyk/rate-limits"):
        response = await system.call("GET", place, headers={"Authorization": f"Bearer {token}"})
        assert response.status == 200
        renews = response.body["quota"]["quota_renews"]
        assert renews > 0
        assert response.body == {
            "quota": {"quota_max": 5, "quota_remaining": 4, "quota_renews": renews},
            "rate_limit": {"requests": 10, "per_unit": 60},
        }


async def test_reading_limits_requires_a_token(system: System) -> None:
    """Without a valid token, the same refusals as for a call."""
    party = await limited(system, rate=10, per=60)
    place = party.at("tyk/rate-limits")
    response = await system.call("GET", place)
    assert (response.status, response.body) == (400, {"error": "Authorization field missing"})
    unknown = {"Authorization": "Bearer x"}
    response = await system.call("GET", place, headers=unknown)
    assert (response.status, response.body) == (403, {"error": "Key not authorised"})
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="tokenwire", error="invalid_token"'
    assert (await system.call("GET", "/nowhere/tyk/rate-limits", headers=unknown)).status == 404


async def test_the_operator_reads_them_in_the_list_of_tokens(system: System) -> None:
    """The operator's token list shows the limits of each token, in both formats."""
    party = await limited(system, rate=10, per=60, quota_max=5, quota_renewal_rate=3600)
    token = (await party.tokens()).access
    await party.verify(token)
    path = f"/api/apis/oauth/{party.api.api_id}/{party.id}/tokens"

    async def listed() -> bool:
        plain = (await system.operator("GET", path)).body[0]
        paged = (await system.operator("GET", f"{path}?page=1")).body["Tokens"][0]
        assert plain == paged
        assert plain["rate_limit"] == {"requests": 10, "per_unit": 60}
        assert plain["quota"]["quota_max"] == 5
        return bool(plain["quota"]["quota_remaining"] == 4)

    await eventually(listed)  # after the gateway has returned its reservation
    free = await system.party()
    await free.tokens()
    response = await system.operator("GET", f"/api/apis/oauth/{free.api.api_id}/{free.id}/tokens")
    assert not {"rate_limit", "quota"} & set(response.body[0])


# Several gateways


@pytest.fixture(scope="module", name="gateways")
async def _gateways(mongodb_url: str) -> AsyncIterator[tuple[System, System]]:
    broker = LocalBroker()
    async with (
        open_system(mongodb_url, "tokenwire_test_limits", LocalBus(broker)) as one,
        open_system(mongodb_url, "tokenwire_test_limits", LocalBus(broker)) as two,
    ):
        yield one, two


@pytest.mark.parametrize("limit", [{"rate": 40, "per": 60}, {"quota_max": 40, "quota_renewal_rate": 3600}])
async def test_of_many_calls_at_two_gateways_exactly_the_limit_passes(
    gateways: tuple[System, System], limit: dict[str, int]
) -> None:
    """Of concurrent calls at two gateways exactly the limit is admitted, and no call is withheld in the end."""
    party = await limited(gateways[0], **limit)
    token = (await party.tokens()).access
    parties = [replace(party, system=system) for system in gateways]
    statuses: Counter[int] = Counter()

    async def ask(number: int) -> None:
        statuses[(await parties[number % 2].verify(token)).status] += 1

    await asyncio.gather(*(ask(number) for number in range(200)))

    async def used_up() -> bool:
        for number in range(4):
            await ask(number)
        return statuses[200] >= 40

    await eventually(used_up)
    await asyncio.gather(*(ask(number) for number in range(50)))
    assert statuses[200] == 40
    assert set(statuses) == {200, 429 if "rate" in limit else 403}
