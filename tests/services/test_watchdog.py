"""A subscription without a consumer makes /readyz degraded, with its name."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from libs.bus.port import Delivery, Drop, Exchange, Outcome, Subscription
from libs.bus.queue_depth import QueueDepthMetrics
from libs.bus.rabbit import RabbitBus
from libs.bus.rabbit.declarations import ensure
from libs.bus.rabbit.topology import DELIVERY_LIMIT, topology
from libs.telemetry import exposition
from services.revocation.app import create_app
from services.revocation.settings import RevocationSettings
from tests.builders import Caller, Response, running, settings
from tests.conformance.recorder import event
from tests.eventually import eventually
from tests.provision.rabbitmq import Broker

COMES_BACK_WITHIN = 45.0
"""In seconds: three of the longest backoffs, plus time for a busy machine."""
STAYS_SO_FOR = 5.0
"""In seconds: longer than the longest backoff."""


@pytest.fixture
async def channel(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    """A channel with full permissions."""
    connection = await aio_pika.connect(amqp_url)
    async with connection, connection.channel() as channel:
        await ensure(connection, topology(), declare=True)
        yield channel


@asynccontextmanager
async def revocation(mongodb_url: str, database_name: str, amqp_url: str, *, declare: bool) -> AsyncIterator[Caller]:
    """The revocation service on the broker, with the stack's user or without one."""
    configured = settings(RevocationSettings, mongodb_url, database_name, amqp_url=amqp_url, declare_topology=declare)
    async with running(create_app(configured)) as caller:
        yield caller


async def readyz(service: Caller) -> Response:
    return await service("GET", "/readyz")


async def is_degraded(service: Caller) -> bool:
    response = await readyz(service)
    return (response.status, response.body["status"], response.body["bus"]) == (
        200,
        "degraded",
        "no consumer for revocation",
    )


async def is_well(service: Caller) -> bool:
    return bool((await readyz(service)).body["status"] == "ok")


async def test_a_consumer_that_cannot_come_back_is_seen(
    mongodb_url: str, database_name: str, amqp_url: str, channel: AbstractChannel
) -> None:
    """If a queue that the service may not declare is deleted, it is degraded until the queue exists again."""
    async with revocation(mongodb_url, database_name, amqp_url, declare=False) as service:
        await channel.queue_delete("tokenwire.revocation")
        await eventually(lambda: is_degraded(service))
        until = asyncio.get_running_loop().time() + STAYS_SO_FOR
        while asyncio.get_running_loop().time() < until:
            assert await is_degraded(service)
            await asyncio.sleep(0.25)
        assert (await service("GET", "/healthz")).status == 200

        connection = await aio_pika.connect(amqp_url)
        async with connection:
            await ensure(connection, topology(), declare=True)
        await eventually(lambda: is_well(service), COMES_BACK_WITHIN)


async def test_a_consumer_without_rights_is_reported(
    mongodb_url: str, database_name: str, amqp_url: str, channel: AbstractChannel, rabbitmq: Broker
) -> None:
    """If the broker refuses a consumer, the service is degraded until it is allowed again."""
    vhost = urlsplit(amqp_url).path.removeprefix("/")
    name = f"revocation-{vhost}"

    async def allow(read: str) -> None:
        await asyncio.to_thread(rabbitmq.ctl, "set_permissions", "-p", vhost, name, ".*", ".*", read)

    await asyncio.to_thread(rabbitmq.ctl, "add_user", name, "password")
    await allow(".*")
    parts = urlsplit(amqp_url)
    url = parts._replace(netloc=f"{name}:password@{parts.hostname}:{parts.port}").geturl()
    async with revocation(mongodb_url, database_name, url, declare=False) as service:
        await allow(r"^tokenwire\.(broadcast\..*|events|ticks)$")
        await asyncio.to_thread(rabbitmq.ctl, "close_all_connections", "-p", vhost, "for a test")
        await eventually(lambda: is_degraded(service), COMES_BACK_WITHIN)
        await allow(".*")
        await eventually(lambda: is_well(service), COMES_BACK_WITHIN)


async def test_a_consumer_that_was_cancelled_comes_back(
    mongodb_url: str, database_name: str, amqp_url: str, channel: AbstractChannel
) -> None:
    """A service that declares its queues recreates a deleted one and consumes it without a restart."""
    async with revocation(mongodb_url, database_name, amqp_url, declare=True) as service:
        await channel.queue_delete("tokenwire.revocation")

        async def consumed() -> bool:
            found = await channel.declare_queue("tokenwire.revocation", passive=True)
            return found.declaration_result.consumer_count == 1

        async def back() -> bool:
            try:
                return await consumed()
            except aio_pika.exceptions.ChannelClosed:
                await channel.reopen()
                return False

        await eventually(back, COMES_BACK_WITHIN)
        await eventually(lambda: is_well(service), COMES_BACK_WITHIN)


async def test_waiting_messages_and_dead_letters_are_metrics(amqp_url: str) -> None:
    """Each consumed pool has gauges for waiting messages and dead letters; without the broker there are none."""

    async def drop(delivery: Delivery) -> None:
        raise Drop("never")

    bus = RabbitBus(amqp_url, instance_name="levels", delivery_limit=DELIVERY_LIMIT)
    bus.subscribe(Subscription("revocation", Exchange.EVENTS, ("client.deleted.#",), drop))
    await bus.open()
    await eventually(lambda: takes(bus))
    await eventually(lambda: dead_lettered(bus, 1))

    await QueueDepthMetrics(bus).measure()
    lines = exposition().decode().splitlines()
    assert 'tokenwire_dead_letters{pool="revocation"} 1.0' in lines
    assert 'tokenwire_queue_messages{pool="revocation"} 0.0' in lines

    await bus.close()
    await QueueDepthMetrics(bus).measure()
    assert 'pool="revocation"' not in exposition().decode()


async def takes(bus: RabbitBus) -> bool:
    return await bus.publish([event("client.deleted.api-1")]) == [Outcome.CONFIRMED]


async def dead_lettered(bus: RabbitBus, count: int) -> bool:
    return await bus.dead_letters("revocation") == count
