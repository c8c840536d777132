"""A fleet of instances on one bus, for each adapter."""

import secrets
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import pytest

from libs.bus.local import LocalBroker, LocalBus
from libs.bus.port import Bus, BusUnavailable
from libs.bus.rabbit import RabbitBus
from tests.eventually import eventually

DELIVERY_LIMIT = 3
FIRST_BACKOFF = 0.01
"""Seconds; the delays between deliveries of one message are 10, 20 and 40 ms."""


class FullBus(Bus, Protocol):
    """The interface of both adapters."""


class Fleet:
    """Creates instances on the same bus, and closes them."""

    def __init__(self, make: Callable[[], FullBus]) -> None:
        self._make = make
        self._instances: list[FullBus] = []

    async def instance(self) -> FullBus:
        """Create and open an instance."""
        bus = self.unopened()
        await bus.open()
        return bus

    def unopened(self) -> FullBus:
        """Create an instance."""
        bus = self._make()
        self._instances.append(bus)
        return bus

    async def close(self) -> None:
        for bus in self._instances:
            await bus.close()


@pytest.fixture(params=["local", "rabbit", "rabbit-without-encoder"])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """Instances of each adapter, and of RabbitMQ's with both ways to publish, on a bus of their own."""
    if request.param == "local":
        broker = LocalBroker()
        fleet = Fleet(lambda: LocalBus(broker, delivery_limit=DELIVERY_LIMIT, first_backoff=FIRST_BACKOFF))
    else:
        fleet = rabbit_fleet(request.getfixturevalue("amqp_url"), encoder=request.param == "rabbit")
    yield fleet
    await fleet.close()


def rabbit_fleet(url: str, *, declare: bool = True, encoder: bool = True) -> Fleet:
    """Instances on one vhost, that publish with the publish encoder or with aio-pika alone."""
    return Fleet(
        lambda: RabbitBus(
            url,
            instance_name=f"test-{secrets.token_hex(4)}",
            declare=declare,
            delivery_limit=DELIVERY_LIMIT,
            first_backoff=FIRST_BACKOFF,
            use_publish_encoder=encoder,
        )
    )


async def ready(*buses: Bus) -> None:
    """Every bus is connected and consumes all its subscriptions."""
    for bus in buses:
        await eventually(lambda bus=bus: responses(bus))  # type: ignore[misc]


async def responses(bus: Bus) -> bool:
    """Whether the bus is healthy."""
    try:
        await bus.ping()
    except BusUnavailable:
        return False
    return True
