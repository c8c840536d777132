"""A downstream system: a queue of its own on the exchange of events, which keeps all that comes."""

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
    """The events so far, each once, in the order in which they came."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        """By id."""

    def of_type(self, stem: str, **data: str) -> list[dict[str, Any]]:
        """The events of this type, without vendor prefix, whose data says this."""
        return [
            event
            for event in self.events.values()
            if event["type"] == VENDOR + stem and data.items() <= event["data"].items()
        ]

    async def hears(self, stem: str, count: int = 1, **data: str) -> list[dict[str, Any]]:
        """The events of this type whose data says this, when there are so many."""

        def there() -> list[dict[str, Any]] | None:
            found = self.of_type(stem, **data)
            assert len(found) == count, f"{len(found)} events {stem} with {data}, not {count}"
            return found

        return await eventually(there)

    async def take(self, message: AbstractIncomingMessage) -> None:
        """Keep an event; one that came before is the same event."""
        event = orjson.loads(message.body)
        assert message.routing_key == f"{event['type'].removeprefix(VENDOR)}.{_last_word(message)}"
        self.events.setdefault(event["id"], event)
        await message.ack()


def _last_word(message: AbstractIncomingMessage) -> str:
    return (message.routing_key or "").rpartition(".")[2]


@asynccontextmanager
async def subscribed(amqp_url: str, *keys: str) -> AsyncIterator[Subscriber]:
    """A subscriber to these binding keys, bound when this is entered."""
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
    """The name of a queue with these binding keys that is there when nobody reads it, and outlives the broker."""
    name = unique("subscriber")
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name, durable=True)
        for key in keys:
            await queue.bind(Exchange.EVENTS, key)
    return name


@asynccontextmanager
async def reading(amqp_url: str, name: str) -> AsyncIterator[Subscriber]:
    """A subscriber that takes what is in the queue of this name, and what comes."""
    subscriber = Subscriber()
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await (await connection.channel()).get_queue(name)
        await queue.consume(subscriber.take)
        yield subscriber
