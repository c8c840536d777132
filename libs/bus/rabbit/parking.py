"""Parked messages: counting them, and sending them back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aio_pika import Message
from aio_pika.abc import AbstractConnection, AbstractExchange, AbstractIncomingMessage, HeadersType
from aio_pika.exceptions import AMQPError, DeliveryError
from yarl import URL

from libs.bus.port import BusUnavailable, Exchange, Parking
from libs.bus.rabbit.consumer import KEY_BEFORE_PARKING
from libs.bus.rabbit.link import connected
from libs.bus.rabbit.topology import DEAD_LETTERS, Pool

WITHIN = 5.0
"""Seconds for one question to the broker."""


class Attendant:
    """The Parking protocol over the connection that is up when it is asked."""

    def __init__(self, connection: Callable[[], AbstractConnection]) -> None:
        self._connection = connection

    async def waiting(self, name: str) -> int:
        """How many messages of pool `name` nobody handles yet. Raises BusUnavailable."""
        return await self._count(_pool(name).queue)

    async def parked(self, name: str) -> int:
        """How many messages of pool `name` are parked. Raises BusUnavailable."""
        return await self._count(_pool(name).parked)

    async def redrive(self, name: str, limit: int) -> int:
        """Put up to `limit` parked messages back to work, each confirmed there before it leaves the parked ones.

        Returns how many. Raises BusUnavailable, also when the work queue refuses one; it stays parked.
        """
        pool = _pool(name)
        try:
            return await _redrive(self._connection(), pool, limit)
        except (AMQPError, OSError) as error:
            raise BusUnavailable(f"{pool.parked}: {type(error).__name__}") from error

    async def _count(self, queue: str) -> int:
        try:
            async with asyncio.timeout(WITHIN), self._connection().channel(publisher_confirms=False) as channel:
                # Found, not declared: no user needs a right for that.
                found = await channel.declare_queue(queue, passive=True)
                return found.declaration_result.message_count or 0
        except (AMQPError, OSError) as error:
            raise BusUnavailable(f"{queue}: {type(error).__name__}") from error


@asynccontextmanager
async def attended(url: str) -> AsyncIterator[Parking]:
    """An attendant with a connection of its own, for a command. Raises BusUnavailable where there is none to be had."""
    try:
        connection = await connected(URL(url), WITHIN)
    except (AMQPError, OSError, ValueError) as error:
        raise BusUnavailable(f"no connection: {type(error).__name__}") from error
    async with connection:
        yield Attendant(lambda: connection)


async def _redrive(connection: AbstractConnection, pool: Pool, limit: int) -> int:
    async with connection.channel(on_return_raises=True) as channel:
        source = await channel.get_queue(pool.parked)
        dead_letters = await channel.get_exchange(DEAD_LETTERS, ensure=False)
        for moved in range(limit):
            message = await source.get(fail=False, timeout=WITHIN)
            if message is None:
                return moved
            await _send_back(message, dead_letters, pool)
    return limit


async def _send_back(message: AbstractIncomingMessage, dead_letters: AbstractExchange, pool: Pool) -> None:
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
        await dead_letters.publish(copy, pool.queue, mandatory=True, timeout=WITHIN)
    except (DeliveryError, TimeoutError) as refusal:
        await message.reject(requeue=True)
        raise BusUnavailable(f"{pool.queue} takes no message") from refusal
    await message.ack()


def _headers(message: AbstractIncomingMessage) -> HeadersType:
    """Our own headers, and the key it first came with. The broker's `x-` ones stay behind, so it counts anew."""
    own = {name: value for name, value in message.headers.items() if not name.startswith("x-")}
    deaths = message.headers.get("x-death")
    if KEY_BEFORE_PARKING not in own and isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        keys = deaths[0].get("routing-keys")
        if isinstance(keys, list) and keys and isinstance(keys[0], str):
            own[KEY_BEFORE_PARKING] = keys[0]
    return own


def _pool(name: str) -> Pool:
    return Pool(name, Exchange.EVENTS, ())
