"""A fleet of instances on one bus, whichever bus it is."""

import secrets
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import pytest

from libs.bus.local import LocalBroker, LocalBus
from libs.bus.port import Bus, BusUnavailable
from libs.bus.rabbit import RabbitBus
from tests.eventually import eventually

DELIVERY_LIMIT = 3
FIRST_PAUSE = 0.01
"""Seconds; the pauses between deliveries of one message are 10, 20 and 40 ms."""


class FullBus(Bus, Protocol):
    """What both adapters are."""


class Fleet:
    """Makes instances that meet on the same bus, and closes them."""

    def __init__(self, make: Callable[[], FullBus]) -> None:
        self._make = make
        self._instances: list[FullBus] = []

    async def instance(self) -> FullBus:
        """A new instance, open."""
        bus = self.unopened()
        await bus.open()
        return bus

    def unopened(self) -> FullBus:
        """A new instance."""
        bus = self._make()
        self._instances.append(bus)
        return bus

    async def close(self) -> None:
        for bus in self._instances:
            await bus.close()


@pytest.fixture(params=["local", "rabbit"])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """Instances of each adapter in turn, on a bus nobody else uses."""
    if request.param == "local":
        broker = LocalBroker()
        fleet = Fleet(lambda: LocalBus(broker, delivery_limit=DELIVERY_LIMIT, first_pause=FIRST_PAUSE))
    else:
        fleet = rabbit_fleet(request.getfixturevalue("amqp_url"))
    yield fleet
    await fleet.close()


def rabbit_fleet(url: str, *, declare: bool = True) -> Fleet:
    """Instances on one vhost."""
    return Fleet(
        lambda: RabbitBus(
            url,
            instance_name=f"test-{secrets.token_hex(4)}",
            declare=declare,
            delivery_limit=DELIVERY_LIMIT,
            first_pause=FIRST_PAUSE,
        )
    )


async def ready(*buses: Bus) -> None:
    """Every bus is connected, and all its subscriptions are consumed."""
    for bus in buses:
        await eventually(lambda bus=bus: answers(bus))  # type: ignore[misc]


async def answers(bus: Bus) -> bool:
    """True when the bus says that it is well."""
    try:
        await bus.ping()
    except BusUnavailable:
        return False
    return True
