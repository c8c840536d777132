"""`/readyz`: 503 if the main work cannot be done, `degraded` if something is only late."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog
from yarl import URL

from libs.bus.rabbit import RabbitBus
from libs.http.health_endpoints import Health
from libs.oauth.errors import TemporarilyUnavailable
from libs.telemetry import DEPENDENCY_UP
from tests.eventually import eventually
from tests.provision.mongodb import Database
from tests.provision.rabbitmq import Broker
from tests.services.each import SERVICES, Started, started
from tests.services.system import open_system
from tests.wire import wire

CREDENTIALS = {"grant_type": "client_credentials"}


def is_up(dependency: str) -> bool:
    """The value of the metric."""
    return bool(DEPENDENCY_UP.labels(dependency)._value.get() == 1)


async def test_b5_without_rabbitmq_every_service_is_degraded_and_ready(
    mongodb_url: str, database_name: str, amqp_url: str
) -> None:
    """Without RabbitMQ, at start or later, every service stays ready; response and metric name the bus."""
    there = URL(amqp_url)
    async with wire(there.port or 5672) as way:
        await way.cut()
        async with all_started(mongodb_url, database_name, str(there.with_port(way.port))) as services:
            for one in services:
                await eventually(partial(one.has_status, "degraded"))
                await eventually(partial(names_the_address, one))
                assert (await one.readyz()).body["mongodb"] == "ok"
            assert not is_up("bus")
            await way.mend()
            for one in services:
                await eventually(partial(one.has_status, "ok"), within=30)
            assert is_up("bus")
            await way.cut()
            for one in services:
                await eventually(partial(one.has_status, "degraded"))


async def test_b5_without_mongodb_no_service_is_ready(mongodb: Database, database_name: str, amqp_url: str) -> None:
    """Without MongoDB every service is unavailable: 503."""
    async with all_started(mongodb.url, database_name, amqp_url) as services:
        for one in services:
            await eventually(partial(one.has_status, "ok"))
        mongodb.kill()
        try:
            for one in services:
                await eventually(partial(unavailable_by_mongodb, one))
            assert not is_up("mongodb")
        finally:
            await mongodb.start()
        for one in services:
            await eventually(partial(one.has_status, "ok"), within=30)


async def names_the_address(one: Started) -> bool:
    return "nothing can be reached at 127.0.0.1" in (await one.readyz()).body["bus"]


@asynccontextmanager
async def all_started(mongodb_url: str, database_name: str, amqp_url: str) -> AsyncIterator[list[Started]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                started(service, mongodb_url, database_name, RabbitBus(amqp_url, instance_name=service))
            )
            for service in SERVICES
        ]


async def unavailable_by_mongodb(one: Started) -> bool:
    response = await one.readyz()
    assert (response.status, response.body["status"], response.body["bus"]) == (503, "unavailable", "ok"), response.body
    return bool(response.body["mongodb"] != "ok")


async def test_b5_rabbitmq_in_alarm_is_named(mongodb_url: str, amqp_url: str, rabbitmq: Broker) -> None:
    """If RabbitMQ blocks publishers (alarm), tokens are issued, and `readyz` names the reason."""
    bus = RabbitBus(amqp_url, instance_name="alarmed")
    async with open_system(mongodb_url, bus=bus) as system:
        party = await system.party()
        await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "0")
        try:
            assert (await party.token(CREDENTIALS)).status == 200

            async def in_alarm() -> bool:
                response = await system.call("GET", "/readyz")
                assert (response.status, response.body["status"]) == (200, "degraded"), response.body
                return "raised an alarm" in response.body["bus"]

            await eventually(in_alarm)
            assert (await party.token(CREDENTIALS)).status == 200
        finally:
            await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "0.4")

        async def well() -> bool:
            return bool((await system.call("GET", "/readyz")).body["status"] == "ok")

        await eventually(well, within=30)


async def test_b5_outages_and_recoveries_are_logged_once() -> None:
    """The log has each change once, with its consequence, however often `readyz` is read."""
    health, away = Health(), {"one": True, "other": True}

    def register(name: str, *, needed: bool) -> None:
        async def ping() -> None:
            if away[name]:
                raise TemporarilyUnavailable("it is away")

        health.register(name, ping, needed=needed)

    register("one", needed=True)
    register("other", needed=False)
    with structlog.testing.capture_logs() as logs:
        await health.watch()
        await health.watch()
        away.update(one=False, other=False)
        await health.watch()
        await health.watch()
    assert [(line["event"], line["dependency"], line.get("readiness")) for line in logs] == [
        ("dependency_unreachable", "one", "unavailable"),
        ("dependency_unreachable", "other", "degraded"),
        ("dependency_recovered", "one", None),
        ("dependency_recovered", "other", None),
    ]
