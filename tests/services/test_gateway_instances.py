"""Two gateways over RabbitMQ: a change at one is applied by the other within a second, connected or not."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import pytest

from contracts.clients import ClientDeletion
from contracts.grants import Grant
from contracts.policies import Policy
from libs.bus.port import SILENT_AFTER, BusUnavailable
from libs.bus.rabbit import RabbitBus
from tests.builders import make_policy, settle
from tests.eventually import eventually
from tests.provision.rabbitmq import Broker
from tests.services.system import Clock, Party, System, Tokens, auth_token, open_system
from tests.wire import Wire, wire

KNOWN_WITHIN = 30.0
"""In seconds; far less than TTL, so that it was the bus, or its silence, that told the gateway."""
TTL = 300.0
"""Far longer than a test, so that entries do not expire by themselves."""


@dataclass(frozen=True)
class Instances:
    """Two instances of every service; the test controls the connection to RabbitMQ of all but the first."""

    one: System
    two: System
    wire: Wire


@pytest.fixture(scope="module", name="instances")
async def _instances(mongodb_url: str, rabbitmq: Broker) -> AsyncIterator[Instances]:
    url, clock = rabbitmq.new_vhost(), Clock()
    parts = urlsplit(url)
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(wire(parts.port or 5672))
        through = parts._replace(netloc=f"guest:guest@127.0.0.1:{line.port}").geturl()
        database = f"tokenwire_test_gateways_{clock().timestamp():.0f}"

        async def instance(name: str, at: str) -> System:
            bus = RabbitBus(at, instance_name=name)
            return await stack.enter_async_context(open_system(mongodb_url, database, bus, clock, cache_ttl=TTL))

        yield Instances(await instance("one", url), await instance("two", through), line)


@dataclass(frozen=True)
class Scene:
    """A client under a policy, its tokens, and an Auth Token API that the policy also grants."""

    party: Party
    policy: Policy
    tokens: Tokens
    accepting: Party


async def scene(instances: Instances) -> Scene:
    """Tokens that both gateways have cached for both APIs."""
    issuing, accepting = await instances.one.party(), await instances.one.party(auth_token())
    policy = await make_policy(instances.one.deps, issuing.api.api_id, accepting.api.api_id)
    party = await instances.one.client_of(issuing.api, policy_ids=(policy.policy_id,))
    tokens = await party.tokens()
    for system in (instances.one, instances.two):
        for asked in (party, accepting):
            assert (await replace(asked, system=system).verify(tokens.access)).status == 200
    return Scene(party, policy, tokens, accepting)


async def revoked(scene: Scene) -> None:
    """The client revokes it."""
    await scene.party.revoke(scene.tokens.access)


async def refreshed_away(scene: Scene) -> None:
    """The client refreshes it."""
    await scene.party.refreshed(scene.tokens.refresh)


async def all_revoked(scene: Scene) -> None:
    """The operator revokes all."""
    system = scene.party.system
    system.clock.advance(0.001)
    assert (await system.operator("POST", f"/api/apis/oauth/{scene.party.id}/revoke_all")).status == 200


async def client_deleted(scene: Scene) -> None:
    """The client is deleted, with its grants on every API."""
    deps = scene.party.system.deps
    client = await deps.store.clients.get(scene.party.id)
    assert client is not None
    assert await deps.store.clients.delete(client, ClientDeletion.CLIENT_DELETED, deps.event_context("tests"))


async def policy_edited(scene: Scene) -> None:
    """The policy no longer grants anything."""
    deps = scene.party.system.deps
    edited = scene.policy.model_copy(update={"access_rights": {}})
    assert await deps.store.policies.replace(scene.policy, edited, deps.event_context("tests"))


ENDS = [revoked, refreshed_away, all_revoked, client_deleted, policy_edited]


def refused_by(system: System, scene: Scene) -> Callable[[], Awaitable[bool]]:
    """Whether this instance refuses the token on both APIs."""

    async def refused() -> bool:
        parties = [replace(party, system=system) for party in (scene.party, scene.accepting)]
        return all([(await party.verify(scene.tokens.access)).status == 403 for party in parties])

    return refused


@pytest.mark.parametrize("end", ENDS)
async def test_a_change_at_one_instance_reaches_the_other_by_the_bus(
    instances: Instances, end: Callable[[Scene], Awaitable[None]]
) -> None:
    """The other gateway refuses when the bus tells it; the one at which it was done, at once."""
    played = await scene(instances)
    await end(played)
    assert await refused_by(instances.one, played)()
    await eventually(refused_by(instances.two, played), within=KNOWN_WITHIN)


@pytest.mark.parametrize("deed", [Wire.cut, Wire.stall], ids=["away", "stalled"])
@pytest.mark.parametrize("end", ENDS)
async def test_b7_revoked_tokens_are_refused_within_a_second_without_the_bus(
    instances: Instances, end: Callable[[Scene], Awaitable[None]], deed: Callable[[Wire], Awaitable[None]]
) -> None:
    """Without the bus (closed or stalled) an instance trusts its cache for less than a second."""
    played = await scene(instances)
    await deed(instances.wire)
    try:
        await end(played)
        await eventually(refused_by(instances.two, played), within=KNOWN_WITHIN)
    finally:
        await instances.wire.mend()
    await eventually(lambda: settled(instances.two))


async def test_b7_with_the_bus_there_memory_is_trusted(instances: Instances, monkeypatch: pytest.MonkeyPatch) -> None:
    """While heartbeats arrive, cached entries are not read again, even without other messages."""
    played = await scene(instances)
    grants, reads = instances.two.deps.store.grants, list[str]()
    read = grants.read

    async def counted(grant_id: str) -> Grant | None:
        reads.append(grant_id)
        return await read(grant_id)

    monkeypatch.setattr(grants, "read", counted)
    deadline = time.monotonic() + 3 * SILENT_AFTER
    while time.monotonic() < deadline:
        assert (await replace(played.party, system=instances.two).verify(played.tokens.access)).status == 200
        await asyncio.sleep(0.1)
    assert reads == []


async def test_an_instance_that_is_back_serves_nothing_from_before_the_gap(instances: Instances) -> None:
    """After reconnecting, entries cached before the gap are not used."""
    played = [await scene(instances) for _ in ENDS]
    await instances.wire.cut()
    for end, each in zip(ENDS, played, strict=True):
        await end(each)
    await settle(instances.one.deps)
    await instances.wire.mend()
    await eventually(lambda: settled(instances.two))
    for each in played:
        assert await refused_by(instances.two, each)()


async def settled(system: System) -> bool:
    """Whether the instance is connected and all its consumers are running."""
    try:
        await system.deps.bus.ping()
    except BusUnavailable:
        return False
    return True
