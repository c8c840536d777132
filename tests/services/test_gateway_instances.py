"""Two gateways over RabbitMQ: what one instance changes, the other knows within a second; cut off, within its time."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import pytest

from contracts.clients import ClientDeletion
from contracts.policies import Policy
from libs.bus.rabbit import RabbitBus
from tests.builders import make_policy, settle
from tests.eventually import eventually
from tests.provision.rabbitmq import Broker
from tests.services.system import Clock, Party, System, Tokens, auth_token, open_system
from tests.wire import Wire, wire

KNOWN_WITHIN = 1.0
"""Seconds, with the bus up (issue 4, items 2 and 5)."""
TTL = 2.0


@dataclass(frozen=True)
class Instances:
    """Of every service; the way of all but the first to RabbitMQ is in the test's hands."""

    one: System
    two: System
    trusting: System
    """It would trust what it has for a long time."""
    wire: Wire


@pytest.fixture(scope="module", name="instances")
async def _instances(mongodb_url: str, rabbitmq: Broker) -> AsyncIterator[Instances]:
    url, clock = rabbitmq.new_vhost(), Clock()
    parts = urlsplit(url)
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(wire(parts.port or 5672))
        through = parts._replace(netloc=f"guest:guest@127.0.0.1:{line.port}").geturl()
        database = f"tokenwire_test_gateways_{clock().timestamp():.0f}"

        async def instance(name: str, at: str, ttl: float) -> System:
            bus = RabbitBus(at, instance_name=name)
            return await stack.enter_async_context(open_system(mongodb_url, database, bus, clock, cache_ttl=ttl))

        one, two = await instance("one", url, TTL), await instance("two", through, TTL)
        yield Instances(one, two, await instance("trusting", through, 300), line)


@dataclass(frozen=True)
class Scene:
    """A client under a policy, its tokens, and an Auth Token API that the policy opens too."""

    party: Party
    policy: Policy
    tokens: Tokens
    accepting: Party


async def scene(instances: Instances) -> Scene:
    """With tokens that both gateways have admitted on both APIs."""
    issuing, accepting = await instances.one.party(), await instances.one.party(auth_token())
    policy = await make_policy(instances.one.deps, issuing.api.api_id, accepting.api.api_id)
    party = await instances.one.client_of(issuing.api, policy_ids=(policy.policy_id,))
    tokens = await party.tokens()
    for system in (instances.one, instances.two):
        for asked in (party, accepting):
            assert (await replace(asked, system=system).verify(tokens.access)).status == 200
    return Scene(party, policy, tokens, accepting)


async def revoked(scene: Scene) -> None:
    """By the client."""
    await scene.party.revoke(scene.tokens.access)


async def refreshed_away(scene: Scene) -> None:
    """By its own refresh token."""
    await scene.party.refreshed(scene.tokens.refresh)


async def all_revoked(scene: Scene) -> None:
    """By the operator."""
    system = scene.party.system
    system.clock.advance(0.001)
    assert (await system.operator("POST", f"/api/apis/oauth/{scene.party.id}/revoke_all")).status == 200


async def client_deleted(scene: Scene) -> None:
    """With all its grants, on every API that took its tokens."""
    deps = scene.party.system.deps
    client = await deps.store.clients.get(scene.party.id)
    assert client is not None
    assert await deps.store.clients.delete(client, ClientDeletion.CLIENT_DELETED, deps.origin("tests"))


async def policy_edited(scene: Scene) -> None:
    """It grants nothing any more."""
    deps = scene.party.system.deps
    edited = scene.policy.model_copy(update={"access_rights": {}})
    assert await deps.store.policies.replace(scene.policy, edited, deps.origin("tests"))


ENDS = [revoked, refreshed_away, all_revoked, client_deleted, policy_edited]


def refused_by(system: System, scene: Scene) -> Callable[[], Awaitable[bool]]:
    """Whether this instance refuses the token on both APIs."""

    async def refused() -> bool:
        parties = [replace(party, system=system) for party in (scene.party, scene.accepting)]
        return all([(await party.verify(scene.tokens.access)).status == 403 for party in parties])

    return refused


@pytest.mark.parametrize("end", ENDS)
async def test_what_ends_on_one_instance_ends_on_the_other_within_a_second(
    instances: Instances, end: Callable[[Scene], Awaitable[None]]
) -> None:
    """Refused everywhere; where it was done, at once."""
    played = await scene(instances)
    await end(played)
    assert await refused_by(instances.one, played)()
    await eventually(refused_by(instances.two, played), within=KNOWN_WITHIN)


async def test_with_the_bus_away_what_ended_is_refused_within_the_time_of_the_setting(instances: Instances) -> None:
    """The instance that hears nothing trusts what it has for TTL seconds and no longer."""
    played = [await scene(instances) for _ in ENDS]
    await instances.wire.cut()
    try:
        for end, each in zip(ENDS, played, strict=True):
            await end(each)
        for each in played:
            await eventually(refused_by(instances.two, each), within=TTL + 1)
    finally:
        await instances.wire.mend()
    await eventually(lambda: settled(instances.two))


async def test_an_instance_that_is_back_serves_nothing_from_before_the_gap(instances: Instances) -> None:
    """Once it is connected again, what it kept counts no more, though its time is not over."""
    played = [await scene(instances) for _ in ENDS]
    for each in played:
        assert not await refused_by(instances.trusting, each)()
    await instances.wire.cut()
    for end, each in zip(ENDS, played, strict=True):
        await end(each)
    assert not await refused_by(instances.trusting, played[0])(), "it has not heard of it"
    await settle(instances.one.deps)
    await instances.wire.mend()
    await eventually(lambda: settled(instances.trusting))
    for each in played:
        assert await refused_by(instances.trusting, each)()


async def settled(system: System) -> bool:
    """Whether the instance is connected, and every subscription has its consumer."""
    assert (await system.call("GET", "/readyz")).status == 200
    return True
