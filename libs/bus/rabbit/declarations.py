"""Declares the topology on the broker, or checks that it exists."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed

from libs.bus.rabbit.topology import PROBE_QUEUE, BindingDefinition, Topology

log = structlog.get_logger()


async def ensure(connection: AbstractConnection, topology: Topology, *, declare: bool) -> None:
    """Declare everything in `topology`, or with `declare=False` check that it exists. Raises AMQPError if it does not.

    An exchange or queue that an older release declared with other arguments is used as it is, and a warning is logged.
    """
    if not declare:
        async with connection.channel(publisher_confirms=False) as channel:
            await _find(channel, topology)
        return
    for exchange in topology["exchanges"]:
        async with _one_declaration(connection, exchange["name"]) as channel:
            await channel.declare_exchange(exchange["name"], exchange["type"], durable=exchange["durable"])
    for queue in topology["queues"]:
        async with _one_declaration(connection, queue["name"]) as channel:
            await channel.declare_queue(queue["name"], durable=queue["durable"], arguments=queue["arguments"])
    async with connection.channel(publisher_confirms=False) as channel:
        for binding in topology["bindings"]:
            await _bind(channel, binding)


async def _find(channel: AbstractChannel, topology: Topology) -> None:
    for exchange in topology["exchanges"]:
        await channel.get_exchange(exchange["name"])
    for queue in topology["queues"]:
        if queue["name"] != PROBE_QUEUE:  # without it a probe is refused, as it would be with a full disk
            await channel.get_queue(queue["name"])


@asynccontextmanager
async def _one_declaration(connection: AbstractConnection, name: str) -> AsyncIterator[AbstractChannel]:
    """A channel for one declaration, because the broker closes the channel of a refused one."""
    async with connection.channel(publisher_confirms=False) as channel:
        try:
            yield channel
        except ChannelPreconditionFailed as refusal:
            log.warning("bus_declared_differently", name=name, reason=str(refusal))


async def _bind(channel: AbstractChannel, binding: BindingDefinition) -> None:
    queue = await channel.get_queue(binding["destination"], ensure=False)
    await queue.bind(binding["source"], binding["routing_key"])
