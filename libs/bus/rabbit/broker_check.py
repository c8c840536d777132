"""Looks at RabbitMQ for `python -m services doctor`."""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aio_pika import Message
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, DeliveryError
from aiormq.exceptions import ChannelAccessRefused

from libs.bus.port import PROBE_KEY, BusUnavailable, Exchange
from libs.bus.rabbit.connection import open_first, parse_amqp_urls
from libs.bus.rabbit.dead_letters import TIMEOUT, RabbitPoolQueues
from libs.bus.rabbit.topology import POOLS


@dataclass(frozen=True, slots=True)
class Broker:
    """What was found at RabbitMQ."""

    version: str
    vhost: str
    refusal: str
    """Why it does not take a message from this user; empty if it does."""
    missing: tuple[str, ...]
    """The pools whose queues do not exist."""
    dead_letters: Mapping[str, int]
    """By pool, where there are any."""


async def examine_broker(url: str) -> Broker:
    """Connect, publish one message to the probe queue, and look at the queues of all pools. Raises BusUnavailable."""
    nodes = parse_amqp_urls(url)
    try:
        connection = await open_first(nodes, TIMEOUT)
    except (OSError, ValueError) as error:
        raise BusUnavailable(str(error)) from error
    async with connection:
        counted = await _dead_letters(connection)
        return Broker(
            version=_version(connection),
            vhost=nodes[0].path.removeprefix("/") or "/",
            refusal=await _refusal(connection),
            missing=tuple(name for name, count in counted.items() if count is None),
            dead_letters={name: count for name, count in counted.items() if count},
        )


def _version(connection: AbstractConnection) -> str:
    properties: Any = connection.transport.connection.server_properties if connection.transport else {}
    version = properties.get("version", "unknown")
    return version.decode() if isinstance(version, bytes) else str(version)


async def _refusal(connection: AbstractConnection) -> str:
    message = Message(b"", message_id=f"{PROBE_KEY}:{secrets.token_hex(8)}", type=PROBE_KEY)
    try:
        async with asyncio.timeout(TIMEOUT), connection.channel(on_return_raises=True) as channel:
            exchange = await channel.get_exchange(Exchange.TICKS.value, ensure=False)
            await exchange.publish(message, PROBE_KEY, mandatory=True)
    except ChannelAccessRefused:
        return f"this user may not publish to {Exchange.TICKS.value}"
    except (ChannelNotFoundEntity, DeliveryError):
        return "the exchanges and queues of Tokenwire do not exist"
    except TimeoutError:
        return "it confirms no message: its disk or memory may be full"
    except (AMQPError, OSError) as error:
        return f"it refuses a message: {type(error).__name__}"
    return ""


async def _dead_letters(connection: AbstractConnection) -> dict[str, int | None]:
    """By pool; None if it has no queue."""
    queues = RabbitPoolQueues(lambda: connection)
    counted: dict[str, int | None] = {}
    for pool in POOLS:
        try:
            counted[pool.name] = await queues.dead_letters(pool.name)
        except BusUnavailable:
            counted[pool.name] = None
    return counted
