"""Parked messages: counting them, and sending them back."""

from aio_pika import Message
from aio_pika.abc import AbstractConnection, AbstractExchange, AbstractIncomingMessage, HeadersType
from aio_pika.exceptions import DeliveryError

from libs.bus.port import BusUnavailable, Exchange
from libs.bus.rabbit.consumer import KEY_BEFORE_PARKING
from libs.bus.rabbit.topology import DEAD_LETTERS, Pool

WITHIN = 5.0
"""Seconds for one question to the broker."""


async def parked(connection: AbstractConnection, name: str) -> int:
    """How many messages wait in the parked queue of pool `name`."""
    async with connection.channel(publisher_confirms=False) as channel:
        queue = await channel.declare_queue(_pool(name).parked, passive=True, timeout=WITHIN)
        return queue.declaration_result.message_count or 0


async def redrive(connection: AbstractConnection, name: str, limit: int) -> int:
    """Up to `limit` parked messages are back in the work queue, each confirmed there before it leaves the parked ones.

    Returns how many. Raises BusUnavailable when the work queue refuses one; it stays parked.
    """
    pool = _pool(name)
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
