"""The grants that a gateway keeps in memory: a hit costs nothing, and what ended is never served from them."""

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest

from contracts.grants import Grant
from libs.bus.local import LocalBroker, LocalBus
from libs.oauth.tokens import TokenCodec, TokenKind, new_grant_id
from libs.store.grants import Grants
from services.gateway.decision import AccessDecision, Admitted
from services.gateway.limits import Limiter
from services.gateway.presented import Call
from services.gateway.refusals import UNKNOWN_TOKEN, Denial
from services.gateway.rights import Rights
from services.gateway.settings import OnFailure
from services.gateway.token_grants import TokenGrants
from services.gateway.usage import UsageCounter
from tests.builders import make_policy, settle
from tests.eventually import eventually
from tests.services.system import Party, System, open_system


class Seconds:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class GatedGrants(Grants):
    """Grants whose reads, once made, wait for the test before they are answered."""

    def __init__(self, inner: Grants) -> None:
        self._inner = inner
        self.made = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.reads = 0

    async def read(self, grant_id: str) -> Grant | None:
        found = await self._inner.read(grant_id)
        self.reads += 1
        self.made.set()
        await self.open.wait()
        return found


class Held:
    """The kept grants of a system, apart from its own gateway."""

    def __init__(self, system: System, ttl: float = 5.0, size: int = 100) -> None:
        self.system = system
        self.clock = Seconds()
        self.grants = GatedGrants(system.deps.store.grants)
        self.tokens = TokenGrants(self.grants, system.deps.codec, ttl, size, self.clock)
        deps = system.deps
        limiter, usage = Limiter(deps.store.counters, OnFailure.ALLOW), UsageCounter(deps.store.usage, deps.now)
        self.decision = AccessDecision(deps.catalog, self.tokens, Rights(deps.catalog), limiter, usage, deps.now)
        deps.changes.append(self.tokens.changed)

    def at_once(self, party: Party, token: str) -> Admitted | Denial | None:
        """The decision, if it comes without waiting for anything; else None."""
        headers = {"Authorization": f"Bearer {token}"}
        deciding = self.decision.decide(Call("GET", party.at("x"), "", headers, dict))
        try:
            deciding.send(None)
        except StopIteration as decided:
            return decided.value  # type: ignore[no-any-return]
        deciding.close()
        return None

    async def decided(self, party: Party, token: str) -> Admitted | Denial:
        """The decision, waited for."""
        headers = {"Authorization": f"Bearer {token}"}
        return await self.decision.decide(Call("GET", party.at("x"), "", headers, dict))


@pytest.fixture(name="held")
async def _held(system: System) -> AsyncIterator[Held]:
    held = Held(system)
    yield held
    system.deps.changes.remove(held.tokens.changed)


async def test_a_hit_waits_for_nothing(system: System, held: Held) -> None:
    """No database and no network, with a policy applied."""
    issuing = await system.party()
    policy = await make_policy(system.deps, issuing.api.api_id)
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
    token = (await party.tokens()).access
    assert held.at_once(party, token) is None
    assert isinstance(await held.decided(party, token), Admitted)
    reads = held.grants.reads
    assert isinstance(held.at_once(party, token), Admitted)
    assert held.grants.reads == reads


async def test_a_forged_token_costs_no_read(system: System, held: Held) -> None:
    """Its tag gives it away; so it is with what is no token at all."""
    party = await system.party()
    real = (await party.tokens()).access
    await held.decided(party, real)
    reads = held.grants.reads
    stranger = TokenCodec({1: b"another server's key, 32 bytes.."}, 1, lambda size: bytes(size))
    for forged in (real[:-1] + ("A" if real[-1] != "A" else "B"), "tw_at_x", "x" * 500):
        assert held.at_once(party, forged) is UNKNOWN_TOKEN
    minted = stranger.mint(TokenKind.ACCESS, new_grant_id(bytes(16)), 1).value
    assert held.at_once(party, minted) is UNKNOWN_TOKEN
    assert held.grants.reads == reads


@pytest.mark.parametrize("end", ["revoke", "refresh", "revoke_all", "replay"])
async def test_what_ended_is_refused_at_the_next_call(system: System, held: Held, end: str) -> None:
    """However it ended; the process that ended it knows before it answers."""
    party = await system.party()
    code = await party.code()
    first = (await party.exchange(code)).body
    token = first["access_token"]
    assert isinstance(await held.decided(party, token), Admitted)
    if end == "revoke":
        await party.revoke(token)
    elif end == "refresh":
        await party.refreshed(first["refresh_token"])
    elif end == "revoke_all":
        system.clock.advance(0.001)
        assert (await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke_all")).status == 200
    else:
        system.clock.advance(3)
        await party.exchange(code)
    assert await held.decided(party, token) is UNKNOWN_TOKEN


async def test_a_read_under_way_does_not_bring_back_what_ended_meanwhile(system: System, held: Held) -> None:
    """The read saw the token alive, the revocation came before it was answered: it is not kept."""
    party = await system.party()
    token = (await party.tokens()).access
    held.grants.open.clear()
    deciding = asyncio.create_task(held.decided(party, token))
    await held.grants.made.wait()
    await party.revoke(token)
    held.grants.open.set()
    await deciding
    assert await held.decided(party, token) is UNKNOWN_TOKEN


async def test_after_a_gap_nothing_is_trusted(system: System, held: Held) -> None:
    """Neither what was kept, nor what is being read while the gap is told of."""
    party = await system.party()
    token, other = (await party.tokens()).access, (await party.tokens()).access
    await held.decided(party, token)
    held.grants.made.clear()
    held.grants.open.clear()
    deciding = asyncio.create_task(held.decided(party, other))
    await held.grants.made.wait()
    on_gap = held.tokens.subscription().on_gap
    assert on_gap is not None
    on_gap()
    held.grants.open.set()
    await deciding
    assert held.at_once(party, token) is None
    assert held.at_once(party, other) is None


async def test_without_the_bus_an_entry_is_trusted_for_its_time_only(system: System) -> None:
    """Five seconds, or what the setting says; then it is read again."""
    held = Held(system, ttl=5)
    system.deps.changes.remove(held.tokens.changed)  # deaf from here on
    party = await system.party()
    token = (await party.tokens()).access
    await held.decided(party, token)
    await party.revoke(token)
    held.clock.now += 4.9
    assert isinstance(await held.decided(party, token), Admitted)
    held.clock.now += 0.2
    assert await held.decided(party, token) is UNKNOWN_TOKEN


async def test_an_older_token_of_a_grant_that_is_kept_costs_no_read(system: System, held: Held) -> None:
    """It was refreshed away: it is dead, and the younger one stays."""
    party = await system.party()
    tokens = await party.tokens()
    later = await party.refreshed(tokens.refresh)
    assert isinstance(await held.decided(party, later.access), Admitted)
    reads = held.grants.reads
    assert held.at_once(party, tokens.access) is UNKNOWN_TOKEN
    assert isinstance(held.at_once(party, later.access), Admitted)
    assert held.grants.reads == reads


async def test_what_is_dead_is_remembered(system: System, held: Held) -> None:
    """A revoked token that is tried again and again is read once."""
    party = await system.party()
    token = (await party.tokens()).access
    await party.revoke(token)
    await settle(system.deps)
    assert await held.decided(party, token) is UNKNOWN_TOKEN
    assert held.at_once(party, token) is UNKNOWN_TOKEN


async def test_no_more_are_kept_than_there_is_room_for(system: System) -> None:
    """The one that was asked for least recently goes."""
    held = Held(system, size=3)
    party = await system.party()
    tokens = [(await party.tokens()).access for _ in range(4)]
    for token in tokens[:3]:
        await held.decided(party, token)
    held.at_once(party, tokens[0])
    await held.decided(party, tokens[3])
    kept = [held.at_once(party, token) is not None for token in tokens]
    assert kept == [True, False, True, True]
    system.deps.changes.remove(held.tokens.changed)


class MadeGrants(Grants):
    """Grants like one that there is, made anew for each read as MongoDB's answer would be."""

    def __init__(self, like: Grant, digests: dict[str, bytes]) -> None:
        self._like = like.model_dump_json(exclude={"access", "code", "refresh"})
        self._access = like.model_dump(include={"access"})["access"]
        self._digests = digests

    async def read(self, grant_id: str) -> Grant | None:
        access = {**self._access, "digest": self._digests[grant_id]}
        return Grant.model_validate({**orjson.loads(self._like), "grant_id": grant_id, "access": access})


async def test_a_token_takes_no_more_than_a_kilobyte(system: System) -> None:
    """As the interpreter counts, with a user and a scope of usual length."""
    number, codec = 2000, system.deps.codec
    party = await system.party()
    tokens = await party.tokens(subject="somebody@example.test", scope="orders:read orders:write")
    ids = [new_grant_id(index.to_bytes(16, "big")) for index in range(number)]
    minted = {grant_id: codec.mint(TokenKind.ACCESS, grant_id, 1) for grant_id in ids}
    grants = MadeGrants(
        await system.grant_of(tokens.access), {grant_id: value.digest for grant_id, value in minted.items()}
    )
    kept = TokenGrants(grants, codec, 5, number)
    gc.collect()
    tracemalloc.start()
    try:
        for value in minted.values():
            assert await kept.read("".join(value.value)) is not None
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / number <= 1024 - sys.getsizeof(tokens.access), "the token's own text is the request's, and is kept"


async def test_two_instances_know_within_moments(mongodb_url: str, database_name: str) -> None:
    """What one ends, the other refuses as soon as the bus has told it."""
    broker = LocalBroker()
    async with (
        open_system(mongodb_url, database_name, LocalBus(broker)) as one,
        open_system(mongodb_url, database_name, LocalBus(broker)) as two,
    ):
        party = await one.party()
        token = (await party.tokens()).access
        elsewhere = replace(party, system=two)
        assert (await elsewhere.verify(token)).status == 200
        await party.revoke(token)

        async def refused() -> bool:
            return (await elsewhere.verify(token)).status == 403

        await eventually(refused)
