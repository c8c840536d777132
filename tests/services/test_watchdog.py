"""No consumer dies silently: /readyz is red while a subscription has none, and names it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from libs.bus.levels import Levels
from libs.bus.port import Delivery, Drop, Exchange, Subscription
from libs.bus.rabbit import RabbitBus
from libs.bus.rabbit.declarations import ensure
from libs.bus.rabbit.topology import DELIVERY_LIMIT, topology
from libs.telemetry import exposition
from services.revocation.app import create_app
from services.revocation.settings import RevocationSettings
from tests.builders import Answer, Caller, running, settings
from tests.conformance.recorder import event
from tests.eventually import eventually
from tests.provision.rabbitmq import Broker

COMES_BACK_WITHIN = 15.0
"""Seconds; three of the longest pauses between two attempts, and some for a machine that is busy."""
STAYS_RED_FOR = 5.0
"""Seconds; longer than the longest pause."""


@pytest.fixture
async def channel(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    """Somebody else at the broker, who may do anything."""
    connection = await aio_pika.connect(amqp_url)
    async with connection, connection.channel() as channel:
        await ensure(connection, topology(), declare=True)
        yield channel


@asynccontextmanager
async def revocation(mongodb_url: str, database_name: str, amqp_url: str, *, declare: bool) -> AsyncIterator[Caller]:
    """The service on the broker, as its stack has it or as it runs without one."""
    configured = settings(RevocationSettings, mongodb_url, database_name, amqp_url=amqp_url, declare_topology=declare)
    async with running(create_app(configured)) as caller:
        yield caller


async def readyz(service: Caller) -> Answer:
    return await service("GET", "/readyz")


async def is_red(service: Caller) -> bool:
    answer = await readyz(service)
    return answer.status == 503 and answer.body["bus"] == "no consumer for revocation"


async def is_green(service: Caller) -> bool:
    return (await readyz(service)).status == 200


async def test_a_consumer_that_cannot_come_back_is_seen(
    mongodb_url: str, database_name: str, amqp_url: str, channel: AbstractChannel
) -> None:
    """A queue that is deleted under a service that may not declare it: red until somebody makes it again."""
    async with revocation(mongodb_url, database_name, amqp_url, declare=False) as service:
        await channel.queue_delete("tokenwire.revocation")
        await eventually(lambda: is_red(service))
        until = asyncio.get_running_loop().time() + STAYS_RED_FOR
        while asyncio.get_running_loop().time() < until:
            assert await is_red(service)
            await asyncio.sleep(0.25)
        assert (await service("GET", "/healthz")).status == 200

        connection = await aio_pika.connect(amqp_url)
        async with connection:
            await ensure(connection, topology(), declare=True)
        await eventually(lambda: is_green(service), COMES_BACK_WITHIN)


async def test_a_consumer_whose_user_lost_its_rights_is_seen(
    mongodb_url: str, database_name: str, amqp_url: str, channel: AbstractChannel, rabbitmq: Broker
) -> None:
    """A consumer that the broker cuts off and does not let in again: red, and green when it may."""
    vhost = urlsplit(amqp_url).path.removeprefix("/")
    name = f"revocation-{vhost}"

    async def allow(read: str) -> None:
        await asyncio.to_thread(rabbitmq.ctl, "set_permissions", "-p", vhost, name, ".*", ".*", read)

    await asyncio.to_thread(rabbitmq.ctl, "add_user", name, "password")
    await allow(".*")
    parts = urlsplit(amqp_url)
    url = parts._replace(netloc=f"{name}:password@{parts.hostname}:{parts.port}").geturl()
    async with revocation(mongodb_url, database_name, url, declare=False) as service:
        await allow(r"^tokenwire\.(broadcast\..*|events)$")
        await asyncio.to_thread(rabbitmq.ctl, "close_all_connections", "-p", vhost, "for a test")
        await eventually(lambda: is_red(service), COMES_BACK_WITHIN)
        await allow(".*")
        await eventually(lambda: is_green(service), COMES_BACK_WITHIN)


async def test_a_consumer_that_was_cancelled_comes_back(
    mongodb_url: str, database_name: str, amqp_url: str, channel: AbstractChannel
) -> None:
    """A service that declares its queues makes a deleted one again and consumes from it, without being restarted."""
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
        await eventually(lambda: is_green(service), COMES_BACK_WITHIN)


async def test_what_waits_and_what_is_parked_are_metrics(amqp_url: str) -> None:
    """Each pool that a process consumes has its two gauges; with the broker away there are none."""

    async def drop(delivery: Delivery) -> None:
        raise Drop("never")

    bus = RabbitBus(amqp_url, instance_name="levels", delivery_limit=DELIVERY_LIMIT)
    bus.subscribe(Subscription("revocation", Exchange.EVENTS, ("client.deleted.#",), drop))
    await bus.open()
    await eventually(lambda: takes(bus))
    await eventually(lambda: parked(bus, 1))

    await Levels(bus).measure()
    lines = exposition().decode().splitlines()
    assert 'tokenwire_parked_messages{pool="revocation"} 1.0' in lines
    assert 'tokenwire_waiting_messages{pool="revocation"} 0.0' in lines

    await bus.close()
    await Levels(bus).measure()
    assert 'pool="revocation"' not in exposition().decode()


async def takes(bus: RabbitBus) -> bool:
    return await bus.publish([event("client.deleted.api-1")]) == [True]


async def parked(bus: RabbitBus, count: int) -> bool:
    return await bus.parked("revocation") == count
