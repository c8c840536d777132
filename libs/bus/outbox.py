"""The relay from committed to published: at once in the usual case, by the sweeper in every other.

An event is cleared from its record only after the broker confirmed it; until then any process may publish it again,
with the same id and the same bytes.
"""

import asyncio
import base64
import random
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import orjson
import structlog

from contracts.events import Event, PendingEvent
from libs.bus.port import Bus, Exchange, Message
from libs.oauth.errors import TemporarilyUnavailable
from libs.telemetry import EVENTS_PUBLISHED, EVENTS_UNPUBLISHED, OUTBOX_AGE, OUTBOX_BACKLOG, OUTBOX_WAITING

BATCH = 256
IN_FLIGHT = 4
WAITING_LIMIT = 20_000
"""Events held in memory for the fast path; what is over waits for the sweeper."""
CLEAR_EVERY = 0.03
"""Seconds for which confirmed events are gathered into one clearing write."""
SWEEP_EVERY = 1.0
SWEEP_AFTER = timedelta(seconds=2)
"""Younger events belong to the process that wrote them."""
CLOSE_WITHIN = 3.0
"""Seconds to publish and clear what is waiting when the process stops."""

_COMPANION = ":n"
"""Ends the id of the sealed message of an event."""

log = structlog.get_logger("outbox")


class Source(Protocol):
    """A collection whose records carry unpublished events (`libs.store.ledger.Ledger`)."""

    name: str

    async def pending(self, before: datetime, limit: int) -> Sequence[PendingEvent]: ...

    async def clear(self, events: Sequence[PendingEvent]) -> None: ...

    async def lead(self, holder: str, now: datetime) -> bool: ...

    async def backlog(self) -> tuple[int, datetime | None]: ...


_HEADERS = {name: f"cloudEvents_{name}" for name in Event.model_fields}
"""Every attribute is a string; the data is a field of each event's own."""


def _mirrored(body: bytes) -> dict[str, str]:
    """The CloudEvents attributes as headers, for routing and filters."""
    event = orjson.loads(body)
    return {header: event[name] for name, header in _HEADERS.items() if name in event}


def messages_of(event: PendingEvent) -> Iterable[Message]:
    """The public message, and for a notified event its sealed companion, which only the notifier gets."""
    headers = _mirrored(event.body)
    if trace := headers.get("cloudEvents_traceparent"):
        headers["traceparent"] = trace
    yield Message(event.id, Exchange.EVENTS, event.key, event.body, headers, type=headers["cloudEvents_type"])
    if event.sealed is not None:
        body = b'{"event":%b,"sealed":"%b"}' % (event.body, base64.b64encode(event.sealed))
        yield Message(f"{event.id}{_COMPANION}", Exchange.NOTIFY, "notify", body, content_type="application/json")


def _event_id(message: Message) -> str:
    """The id of the event that this message, or its companion, is of."""
    return message.id.removesuffix(_COMPANION)


Entry = tuple[Source, PendingEvent]


class Outbox:
    """Publishes what the stores commit. Built unopened."""

    def __init__(self, bus: Bus, now: Callable[[], datetime]) -> None:
        self._bus = bus
        self._now = now
        self._holder = secrets.token_hex(8)
        self._sources: dict[str, Source] = {}
        self._waiting: deque[Entry] = deque()
        self._held: set[str] = set()
        """Ids of events between announcement and clearing in this process."""
        self._to_clear: dict[str, list[PendingEvent]] = {}
        self._wake = asyncio.Event()
        self._wake_clearer = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._tasks: list[asyncio.Task[None]] = []
        self._publishing: set[asyncio.Task[None]] = set()

    def watch(self, source: Source) -> None:
        """Sweep this collection; whoever writes to it watches it."""
        self._sources[source.name] = source

    def announce(self, source: Source, event: PendingEvent) -> None:
        """Publish a committed event soon; beyond WAITING_LIMIT it is left to the sweeper."""
        if len(self._held) >= WAITING_LIMIT:
            return
        self._held.add(event.id)
        self._idle.clear()
        self._waiting.append((source, event))
        self._wake.set()

    async def open(self) -> None:
        """Start publishing and sweeping."""
        runs = (self._publish_waiting(), self._clear_published(), self._sweep_forever())
        self._tasks = [asyncio.create_task(run, name=f"outbox-{number}") for number, run in enumerate(runs)]

    async def close(self) -> None:
        """Publish and clear what is waiting, for a few seconds at most, and stop. Idempotent."""
        if not self._tasks:
            return
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.drain()
        except TimeoutError:
            log.info("outbox_left_to_sweeper", events=len(self._held))
        for task in (*self._tasks, *self._publishing):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._publishing, return_exceptions=True)
        self._tasks = []

    async def drain(self) -> None:
        """Return when nothing announced here waits to be published or cleared."""
        await self._idle.wait()

    def _release(self, events: Iterable[PendingEvent]) -> None:
        self._held.difference_update(event.id for event in events)
        OUTBOX_WAITING.set(len(self._held))
        if not self._held:
            self._idle.set()

    async def _publish_waiting(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._slots.acquire()
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                task = asyncio.create_task(self._publish_soon(batch), name="outbox-publish")
                self._publishing.add(task)
                task.add_done_callback(self._published)

    def _published(self, task: asyncio.Task[None]) -> None:
        self._slots.release()
        self._publishing.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("outbox_publish_failed", error=repr(error))

    async def _publish_soon(self, batch: Sequence[Entry]) -> None:
        for source, event in await self._publish(batch):
            self._to_clear.setdefault(source.name, []).append(event)
            self._sources.setdefault(source.name, source)
        self._wake_clearer.set()

    async def _publish(self, batch: Sequence[Entry]) -> Sequence[Entry]:
        """Publish a batch and let go of what was not confirmed; the part that was."""
        messages = [message for _, event in batch for message in messages_of(event)]
        unsafe = {event.id for _, event in batch}
        try:
            outcomes = await self._bus.publish(messages)
            unsafe = {_event_id(message) for message, safe in zip(messages, outcomes, strict=True) if not safe}
        finally:
            lost = [(source, event) for source, event in batch if event.id in unsafe]
            for name, events in Counter(source.name for source, _ in lost).items():
                EVENTS_UNPUBLISHED.labels(name).inc(events)
            self._release(event for _, event in lost)
        confirmed = [(source, event) for source, event in batch if event.id not in unsafe]
        for name, events in Counter(source.name for source, _ in confirmed).items():
            EVENTS_PUBLISHED.labels(name).inc(events)
        return confirmed

    async def _clear_published(self) -> None:
        while True:
            await self._wake_clearer.wait()
            self._wake_clearer.clear()
            await asyncio.sleep(CLEAR_EVERY)
            batches, self._to_clear = self._to_clear, {}
            for name, events in batches.items():
                await self._clear(self._sources[name], events)

    async def _clear(self, source: Source, events: list[PendingEvent]) -> None:
        for start in range(0, len(events), BATCH):
            part = events[start : start + BATCH]
            try:
                await source.clear(part)
            except TemporarilyUnavailable as error:
                log.warning("outbox_not_cleared", collection=source.name, events=len(part), error=error.detail)
            except Exception as error:
                log.error("outbox_clear_failed", collection=source.name, events=len(part), exc_info=error)
            self._release(part)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY * random.uniform(0.8, 1.2))  # noqa: S311 - spreads instances, no secret
            for source in list(self._sources.values()):
                try:
                    await self._sweep(source)
                except TemporarilyUnavailable as error:
                    log.warning("outbox_not_swept", collection=source.name, error=error.detail)
                except Exception as error:
                    log.error("outbox_sweep_failed", collection=source.name, exc_info=error)

    async def _sweep(self, source: Source) -> None:
        """Publish what other processes, or this one in a bad moment, have left, the oldest first."""
        while True:
            held = frozenset(self._held)  # what is let go of while we read was published meanwhile
            found = await source.pending(self._now() - SWEEP_AFTER, BATCH)
            batch = [(source, event) for event in found if event.id not in held and event.id not in self._held]
            if not batch or not await source.lead(self._holder, self._now()):
                break
            self._held.update(event.id for _, event in batch)
            self._idle.clear()
            confirmed = await self._publish(batch)
            await self._clear(source, [event for _, event in confirmed])
            if len(confirmed) < len(batch):
                break
        count, oldest = await source.backlog()
        OUTBOX_BACKLOG.labels(source.name).set(count)
        OUTBOX_AGE.labels(source.name).set((self._now() - oldest).total_seconds() if oldest else 0)
