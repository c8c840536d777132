"""Dead letters: counting the messages in a pool's queues, and redriving those that no consumer could handle."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aio_pika import Message
from aio_pika.abc import AbstractConnection, AbstractExchange, AbstractIncomingMessage, HeadersType
from aio_pika.exceptions import AMQPError, DeliveryError

from libs.bus.port import BusUnavailable, Exchange, PoolQueues
from libs.bus.rabbit.connection import open_first, parse_amqp_urls
from libs.bus.rabbit.queue_consumer import ORIGINAL_ROUTING_KEY
from libs.bus.rabbit.topology import DEAD_LETTER_EXCHANGE, Pool

TIMEOUT = 5.0
"""Seconds for one request to the broker."""


class RabbitPoolQueues:
    """The PoolQueues protocol on the connection that is up when a method is called."""

    def __init__(self, connection: Callable[[], AbstractConnection]) -> None:
        self._connection = connection

    async def waiting(self, name: str) -> int:
        """Messages in the work queue of pool `name`, without those in a handler. Raises BusUnavailable."""
        return await self._count(_pool(name).queue)

    async def dead_letters(self, name: str) -> int:
        """Messages in the dead-letter queue of pool `name`. Raises BusUnavailable."""
        return await self._count(_pool(name).dead_letter_queue)

    async def redrive(self, name: str, limit: int) -> int:
        """Move up to `limit` dead letters back to the work queue, oldest first; how many were moved.

        A message leaves the dead-letter queue only after the work queue has confirmed it. Raises BusUnavailable, also
        if the work queue refuses a message, which then stays a dead letter.
        """
        pool = _pool(name)
        try:
            return await _redrive(self._connection(), pool, limit)
        except (AMQPError, OSError) as error:
            raise BusUnavailable(f"{pool.dead_letter_queue}: {type(error).__name__}") from error

    async def _count(self, queue: str) -> int:
        try:
            async with asyncio.timeout(TIMEOUT), self._connection().channel(publisher_confirms=False) as channel:
                # A passive declaration counts the messages and needs no right on the queue.
                found = await channel.declare_queue(queue, passive=True)
                return found.declaration_result.message_count or 0
        except (AMQPError, OSError) as error:
            raise BusUnavailable(f"{queue}: {type(error).__name__}") from error


@asynccontextmanager
async def open_pool_queues(url: str) -> AsyncIterator[PoolQueues]:
    """The queues over a connection of their own, for a command. Raises BusUnavailable if there is no connection."""
    try:
        connection = await open_first(parse_amqp_urls(url), TIMEOUT)
    except (OSError, ValueError) as error:
        raise BusUnavailable(f"no connection: {error}") from error
    async with connection:
        yield RabbitPoolQueues(lambda: connection)


async def _redrive(connection: AbstractConnection, pool: Pool, limit: int) -> int:
    async with connection.channel(on_return_raises=True) as channel:
        source = await channel.get_queue(pool.dead_letter_queue)
        exchange = await channel.get_exchange(DEAD_LETTER_EXCHANGE, ensure=False)
        for moved in range(limit):
            message = await source.get(fail=False, timeout=TIMEOUT)
            if message is None:
                return moved
            await _send_back(message, exchange, pool)
    return limit


async def _send_back(message: AbstractIncomingMessage, exchange: AbstractExchange, pool: Pool) -> None:
    copy = Message(
        message.body,
        headers=_headers(message),
        content_type=message.content_type,
        delivery_mode=message.delivery_mode,
        message_id=message.message_id,
        type=message.type,
        app_id=message.app_id,
    )
    try:
        await exchange.publish(copy, pool.queue, mandatory=True, timeout=TIMEOUT)
    except (DeliveryError, TimeoutError) as refusal:
        await message.reject(requeue=True)
        raise BusUnavailable(f"{pool.queue} accepts no message") from refusal
    await message.ack()


def _headers(message: AbstractIncomingMessage) -> HeadersType:
    """Our own headers and the original routing key.

    The broker's `x-` headers are left out, so that it counts deliveries from zero again.
    """
    own = {name: value for name, value in message.headers.items() if not name.startswith("x-")}
    deaths = message.headers.get("x-death")
    if ORIGINAL_ROUTING_KEY not in own and isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        keys = deaths[0].get("routing-keys")
        if isinstance(keys, list) and keys and isinstance(keys[0], str):
            own[ORIGINAL_ROUTING_KEY] = keys[0]
    return own


def _pool(name: str) -> Pool:
    return Pool(name, Exchange.EVENTS, ())
