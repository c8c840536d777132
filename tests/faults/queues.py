"""Queues in trouble: a subscriber's queue that is full and refuses events, a subscriber that acknowledges nothing, the
event log's queue at its limit. All other consumers must notice nothing.

Ten minutes at a limit of a million events become ten seconds at a limit of twenty. What matters is that the queue
refuses events while more arrive, for longer than the first publish retries. A longer time only lengthens the backoff;
it takes no other path.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aio_pika
from aio_pika.abc import AbstractQueue

from libs.bus.port import Exchange
from libs.event_encoding import moment_of
from tests.eventually import eventually
from tests.faults.witnesses import Heard, Webhook
from tests.faults.world import World

LIMIT = 20
"""Messages in a queue at its limit."""
TAKEN_AGAIN_WITHIN = 300.0
"""Seconds within which all refused events are published after the trouble ended."""


@dataclass
class Phases:
    """When the trouble began, and when it ended and refused events were published again, which duplicates them
    (time.time()).
    """

    quiet_from: float = 0.0
    troubled_from: float = 0.0
    released_at: float = float("inf")


async def quiet_phase(phases: Phases, load: Awaitable[None]) -> None:
    """Run the load without any trouble for a while, as a baseline."""
    phases.quiet_from = time.time()
    await load
    phases.troubled_from = time.time()


@asynccontextmanager
async def bound_queue(world: World, name: str, arguments: Mapping[str, Any]) -> AsyncIterator[AbstractQueue]:
    """A subscriber's queue that receives every event; deleted at the end."""
    connection = await aio_pika.connect(world.broker.url)
    async with connection, connection.channel() as channel:
        await channel.set_qos(prefetch_count=50)
        queue = await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum", **arguments})
        await queue.bind(Exchange.EVENTS, "#")
        try:
            yield queue
        finally:
            await channel.queue_delete(name)


@asynccontextmanager
async def event_log_at_limit(world: World) -> AsyncIterator[None]:
    """Stop the event recorder, and limit its queue to LIMIT messages."""
    policy = ("faults-event-log", "^tokenwire\\.event_log$", json.dumps({"max-length": LIMIT}), "--apply-to", "queues")
    await asyncio.to_thread(world.broker.ctl, "set_policy", *policy)
    world.stack.kill("management-1")
    try:
        yield
    finally:
        await asyncio.to_thread(world.broker.ctl, "clear_policy", policy[0])
        world.stack.launch("management-1")
        await world.stack.ready("management-1")


async def refused(world: World) -> int:
    """Number of records whose events were refused, according to reconciliation, which must not report a balance
    meanwhile.
    """
    response = await world.stack.operator("GET", "/api/events/audit")
    if response.status != 200:
        raise AssertionError(f"reconciliation: {response.raw.decode()}")
    found = response.body["refused"]
    if found["records"] and (response.body["balanced"] or not found["likely_causes"]):
        raise AssertionError(f"reconciliation does not report that events are refused: {response.raw.decode()}")
    return int(found["records"])


async def some_refused(world: World) -> None:
    """Wait until reconciliation reports refused events, and why. Raises AssertionError."""

    async def told() -> bool:
        return await refused(world) > 0

    await eventually(told, TAKEN_AGAIN_WITHIN, every=0.2)


async def none_refused(world: World) -> None:
    """Wait until no refused event is left. Raises AssertionError."""

    async def taken() -> bool:
        return await refused(world) == 0

    await eventually(taken, TAKEN_AGAIN_WITHIN, every=0.5)


def held_up(
    phases: Phases, heard: Sequence[Heard], webhooks: Sequence[Webhook], slack: float | None
) -> tuple[list[str], list[str]]:
    """Consumers whose p99 delay more than doubled during the trouble and exceeds `slack` seconds: the complaints, and
    the remarks. Without a slack there are remarks only, because a busy machine delays everything.
    """
    if not phases.quiet_from:
        return [], []
    found = []
    for what, arrivals in (
        ("events", [(event.id, event.at) for event in heard]),
        ("webhooks", [(webhook.id, webhook.at) for webhook in webhooks]),
    ):
        quiet = _p99(arrivals, phases.quiet_from, phases.troubled_from)
        troubled = _p99(arrivals, phases.troubled_from, phases.released_at)
        if troubled > max(2 * quiet, slack or 0.0):
            found.append(f"{what} came after {troubled:.2f} s (p99), without the trouble after {quiet:.2f} s")
    return ([], found) if slack is None else (found, [])


def _p99(arrivals: Iterable[tuple[str, float]], since: float, until: float) -> float:
    """99th percentile of the seconds from an event to its first arrival, for events made in this period."""
    first: dict[str, float] = {}
    for event_id, at in arrivals:
        made = moment_of(event_id).timestamp()
        if since <= made < until:
            first[event_id] = min(first.get(event_id, float("inf")), at - made)
    ordered = sorted(first.values())
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] if ordered else 0.0


def too_many_duplicates(phases: Phases, heard: Sequence[Heard], allowed: float) -> list[str]:
    """Complaint about duplicates that came before the refused events were published again, if they are more than this
    fraction of the distinct events.
    """
    ids = [event.id for event in heard if event.at < phases.released_at]
    distinct = len(set(ids))
    duplicates = len(ids) - distinct
    if duplicates <= allowed * distinct:
        return []
    return [f"{duplicates} duplicates of {distinct} events"]
