"""The gateway's cache of grants: a hit costs nothing, and a revoked grant is never served from it."""

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions
from multidict import CIMultiDict

from contracts.grants import Grant
from libs.bus.local import LocalBroker, LocalBus
from libs.oauth.token_formats import OpaqueTokens, TokenKind, new_grant_id
from libs.store.grants import Grants
from services.gateway.access_rights import Rights
from services.gateway.calls import Call
from services.gateway.decision import AccessDecision, Admitted
from services.gateway.guards.chain import GuardChain
from services.gateway.rate_limiter import RateLimiter
from services.gateway.refusal_counter import RefusalCounter
from services.gateway.refusals import UNKNOWN_TOKEN, Denial
from services.gateway.settings import OnFailure
from services.gateway.token_grants import TokenGrants
from services.gateway.usage_counter import UsageCounter
from tests.builders import make_policy, settle
from tests.eventually import eventually
from tests.services.system import Party, System, open_system
from tests.services.test_declared_scopes import declaring


class Seconds:
    """A monotonic clock that a test controls."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class GatedGrants(Grants):
    """Grants whose reads wait for the test before they return."""

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
    """The grant cache of a system, apart from its gateway."""

    def __init__(self, system: System, ttl: float = 5.0, size: int = 100) -> None:
        self.system = system
        self.clock = Seconds()
        self.grants = GatedGrants(system.deps.store.grants)
        self.tokens = TokenGrants(self.grants, system.deps.token_format, ttl, size, self.clock)
        deps = system.deps
        limiter, usage = RateLimiter(deps.store.counters, OnFailure.ALLOW), UsageCounter(deps.store.usage, deps.now)
        refusals = RefusalCounter(deps.store.refused_calls, deps.now)
        rights, guards = Rights(deps.catalog), GuardChain(limiter, deps.now)
        self.decision = AccessDecision(deps.catalog, self.tokens, rights, limiter, usage, refusals, deps.now, guards)
        deps.changes.append(self.tokens.changed)

    def at_once(self, party: Party, token: str) -> Admitted | Denial | None:
        """The decision if it needs no waiting; else None."""
        headers = {"Authorization": f"Bearer {token}"}
        deciding = self.decision.decide(Call("GET", party.at("x"), "", CIMultiDict(headers)))
        try:
            deciding.send(None)
        except StopIteration as decided:
            return decided.value  # type: ignore[no-any-return]
        deciding.close()
        return None

    async def decided(self, party: Party, token: str) -> Admitted | Denial:
        """The decision, awaited."""
        headers = {"Authorization": f"Bearer {token}"}
        return await self.decision.decide(Call("GET", party.at("x"), "", CIMultiDict(headers)))


@pytest.fixture(name="held")
async def _held(system: System) -> AsyncIterator[Held]:
    held = Held(system)
    yield held
    system.deps.changes.remove(held.tokens.changed)


async def test_a_hit_waits_for_nothing(system: System, held: Held) -> None:
    """A hit needs neither database nor network, even with a policy applied."""
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
    """A forged token or other text costs no read, because its tag is wrong."""
    party = await system.party()
    real = (await party.tokens()).access
    await held.decided(party, real)
    reads = held.grants.reads
    outsider = OpaqueTokens({1: b"another server's key, 32 bytes.."}, 1, lambda size: bytes(size))
    for forged in (real[:-1] + ("A" if real[-1] != "A" else "B"), "tw_at_x", "x" * 500):
        assert held.at_once(party, forged) is UNKNOWN_TOKEN
    minted = outsider.mint(TokenKind.ACCESS, new_grant_id(bytes(16)), 1).value
    assert held.at_once(party, minted) is UNKNOWN_TOKEN
    assert held.grants.reads == reads


@pytest.mark.parametrize("end", ["revoke", "refresh", "revoke_all", "replay"])
async def test_an_ended_token_is_refused_at_the_next_call(system: System, held: Held, end: str) -> None:
    """The process that revoked a grant refuses it at the next call."""
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


async def test_a_pending_read_does_not_cache_a_revoked_grant(system: System, held: Held) -> None:
    """A read that saw the token alive before a revocation is not cached."""
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
    """After a gap in the bus neither entries nor reads in progress are trusted."""
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


@pytest.mark.parametrize(("heard", "trusted"), [(True, 5.0), (False, 0.9)], ids=["heard", "b7-silent"])
async def test_an_entry_is_trusted_for_its_time_only(system: System, heard: bool, trusted: float) -> None:
    """An entry is trusted for five seconds or as set, and under one second while the bus is silent; then it is read
    again.
    """
    held = Held(system, ttl=5)
    pulse = held.tokens.subscription().pulse
    assert pulse is not None
    system.deps.changes.remove(held.tokens.changed)  # receives no changes from here on
    party = await system.party()
    token = (await party.tokens()).access
    await held.decided(party, token)
    await party.revoke(token)
    held.clock.now += trusted - 0.1
    if heard:
        pulse.heard()
    assert isinstance(await held.decided(party, token), Admitted)
    held.clock.now += 0.2
    assert await held.decided(party, token) is UNKNOWN_TOKEN


async def test_an_older_token_of_a_grant_that_is_kept_costs_no_read(system: System, held: Held) -> None:
    """An older token of a cached grant is refused without a read; the newer one stays."""
    party = await system.party()
    tokens = await party.tokens()
    later = await party.refreshed(tokens.refresh)
    assert isinstance(await held.decided(party, later.access), Admitted)
    reads = held.grants.reads
    assert held.at_once(party, tokens.access) is UNKNOWN_TOKEN
    assert isinstance(held.at_once(party, later.access), Admitted)
    assert held.grants.reads == reads


async def test_a_revoked_token_is_cached(system: System, held: Held) -> None:
    """A revoked token that is tried repeatedly is read once."""
    party = await system.party()
    token = (await party.tokens()).access
    await party.revoke(token)
    await settle(system.deps)
    assert await held.decided(party, token) is UNKNOWN_TOKEN
    assert held.at_once(party, token) is UNKNOWN_TOKEN


async def test_no_more_are_kept_than_there_is_room_for(system: System) -> None:
    """When the cache is full, the least recently used entry is dropped."""
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
    """Copies of an existing grant, created for each read as from MongoDB."""

    def __init__(self, like: Grant, digests: dict[str, bytes]) -> None:
        self._like = bson.encode(like.model_dump())
        self._digests = digests

    async def read(self, grant_id: str) -> Grant | None:
        document: dict[str, Any] = bson.decode(self._like, CodecOptions(tz_aware=True))
        document["grant_id"] = grant_id
        document["access"]["digest"] = self._digests[grant_id]
        return Grant.model_validate(document)


async def test_a_token_takes_no_more_than_a_kilobyte(system: System) -> None:
    """A cached token takes at most a kilobyte with a user and scope of usual length."""
    number, token_format = 2000, system.deps.token_format
    party = await system.party(declaring("orders:read", "orders:write"))
    tokens = await party.tokens(subject="somebody@example.test", scope="orders:read orders:write")
    ids = [new_grant_id(index.to_bytes(16, "big")) for index in range(number)]
    minted = {grant_id: token_format.mint(TokenKind.ACCESS, grant_id, 1) for grant_id in ids}
    grants = MadeGrants(
        await system.grant_of(tokens.access), {grant_id: value.digest for grant_id, value in minted.items()}
    )
    kept = TokenGrants(grants, token_format, 5, number)
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
    """What one instance revokes, the other refuses when the bus has told it."""
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
