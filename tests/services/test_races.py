"""Races between two instances with separate connections and caches, on one MongoDB and one RabbitMQ."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import pytest

from contracts.grants import GrantState, RevocationReason
from libs.bus.rabbit import RabbitBus
from tests.builders import Response, settle
from tests.eventually import eventually
from tests.provision.rabbitmq import Broker
from tests.services.system import (
    CHALLENGE,
    Clock,
    Party,
    System,
    document,
    open_system,
    refused,
    tokens_of,
)

N = 32
ROUNDS = range(4)


@dataclass(frozen=True)
class Pair:
    """Two instances of every service with one clock."""

    one: System
    two: System

    def asked_by_turns(self, party: Party, times: int = N) -> list[Party]:
        """The client, alternating between the instances."""
        return [
            system.knows(party) for system, _ in zip(itertools.cycle((self.one, self.two)), range(times), strict=False)
        ]

    async def nowhere_admitted(self, party: Party, access_token: str) -> bool:
        """Whether both gateways refuse the token, after pending events are handled."""
        await self.settle()
        return all([(await asked.verify(access_token)).status == 403 for asked in self.asked_by_turns(party, 2)])

    async def settle(self) -> None:
        """Wait until everything announced has been handled."""
        for system in (self.one, self.two, self.one):
            await settle(system.deps)


@pytest.fixture(scope="module", name="pair")
async def _pair(mongodb_url: str, rabbitmq: Broker) -> AsyncIterator[Pair]:
    url, clock = rabbitmq.new_vhost(), Clock()
    async with AsyncExitStack() as stack:
        buses = [RabbitBus(url, instance_name=f"instance-{number}") for number in range(2)]
        database = f"tokenwire_test_races_{clock().timestamp():.0f}"
        one, two = [await stack.enter_async_context(open_system(mongodb_url, database, bus, clock)) for bus in buses]
        yield Pair(one, two)


async def at_once(requests: Sequence[Awaitable[Response]]) -> list[Response]:
    """Send these requests concurrently; none may get a 5xx."""
    responses = await asyncio.gather(*requests)
    assert all(response.status < 500 for response in responses), [
        response.body for response in responses if response.status >= 500
    ]
    return responses


async def events_of(pair: Pair, grant_id: str, count: int) -> list[str]:
    """The types of a grant's events by sequence, after this many have arrived."""

    def heard() -> list[str]:
        events = {event["id"]: event for event in pair.one.heard.events if event["subject"] == grant_id}
        ordered = sorted(events.values(), key=lambda event: str(event["sequence"]))
        assert [int(event["sequence"]) for event in ordered] == list(range(1, len(ordered) + 1))
        return [event["type"].removeprefix("io.tokenwire.") for event in ordered]

    await eventually(lambda: len(heard()) >= count)
    await pair.settle()
    return heard()


@pytest.mark.parametrize("round", ROUNDS)
async def test_of_many_exchanges_of_one_code_one_succeeds(pair: Pair, round: int) -> None:
    """Rows 103, 104: exactly one exchange succeeds, the others get `invalid_grant`, and the tokens stay valid."""
    party = await pair.one.party(public=round % 2 == 1)
    code = await party.code()
    responses = await at_once([asked.exchange(code) for asked in pair.asked_by_turns(party)])
    winners = [response for response in responses if response.status == 200]
    assert len(winners) == 1
    assert all(refused(response, "invalid_grant") for response in responses if response.status != 200)
    tokens = tokens_of(winners[0])
    for asked in pair.asked_by_turns(party, 2):
        assert (await asked.verify(tokens.access)).status == 200
    grant = await pair.two.grant_of(code)
    assert (grant.state, grant.generation) == (GrantState.ACTIVE, 1)
    assert await events_of(pair, grant.grant_id, 2) == ["code.issued", "token.new"]


@pytest.mark.parametrize("round", ROUNDS)
async def test_many_refreshes_get_one_successor(pair: Pair, round: int) -> None:
    """Row 106: with recovery all refreshes return the same pair, of one new generation."""
    party = await pair.one.party()
    first = await party.tokens()
    responses = await at_once([asked.refresh(first.refresh) for asked in pair.asked_by_turns(party)])
    pairs = {(response.body["access_token"], response.body["refresh_token"]) for response in responses}
    assert [response.status for response in responses] == [200] * N
    assert len(pairs) == 1
    grant = await pair.two.grant_of(first.access)
    assert (grant.generation, grant.state) == (2, GrantState.ACTIVE)
    access, refresh = pairs.pop()
    assert await pair.nowhere_admitted(party, first.access)
    assert (await pair.two.knows(party).verify(access)).status == 200
    assert (await pair.two.knows(party).refresh(refresh)).status == 200
    expected = ["code.issued", "token.new", "token.refresh", "token.refresh"]
    assert await events_of(pair, grant.grant_id, 4) == expected


@pytest.mark.parametrize("round", ROUNDS)
async def test_of_many_strict_refreshes_one_succeeds(pair: Pair, round: int) -> None:
    """Row 105: exactly one succeeds; the others are reuse, so the grant is revoked, once."""
    party = await pair.one.party(document(refreshReuse="strict"))
    first = await party.tokens()
    responses = await at_once([asked.refresh(first.refresh) for asked in pair.asked_by_turns(party)])
    winners = [response for response in responses if response.status == 200]
    assert len(winners) == 1
    assert all(refused(response, "invalid_grant") for response in responses if response.status != 200)
    assert await pair.nowhere_admitted(party, tokens_of(winners[0]).access)
    grant = await pair.one.grant_of(first.access)
    assert (grant.state, grant.ended_reason, grant.generation) == (
        GrantState.REVOKED,
        RevocationReason.REFRESH_REUSE,
        2,
    )
    expected = ["code.issued", "token.new", "token.refresh", "grant.revoked"]
    assert await events_of(pair, grant.grant_id, 4) == expected


async def test_refresh_and_revocation_leave_no_valid_token(pair: Pair) -> None:
    """Row 107: after a concurrent refresh and revocation no token of the grant works."""
    party = await pair.one.party()
    here, there = pair.one.knows(party), pair.two.knows(party)
    for _ in range(20):
        tokens = await party.tokens()
        refreshed, revoked = await at_once([here.refresh(tokens.refresh), there.revoke(tokens.refresh)])
        assert revoked.status == 200
        known = [tokens] + ([tokens_of(refreshed)] if refreshed.status == 200 else [])
        for pair_of_tokens in known:
            assert await pair.nowhere_admitted(party, pair_of_tokens.access)
            assert refused(await here.refresh(pair_of_tokens.refresh), "invalid_grant")
        assert (await pair.one.grant_of(tokens.access)).state is GrantState.REVOKED


async def test_refresh_and_revocation_of_the_access_token_end_the_old_one(pair: Pair) -> None:
    """After a concurrent refresh and revocation of the access token, that token is refused; its successor works."""
    party = await pair.one.party()
    here, there = pair.one.knows(party), pair.two.knows(party)
    for _ in range(10):
        tokens = await party.tokens()
        refreshed, revoked = await at_once([here.refresh(tokens.refresh), there.revoke(tokens.access)])
        assert (refreshed.status, revoked.status) == (200, 200)
        assert await pair.nowhere_admitted(party, tokens.access)
        assert (await there.verify(tokens_of(refreshed).access)).status == 200


async def test_an_old_token_and_the_newest_at_once_end_the_grant(pair: Pair) -> None:
    """Row 109: reuse is found in either order, and there are never two live token families."""
    party = await pair.one.party()
    here, there = pair.one.knows(party), pair.two.knows(party)
    for _ in range(10):
        first = await party.tokens()
        newest = await party.refreshed((await party.refreshed(first.refresh)).refresh)
        old, new = await at_once([here.refresh(first.refresh), there.refresh(newest.refresh)])
        assert refused(old, "invalid_grant")
        for access in [newest.access, *([tokens_of(new).access] if new.status == 200 else [])]:
            assert await pair.nowhere_admitted(party, access)
        assert (await pair.one.grant_of(first.access)).ended_reason is RevocationReason.REFRESH_REUSE


@pytest.mark.parametrize("how", ["deletion", "revoke_all"])
async def test_exchanges_during_a_client_s_deletion_leave_no_valid_token(pair: Pair, how: str) -> None:
    """Row 108: an exchange at an instance that has not heard of the deletion may succeed; the reaction revokes it."""
    party = await pair.one.party()
    codes = [await party.code() for _ in range(N)]
    # Both instances have cached the client.
    for asked in pair.asked_by_turns(party, 2):
        assert (await asked.exchange("tw_ac_x")).status == 400
    path = (
        f"/api/apis/oauth/{party.api.api_id}/{party.id}"
        if how == "deletion"
        else f"/api/apis/oauth/{party.id}/revoke_all"
    )
    end = pair.one.operator("DELETE" if how == "deletion" else "POST", path)
    exchanges = [asked.exchange(code) for asked, code in zip(pair.asked_by_turns(party), codes, strict=True)]
    ended, *responses = await at_once([*exchanges[: N // 2], end, *exchanges[N // 2 :]][::-1])
    issued = [tokens_of(response).access for response in [ended, *responses] if "access_token" in response.body]

    async def all_ended() -> bool:
        states = [(await pair.one.grant_of(code)).state for code in codes]
        return states == [GrantState.REVOKED] * N

    await eventually(all_ended)
    await pair.settle()
    assert all([await pair.nowhere_admitted(party, token) for token in issued])


async def test_a_revocation_reaches_other_instances_before_a_cache_expires(pair: Pair) -> None:
    """Row 113: refused at once where it was revoked; at gateways with a cached grant when the bus tells them."""
    party = await pair.one.party()
    here, there = pair.one.knows(party), pair.two.knows(party)
    for _ in range(10):
        tokens = await here.tokens()
        assert (await there.verify(tokens.access)).status == 200
        assert (await here.revoke(tokens.access)).status == 200
        assert (await here.verify(tokens.access)).status == 403
        await eventually(partial(pair.nowhere_admitted, party, tokens.access), within=4)


async def test_wrong_verifiers_at_once_count_each(pair: Pair) -> None:
    """Three concurrent wrong verifiers revoke the code, without a success or 5xx."""
    party = await pair.one.party(public=True)
    code = await party.code()
    wrong = [asked.exchange(code, code_verifier=CHALLENGE) for asked in pair.asked_by_turns(party)]
    assert all(refused(response, "invalid_grant") for response in await at_once(wrong))
    grant = await pair.one.grant_of(code)
    assert grant.code is not None
    assert grant.code.failures == 3
    assert refused(await party.exchange(code), "invalid_grant")


async def test_a_rotation_refuses_neither_secret_during_the_overlap(pair: Pair) -> None:
    """Row 111: from the response to the rotation on, both secrets work at every instance."""
    party = await pair.one.party()
    secrets = [party.secret]
    form = {"grant_type": "client_credentials"}

    async def ask(system: System, secret: str) -> Response:
        return await Party(system, party.api, party.client, secret).token(form)

    for _ in range(5):
        path = f"/api/apis/oauth/{party.api.api_id}/{party.id}/rotate"
        rotation = pair.one.operator("PUT", path, json={"overlap": 600})
        rotated, *responses = await at_once([rotation, *(ask(pair.two, secrets[-1]) for _ in range(8))])
        assert [response.status for response in responses] == [200] * 8
        secrets.append(rotated.body["secret"])
        both = [ask(system, secret) for system in (pair.two, pair.one) for secret in secrets[-2:]]
        assert [response.status for response in await at_once(both)] == [200] * 4


async def test_concurrent_clients_get_their_own_tokens(pair: Pair) -> None:
    """Row 117: requests batched into one database round trip get their own results."""
    parties = [await pair.one.party() for _ in range(16)]
    form = {"grant_type": "client_credentials"}
    asked = [system.knows(party) for party in parties for system in (pair.one, pair.two)] * 2
    responses = await at_once([party.token(form) for party in asked])
    tokens = [tokens_of(response).access for response in responses]
    assert len(set(tokens)) == len(asked)
    verified = await at_once([party.verify(token) for party, token in zip(asked, tokens, strict=True)])
    assert [response.headers["X-Tokenwire-Client-Id"] for response in verified] == [party.id for party in asked]
