"""What the time of an answer tells: not who exists, and not what was issued once. Rows 8, 9 and 87 of the list.

The two kinds of request are sent by turns, in random order, and compared by rank: how often does one of the first kind
take longer than one of the second? Half of the time, if they are the same work. A busy machine disturbs both alike, so
that it makes the answer less certain and not another one; a difference that is there is there in every round.
"""

import secrets
import statistics
import time
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from random import Random

import pytest

from tests.builders import Answer
from tests.services.system import PASSWORD, Party, System, open_system, refused

ROUNDS = 3
TOLERANCE = 0.04
"""How far from half of the time is no usable difference: a thousand requests of each kind would hardly show it."""
DEVIATIONS = 4.5
"""Of chance, beyond the tolerance."""

Request = Callable[[], Awaitable[object]]


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    async with open_system(mongodb_url) as system:
        yield system


async def seconds(request: Request) -> float:
    """What it takes."""
    started = time.perf_counter()
    await request()
    return time.perf_counter() - started


async def sampled(one: Request, other: Request, count: int) -> tuple[list[float], list[float]]:
    """So many times of each, taken by turns."""
    times: tuple[list[float], list[float]] = ([], [])
    order, random = [(one, times[0]), (other, times[1])], Random()
    for _ in range(count):
        random.shuffle(order)
        for request, kept in order:
            kept.append(await seconds(request))
    return times


def superiority(ones: list[float], others: list[float]) -> float:
    """The share of all pairs in which the other takes longer (Mann and Whitney's U, normalised)."""
    ordered = sorted(others)
    longer = sum(len(ordered) - (bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in ones)
    return longer / (len(ones) * len(others))


async def differs(one: Request, other: Request, count: int) -> list[str]:
    """What every round found, if every round found a difference; else nothing."""
    chance = ((2 * count + 1) / (12 * count * count)) ** 0.5
    found = []
    await sampled(one, other, 5)
    for _ in range(ROUNDS):
        ones, others = await sampled(one, other, count)
        share = superiority(ones, others)
        if abs(share - 0.5) <= TOLERANCE + DEVIATIONS * chance:
            return []
        medians = [f"{statistics.median(times) * 1000:.2f} ms" for times in (ones, others)]
        found.append(f"longer in {share:.0%} of all pairs, {' against '.join(medians)}")
    return found


def named(party: Party, client_id: str) -> Party:
    """Another id, with a secret that is nobody's."""
    client = party.client.model_copy(update={"client_id": client_id})
    return replace(party, client=client, secret=secrets.token_urlsafe(32))


async def is_refused(request: Awaitable[Answer], error: str, status: int) -> None:
    """The answer is what it should be for the times to mean anything."""
    assert refused(await request, error, status)


@pytest.mark.parametrize("who", ["unknown", "another-api-s", "with-two-secrets"])
async def test_a_wrong_secret_takes_as_long_whoever_the_client_is(system: System, who: str) -> None:
    """Rows 8 and 9: a client that is registered on this API is not to be told by time."""
    party, other = await system.party(), await system.party()
    client_id = {"unknown": "client-000000000000", "another-api-s": other.id, "with-two-secrets": party.id}[who]
    if who == "with-two-secrets":
        path = f"/api/apis/oauth/{party.api.api_id}/{party.id}/rotate"
        assert (await system.operator("PUT", path, json={"overlap": 600})).status == 200
        known = named(party, (await system.client_of(party.api)).id)
    else:
        known = named(party, party.id)

    def ask(asked: Party) -> Request:
        return lambda: is_refused(asked.token({"grant_type": "client_credentials"}), "invalid_client", 401)

    assert await differs(ask(known), ask(named(party, client_id)), 150) == []


async def reads(system: System, collection: str) -> int:
    """How often MongoDB has read from the collection; this question is one of the times."""
    pipeline = [{"$collStats": {"latencyStats": {}}}]
    (stats,) = await system.deps.store.mongo[collection].aggregate(pipeline).to_list(None)
    return int(stats["latencyStats"]["reads"]["ops"])


async def test_a_wrong_secret_is_as_many_look_ups_whoever_the_client_is(system: System) -> None:
    """What the time of the counting hides on this machine it may not hide on another: MongoDB's own count is exact."""
    party = await system.party()
    counted = []
    await reads(system, "clients")
    for asked in (named(party, party.id), named(party, party.id), named(party, "nobody"), named(party, "nobody")):
        before = await reads(system, "clients")
        await is_refused(asked.token({"grant_type": "client_credentials"}), "invalid_client", 401)
        counted.append(await reads(system, "clients") - before - 1)
    assert counted == [1, 1, 1, 1]


@pytest.mark.parametrize("who", ["unknown", "inactive"])
async def test_a_wrong_password_takes_as_long_whoever_the_user_is(system: System, who: str) -> None:
    """Row 87: one argon2 in each case; neither existence nor state of a user is to be told by time."""
    party, user = await system.party(), await system.user()
    other = "user-000000000000" if who == "unknown" else (await system.user(active=False)).username
    password = "wrong" if who == "unknown" else PASSWORD

    def ask(username: str, password: str) -> Request:
        return lambda: is_refused(party.password(username, password), "invalid_grant", 400)

    assert await differs(ask(user.username, "wrong"), ask(other, password), 30) == []


@pytest.mark.parametrize("what", ["revoked-refresh-token", "revoked-access-token", "token-of-another-client"])
async def test_revocation_takes_as_long_for_a_token_that_never_was(system: System, what: str) -> None:
    """RFC 7009 §2.2: 200 in each case, and nobody learns by time whether a value was a token once."""
    party, other = await system.party(), await system.party()
    tokens = await (other if what == "token-of-another-client" else party).tokens()
    value = tokens.refresh if what == "revoked-refresh-token" else tokens.access
    invented = value[:6] + secrets.token_urlsafe(64)[: len(value) - 6]
    assert (await party.revoke(value)).status == 200

    def ask(token: str) -> Request:
        async def request() -> None:
            assert (await party.revoke(token)).status == 200

        return request

    assert await differs(ask(invented), ask(value), 150) == []


@pytest.mark.parametrize("what", ["revoked-refresh-token", "revoked-access-token", "token-of-another-client"])
async def test_introspection_takes_as_long_for_a_token_that_never_was(system: System, what: str) -> None:
    """Row 84: inactive in each case, and no difference in time, whether the gateway remembers the token or not."""
    party, other = await system.party(), await system.party()
    tokens = await (other if what == "token-of-another-client" else party).tokens()
    value = tokens.refresh if what == "revoked-refresh-token" else tokens.access
    invented = value[:6] + secrets.token_urlsafe(64)[: len(value) - 6]
    assert (await party.revoke(value)).status == 200

    def ask(token: str) -> Request:
        async def request() -> None:
            form = {"token": token}
            answer = await system.call("POST", "/oauth/introspect", data=form, headers=party.basic)
            assert (answer.status, answer.body) == (200, {"active": False})

        return request

    assert await differs(ask(invented), ask(value), 150) == []


def test_the_measure_finds_what_is_there() -> None:
    """Half of all pairs for the same times, all or none of them for times apart."""
    assert superiority([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 0.5
    assert superiority([1.0, 2.0], [3.0, 4.0]) == 1.0
    assert superiority([3.0, 4.0], [1.0, 2.0]) == 0.0
