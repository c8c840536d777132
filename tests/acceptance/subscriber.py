"""A downstream subscriber: it has its own queue on the event exchange, and keeps all events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage

from libs.bus.port import Exchange
from tests.builders import unique
from tests.eventually import eventually

VENDOR = "io.tokenwire."


class Subscriber:
    """The events received so far, each once, in order of arrival."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        """By id."""

    def of_type(self, stem: str, **data: str) -> list[dict[str, Any]]:
        """The received events of this type (without vendor prefix) whose data has these values."""
        return [
            event
            for event in self.events.values()
            if event["type"] == VENDOR + stem and data.items() <= event["data"].items()
        ]

    async def hears(self, stem: str, count: int = 1, **data: str) -> list[dict[str, Any]]:
        """Wait for this many events of this type and data."""

        def there() -> list[dict[str, Any]] | None:
            found = self.of_type(stem, **data)
            assert len(found) == count, f"{len(found)} events {stem} with {data}, not {count}"
            return found

        return await eventually(there)

    async def take(self, message: AbstractIncomingMessage) -> None:
        """Keep an event. A duplicate must be identical."""
        event = orjson.loads(message.body)
        assert message.routing_key == f"{event['type'].removeprefix(VENDOR)}.{_last_word(message)}"
        self.events.setdefault(event["id"], event)
        await message.ack()


def _last_word(message: AbstractIncomingMessage) -> str:
    return (message.routing_key or "").rpartition(".")[2]


@asynccontextmanager
async def subscribed(amqp_url: str, *keys: str) -> AsyncIterator[Subscriber]:
    """A subscriber with these binding keys, bound when the block begins."""
    subscriber = Subscriber()
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        for key in keys:
            await queue.bind(Exchange.EVENTS, key)
        await queue.consume(subscriber.take)
        yield subscriber


async def kept(amqp_url: str, *keys: str) -> str:
    """A durable queue with these binding keys, which keeps messages while there is no consumer."""
    name = unique("subscriber")
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name, durable=True)
        for key in keys:
            await queue.bind(Exchange.EVENTS, key)
    return name


@asynccontextmanager
async def reading(amqp_url: str, name: str) -> AsyncIterator[Subscriber]:
    """A subscriber that consumes the queue of this name."""
    subscriber = Subscriber()
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await (await connection.channel()).get_queue(name)
        await queue.consume(subscriber.take)
        yield subscriber
