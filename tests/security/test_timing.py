"""Response times reveal neither who exists nor what was issued: rows 8, 9 and 87.

Two kinds of request are sent alternately in random order and compared by rank: how often does one of the first kind
take longer than one of the second? If both do the same work, half of the time. A busy machine disturbs both alike,
which makes the result less precise but does not bias it. A real difference shows in every round.
"""

import secrets
import statistics
import time
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from tests.builders import Response
from tests.services.system import PASSWORD, Party, System, open_system, refused

ROUNDS = 3
TOLERANCE = 0.04
"""Deviation from one half that no attacker can use: a thousand requests of each kind would hardly show it."""
DEVIATIONS = 4.5
"""Standard deviations of chance allowed beyond the tolerance."""

Request = Callable[[], Awaitable[object]]


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    async with open_system(mongodb_url) as system:
        yield system


async def seconds(request: Request) -> float:
    """Seconds that the call takes."""
    started = time.perf_counter()
    await request()
    return time.perf_counter() - started


async def sampled(one: Request, other: Request, count: int) -> tuple[list[float], list[float]]:
    """This many timings of each, taken alternately."""
    times: tuple[list[float], list[float]] = ([], [])
    order, random = [(one, times[0]), (other, times[1])], Random()
    for _ in range(count):
        random.shuffle(order)
        for request, kept in order:
            kept.append(await seconds(request))
    return times


def superiority(ones: list[float], others: list[float]) -> float:
    """The share of all pairs in which the other takes longer (normalised Mann-Whitney U)."""
    ordered = sorted(others)
    longer = sum(len(ordered) - (bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in ones)
    return longer / (len(ones) * len(others))


async def differs(one: Request, other: Request, count: int) -> list[str]:
    """The results, if every round found a difference; else empty."""
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
    """Another client id with a secret that nobody has."""
    client = party.client.model_copy(update={"client_id": client_id})
    return replace(party, client=client, secret=secrets.token_urlsafe(32))


async def is_refused(request: Awaitable[Response], error: str, status: int) -> None:
    """The response must be the expected one, or its time means nothing."""
    assert refused(await request, error, status)


@pytest.mark.parametrize("who", ["unknown", "another-api-s", "with-two-secrets"])
async def test_a_wrong_secret_takes_as_long_for_any_client(system: System, who: str) -> None:
    """Rows 8 and 9: the response time does not reveal whether a client is registered on this API."""
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
    """Number of MongoDB's reads of the collection, including this query."""
    pipeline: list[dict[str, Any]] = [{"$collStats": {"latencyStats": {}}}]
    (stats,) = await system.deps.store.mongo[collection].aggregate(pipeline).to_list(None)
    return int(stats["latencyStats"]["reads"]["ops"])


async def test_a_wrong_secret_costs_as_many_reads_for_any_client(system: System) -> None:
    """Unknown and known clients cost the same number of reads, by MongoDB's own count, which is exact on any
    machine.
    """
    party = await system.party()
    counted = []
    await reads(system, "clients")
    for asked in (named(party, party.id), named(party, party.id), named(party, "nobody"), named(party, "nobody")):
        before = await reads(system, "clients")
        await is_refused(asked.token({"grant_type": "client_credentials"}), "invalid_client", 401)
        counted.append(await reads(system, "clients") - before - 1)
    assert counted == [1, 1, 1, 1]


@pytest.mark.parametrize("who", ["unknown", "inactive"])
async def test_a_wrong_password_takes_as_long_for_any_user(system: System, who: str) -> None:
    """Row 87: one argon2 in each case, so the time reveals neither the existence nor the state of a user."""
    party, user = await system.party(), await system.user()
    other = "user-000000000000" if who == "unknown" else (await system.user(active=False)).username
    password = "wrong" if who == "unknown" else PASSWORD

    def ask(username: str, password: str) -> Request:
        return lambda: is_refused(party.password(username, password), "invalid_grant", 400)

    assert await differs(ask(user.username, "wrong"), ask(other, password), 30) == []


@pytest.mark.parametrize("what", ["revoked-refresh-token", "revoked-access-token", "token-of-another-client"])
async def test_revocation_takes_as_long_for_a_token_that_never_existed(system: System, what: str) -> None:
    """The time of a revocation does not reveal whether the value was ever a token (RFC 7009 §2.2: 200 either way)."""
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
async def test_introspection_takes_as_long_for_a_token_that_never_existed(system: System, what: str) -> None:
    """Row 84: the time of an introspection does not reveal it either, whether or not the gateway has cached the
    token.
    """
    party, other = await system.party(), await system.party()
    tokens = await (other if what == "token-of-another-client" else party).tokens()
    value = tokens.refresh if what == "revoked-refresh-token" else tokens.access
    invented = value[:6] + secrets.token_urlsafe(64)[: len(value) - 6]
    assert (await party.revoke(value)).status == 200

    def ask(token: str) -> Request:
        async def request() -> None:
            form = {"token": token}
            response = await system.call("POST", "/oauth/introspect", data=form, headers=party.basic)
            assert (response.status, response.body) == (200, {"active": False})

        return request

    assert await differs(ask(invented), ask(value), 150) == []


def test_the_statistic_detects_differences() -> None:
    """The statistic is one half for equal times, and 0 or 1 for separate ones."""
    assert superiority([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 0.5
    assert superiority([1.0, 2.0], [3.0, 4.0]) == 1.0
    assert superiority([3.0, 4.0], [1.0, 2.0]) == 0.0
