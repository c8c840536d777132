"""Limits at the gateway's doors: what is admitted, what the refusal says, and where the rest can be read."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from libs.bus.local import LocalBroker, LocalBus
from tests.builders import Answer, make_policy
from tests.eventually import eventually
from tests.services.system import Party, System, auth_token, open_system


async def limited(system: System, **fields: Any) -> Party:
    """A client of a new API under a policy with these limits."""
    issuing = await system.party()
    policy = await make_policy(system.deps, issuing.api.api_id, **fields)
    return await system.client_of(issuing.api, policy_ids=(policy.policy_id,))


def figures(answer: Answer) -> tuple[str | None, ...]:
    """Tyk's three headers."""
    return tuple(answer.headers.get(f"X-RateLimit-{name}") for name in ("Limit", "Remaining", "Reset"))


def over_the_rate(answer: Answer) -> bool:
    """429 as Tyk says it, and when to come back; other credentials would not help."""
    assert (answer.status, answer.body) == (429, {"error": "Rate Limit Exceeded"})
    assert int(answer.headers["Retry-After"]) >= 1
    assert "WWW-Authenticate" not in answer.headers
    return True


async def test_the_rate_is_a_limit(system: System) -> None:
    """Three in a minute: the fourth is refused, and counts for nothing."""
    party = await limited(system, rate=3, per=60)
    token = (await party.tokens()).access
    answers = [await party.verify(token) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert all(over_the_rate(answer) for answer in answers[3:])


async def test_the_quota_is_a_limit_of_its_own(system: System) -> None:
    """403 as Tyk; the headers count down, and say when it is renewed."""
    party = await limited(system, quota_max=2, quota_renewal_rate=3600)
    token = (await party.tokens()).access
    answers = [await party.verify(token) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 403]
    assert [figures(answer)[:2] for answer in answers] == [("2", "1"), ("2", "0"), ("2", "0")]
    assert int(figures(answers[2])[2] or 0) > 0
    assert answers[2].body == {"error": "Quota exceeded"}
    assert "WWW-Authenticate" not in answers[2].headers


async def test_without_limits_nothing_is_counted_and_nothing_said(system: System) -> None:
    """Neither headers nor a counter."""
    party = await limited(system)
    answer = await party.verify((await party.tokens()).access)
    assert (answer.status, figures(answer)) == (200, (None, None, None))


async def test_a_refresh_does_not_reset_what_is_used(system: System) -> None:
    """The counter is the grant's; another grant of the same client has its own."""
    party = await limited(system, quota_max=2, rate=100, per=60)
    tokens = await party.tokens()
    assert (await party.verify(tokens.access)).status == 200
    later = await party.refreshed(tokens.refresh)
    assert (await party.verify(later.access)).status == 200
    assert (await party.verify(later.access)).status == 403
    assert (await party.verify((await party.tokens()).access)).status == 200


async def test_all_apis_of_a_policy_share_a_limit_unless_it_is_their_own(system: System) -> None:
    """Common: one counter for the grant. `limit` of an access right, or per_api: counted apart."""
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
    """For one grant of the client."""
    party = await limited(system, rate=100, per=60)
    rules = orjson.dumps({"rate": 1, "per": 60}).decode()
    token = (await party.tokens(key_rules=rules)).access
    assert [(await party.verify(token)).status for _ in range(2)] == [200, 429]
    assert [(await party.verify((await party.tokens()).access)).status for _ in range(2)] == [200, 200]


async def test_an_edited_limit_counts_for_tokens_already_issued(system: System) -> None:
    """What was used stays used."""
    party = await limited(system, quota_max=1)
    token = (await party.tokens()).access
    assert [(await party.verify(token)).status for _ in range(2)] == [200, 403]
    policy = await system.deps.store.policies.get(party.client.policy_ids[0])
    assert policy is not None
    edited = policy.model_copy(update={"quota_max": 3})
    assert await system.deps.store.policies.replace(policy, edited, system.deps.origin("tests"))
    statuses: list[int] = []

    async def admitted_again() -> bool:
        statuses.append((await party.verify(token)).status)
        return statuses[-1] == 200

    await eventually(admitted_again, within=2)
    await eventually(lambda: _refused(party, token))
    assert statuses.count(200) <= 2


async def _refused(party: Party, token: str) -> bool:
    return (await party.verify(token)).status == 403


# Where it can be read


async def test_the_caller_reads_its_own_limits(system: System) -> None:
    """Tyk's route and words, under the listen path and the API's id; nothing is counted."""
    party = await limited(system, rate=10, per=60, quota_max=5, quota_renewal_rate=3600)
    token = (await party.tokens()).access
    await party.verify(token)
    for place in (party.at("tyk/rate-limits"), party.at("tyk/rate-limits/"), f"/{party.api.api_id}/tyk/rate-limits"):
        answer = await system.call("GET", place, headers={"Authorization": f"Bearer {token}"})
        assert answer.status == 200
        renews = answer.body["quota"]["quota_renews"]
        assert renews > 0
        assert answer.body == {
            "quota": {"quota_max": 5, "quota_remaining": 4, "quota_renews": renews},
            "rate_limit": {"requests": 10, "per_unit": 60},
        }


async def test_who_has_no_token_reads_no_limits(system: System) -> None:
    """The refusals of the protected API."""
    party = await limited(system, rate=10, per=60)
    place = party.at("tyk/rate-limits")
    answer = await system.call("GET", place)
    assert (answer.status, answer.body) == (400, {"error": "Authorization field missing"})
    unknown = {"Authorization": "Bearer x"}
    answer = await system.call("GET", place, headers=unknown)
    assert (answer.status, answer.body) == (403, {"error": "Key not authorised"})
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="tokenwire", error="invalid_token"'
    assert (await system.call("GET", "/nowhere/tyk/rate-limits", headers=unknown)).status == 404


async def test_the_operator_reads_them_in_the_list_of_tokens(system: System) -> None:
    """Beside each token that has any; in both shapes of the list."""
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

    await eventually(listed)  # once what the gateway holds in reserve is given back
    free = await system.party()
    await free.tokens()
    answer = await system.operator("GET", f"/api/apis/oauth/{free.api.api_id}/{free.id}/tokens")
    assert not {"rate_limit", "quota"} & set(answer.body[0])


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
    """Asked for together, and again until both have said no for a while: not one more, and none is held back."""
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
