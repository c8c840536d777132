"""The outbox relay: publishes the events that were committed with their records (transactional outbox).

Usually an event is published right after its commit, by the process that wrote it. The sweeper publishes what a process
left behind, for example when it died or the broker was away.

An event is cleared from its record only after the broker has confirmed it; until then any process may publish it again,
with the same id and the same bytes. An event that a queue refused is set aside in its record, so that it does not delay
others, and is retried with a growing backoff. Webhooks do not depend on that: the notification is a message of its own,
and if it was not confirmed, the notifier fetches it from the record.
"""

import asyncio
import base64
import random
import secrets
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import orjson
import structlog

from contracts.events import Event, PendingEvent, RefusedBy
from libs.bus.port import PROBE_KEY, Bus, Exchange, Message, Outcome
from libs.cancellation import cancel_and_wait
from libs.oauth.errors import TemporarilyUnavailable
from libs.supervision import BackgroundTask, LoggedReasons, Supervisor, error_fields, spawn
from libs.telemetry import (
    EVENTS_PUBLISHED,
    EVENTS_REFUSED,
    EVENTS_UNPUBLISHED,
    OUTBOX_AGE,
    OUTBOX_BACKLOG,
    OUTBOX_REFUSED,
    OUTBOX_REFUSED_AGE,
    OUTBOX_WAITING,
)

BATCH = 256
"""Events that are published, or cleared, together."""
FIRST_WINDOW, LARGEST_WINDOW, WINDOW_STEP = 16, 128, 16
"""Committed events that this process sends to the broker before it has cleared them from their records; others wait.

If the process dies, these are published again. The window starts small, grows with every clearing write for which
events wait, and is small again when none are left. So a process that dies in a short burst repeats few events, and one
under steady load publishes more than a thousand per second, while each is confirmed and cleared within a tenth of a
second.
"""
WAITING_LIMIT = 20_000
"""Events kept in memory to be published at once; any more are left to the sweeper."""
CLEAR_INTERVAL = 0.03
"""Seconds for which confirmed events are gathered into one write that clears them, unless they are CLEAR_SOON events or
as many as the window allows."""
CLEAR_SOON = 32
SWEEP_INTERVAL = 1.0
"""Seconds between two sweeps, on average."""
PURGE_INTERVAL = 60.0
"""Seconds between two searches for numbered records whose time is over."""
PURGE_BATCH = 1000
SWEEP_AFTER = timedelta(seconds=2)
"""Younger events are left to the process that wrote them; so are all events until the bus has worked for this long."""
CLOSE_TIMEOUT = 3.0
"""Seconds that a stopping process takes to publish and clear the events in its memory."""
LEAVE_TIMEOUT = 1.0
"""Seconds that it then takes to move the rest to the pending events of their records, for sweepers of any version."""

CONFIRM_ATTEMPTS = 6
"""Calls of publish, a few seconds each, that wait for a missing confirmation; by then the connection is lost anyway."""
IMMEDIATELY = 1.0
"""Seconds. A publication whose outcome is UNKNOWN in less time was never sent."""
FIRST_REWRITE_BACKOFF, LONGEST_REWRITE_BACKOFF = 0.5, 30.0
"""Seconds between attempts to clear or set aside events in their records: doubling from the first to the longest."""
FIRST_RETRY_BACKOFF = 5.0
"""Seconds until a refused event is retried; doubling up to LONGEST_RETRY_BACKOFF.

Every attempt is a duplicate for subscribers that already have the event, so there are few attempts.
"""
LONGEST_RETRY_BACKOFF = {RefusedBy.POOL: 15.0, RefusedBy.SUBSCRIBER: 300.0}
"""Seconds. A retry for Tokenwire's own pools goes to them alone and is no duplicate for any subscriber."""
RETRY_BATCH = 128
RETRY_PAUSE = 0.05
"""Seconds between two batches of refused events, so that new events are published in between."""
REFUSAL_LOG_INTERVAL = 60.0
"""Seconds between two log lines about refused events."""

_COMPANION = ":n"
"""Suffix of the message id of an event's sealed companion."""

log = structlog.get_logger("outbox")


class Source(Protocol):
    """A collection whose records carry unpublished events; the store implements it."""

    name: str

    async def pending(self, before: datetime, limit: int) -> Sequence[PendingEvent]: ...

    async def abandoned(self, before: datetime, limit: int) -> Sequence[PendingEvent]: ...

    async def adopt(self, events: Sequence[PendingEvent]) -> None: ...

    async def give_up(self, after: timedelta, is_known: Callable[[str], bool], limit: int) -> int: ...

    async def purgeable(self, now: datetime, limit: int) -> Sequence[str]: ...

    async def purge(self, keys: Sequence[str], now: datetime) -> None: ...

    async def clear(self, events: Sequence[PendingEvent]) -> None: ...

    async def set_aside(self, events: Sequence[PendingEvent], refused_by: RefusedBy) -> None: ...

    async def refused(
        self, limit: int, *, key: str | None = None, without: Collection[str] = (), by: RefusedBy | None = None
    ) -> Sequence[PendingEvent]: ...

    async def refusals(self) -> tuple[int, datetime | None]: ...

    async def lead(self, holder: str, now: datetime) -> bool: ...

    async def backlog(self) -> tuple[int, datetime | None]: ...


_HEADERS = {name: f"cloudEvents_{name}" for name in Event.model_fields}
"""The CloudEvents attributes, all of them strings, and the name of the header for each."""


def _mirrored(body: bytes) -> dict[str, str]:
    """The CloudEvents attributes of an event as headers, so that subscribers can filter without parsing the body."""
    event = orjson.loads(body)
    return {header: event[name] for name, header in _HEADERS.items() if name in event}


def messages_of(event: PendingEvent) -> Iterable[Message]:
    """The public message, and for an event with a webhook its sealed companion, which only the notifier gets."""
    yield _public(event)
    if event.sealed is not None:
        body = b'{"event":%b,"sealed":"%b"}' % (event.body, base64.b64encode(event.sealed))
        yield Message(f"{event.id}{_COMPANION}", Exchange.NOTIFY, "notify", body, content_type="application/json")


def _public(event: PendingEvent) -> Message:
    headers = _mirrored(event.body)
    if trace := headers.get("cloudEvents_traceparent"):
        headers["traceparent"] = trace
    return Message(event.id, Exchange.EVENTS, event.key, event.body, headers, type=headers["cloudEvents_type"])


def _for_pools(event: PendingEvent) -> Message:
    """The public message, for Tokenwire's own pools alone."""
    return _public(event)._replace(exchange=Exchange.POOLS)


Entry = tuple[Source, PendingEvent]


class _RecordUpdate(NamedTuple):
    """How the records of a collection are updated after their events were published."""

    source: str
    refused_by: RefusedBy | None
    """None: every queue confirmed the events, so they are cleared. Else they are set aside."""


@dataclass(frozen=True, slots=True)
class _Published:
    """The outcome of a batch."""

    confirmed: Sequence[Entry]
    refused: Mapping[RefusedBy, Sequence[Entry]]
    unknown: Sequence[Entry]
    """Neither confirmed nor refused: the broker was away or did not respond, and a sweep publishes them again."""


@dataclass(slots=True)
class _Retries:
    """When the refused events of one collection are retried, and which."""

    due: float
    backoff: float = field(default_factory=lambda: FIRST_RETRY_BACKOFF)
    refused_keys: set[str] = field(default_factory=set)
    """Routing keys that were refused again. All events with the same key go to the same queues."""

    def succeeded(self) -> None:
        """An event was accepted: the queue that refused may have room for the other keys, too."""
        self.backoff = FIRST_RETRY_BACKOFF
        self.refused_keys.clear()

    def failed(self, event: PendingEvent, now: float) -> None:
        """An event was refused again: try another key next, after a backoff that doubles each time."""
        self.refused_keys.add(event.key)
        self.due = now + self.backoff
        self.backoff = min(2 * self.backoff, LONGEST_RETRY_BACKOFF[event.refused_by or RefusedBy.SUBSCRIBER])


class Outbox:
    """Publishes the events that the stores commit. Does nothing until `open`."""

    def __init__(self, bus: Bus, now: Callable[[], datetime]) -> None:
        self._bus = bus
        self._now = now
        self._holder = secrets.token_hex(8)
        self._sources: dict[str, Source] = {}
        self._waiting: deque[Entry] = deque()
        self._held: set[str] = set()
        """Ids of events that this process publishes now or has yet to clear."""
        self._uncleared: set[str] = set()
        """Ids of the events that the window limits."""
        self._window = FIRST_WINDOW
        self._updates: dict[_RecordUpdate, list[PendingEvent]] = {}
        self._unwritten: dict[str, tuple[_RecordUpdate, PendingEvent]] = {}
        """By event id: updates that failed. They are retried; meanwhile the events are not published again."""
        self._unconfirmed: set[str] = set()
        """Ids of events that were sent to the broker and neither confirmed nor refused in time."""
        self._retries: dict[str, _Retries] = {}
        self._log_refusal_at: dict[RefusedBy, float] = {}
        self._purge_at: dict[str, float] = {}
        """When each collection is searched for records to purge next."""
        self._wake = asyncio.Event()
        self._has_room = asyncio.Event()
        self._wake_writer = asyncio.Event()
        self._write_now = asyncio.Event()
        self._wake_rewriter = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[BackgroundTask] = []
        self._publishing: set[asyncio.Task[None]] = set()

    def watch(self, source: Source) -> None:
        """Sweep this collection. Every process that writes to a collection sweeps it."""
        self._sources[source.name] = source

    def announce(self, source: Source, event: PendingEvent) -> None:
        """Publish a committed event as soon as possible; beyond WAITING_LIMIT it is left to the sweeper."""
        if len(self._held) + len(self._unwritten) + len(self._unconfirmed) >= WAITING_LIMIT:
            return
        self._held.add(event.id)
        self._idle.clear()
        self._waiting.append((source, event))
        self._wake.set()

    async def open(self, supervisor: Supervisor | None = None) -> None:
        """Start publishing, clearing and sweeping, under this supervisor."""
        supervisor = supervisor or Supervisor()
        self._tasks = [
            supervisor.start("outbox-publish", self._publish_waiting),
            supervisor.start("outbox-clear", self._write_updates),
            supervisor.start("outbox-clear-again", self._retry_updates, essential=False),
            supervisor.start("outbox-sweep", self._sweep_forever),
        ]

    async def close(self) -> None:
        """Publish and clear the events in memory, for CLOSE_TIMEOUT seconds at most, and stop. Idempotent."""
        if not self._tasks:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.drain()
                if self._unwritten:
                    await self._rewrite()
        except TimeoutError:
            log.info("outbox_left_to_sweeper", events=len(self._held))
        except Exception as error:  # noqa: BLE001 - the process stops in any case; a sweeper publishes the rest
            log.error("outbox_not_cleared", events=len(self._unwritten), **error_fields(error))
        await cancel_and_wait(*self._publishing, *(task.task for task in self._tasks))
        self._tasks = []
        await asyncio.gather(*map(self._leave, self._sources.values()))

    async def _leave(self, source: Source) -> None:
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT):
                while await source.give_up(timedelta(0), lambda _: False, BATCH) == BATCH:
                    pass
        except Exception as error:  # noqa: BLE001 - the process stops in any case; the checkpoint tells the sweepers
            log.info("outbox_left_to_sweeper", collection=source.name, **error_fields(error))

    async def drain(self) -> None:
        """Return once every announced event was published and an attempt was made to clear it."""
        await self._idle.wait()

    def _release(self, events: Iterable[PendingEvent]) -> None:
        ids = [event.id for event in events]
        self._held.difference_update(ids)
        self._uncleared.difference_update(ids)
        if not self._uncleared and not self._waiting:
            self._window = FIRST_WINDOW
        self._has_room.set()
        OUTBOX_WAITING.set(len(self._held) + len(self._unwritten))
        if not self._held:
            self._idle.set()

    # Publishing

    async def _publish_waiting(self) -> None:
        while True:
            if not self._waiting:
                await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                while (room := self._window - len(self._uncleared)) <= 0:
                    self._has_room.clear()
                    await self._has_room.wait()
                batch = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
                self._uncleared.update(event.id for _, event in batch)
                task = spawn("outbox-batch", self._publish_soon(batch))
                self._publishing.add(task)
                task.add_done_callback(self._publishing.discard)

    async def _publish_soon(self, batch: Sequence[Entry]) -> None:
        for source, _ in batch:
            self._sources.setdefault(source.name, source)
        self._queue_updates(await self._publish_and_follow(batch))

    async def _publish_and_follow(self, batch: Sequence[Entry]) -> _Published:
        """Publish a batch; confirmations that do not arrive in time are awaited in the background."""
        began = asyncio.get_running_loop().time()
        published = await self._publish(batch)
        if published.unknown and self._may_be_in_flight(began) and len(self._unconfirmed) < WAITING_LIMIT:
            self._unconfirmed |= {event.id for _, event in published.unknown}
            task = spawn("outbox-unconfirmed", self._await_confirmations(published.unknown))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)
        return published

    async def _await_confirmations(self, entries: Sequence[Entry]) -> None:
        """Wait for the outcome of events that are in flight for longer than a call of publish lasts.

        Publishing an id that is in flight sends nothing and shares its outcome. Without this, a sweep would publish the
        event a second time after the broker had stored it.
        """
        events = [event for _, event in entries]
        try:
            for _ in range(CONFIRM_ATTEMPTS):
                began = asyncio.get_running_loop().time()
                published = await self._publish(entries)
                self._queue_updates(published)
                entries = published.unknown
                if not entries or not self._may_be_in_flight(began):
                    break
        finally:
            self._unconfirmed.difference_update(event.id for event in events)

    def _may_be_in_flight(self, began: float) -> bool:
        """Whether a publication begun then was sent: without a connection it would have ended immediately."""
        return asyncio.get_running_loop().time() - began > IMMEDIATELY

    def _queue_updates(self, published: _Published) -> None:
        for update, events in _updates_of(published).items():
            self._updates.setdefault(update, []).extend(events)
        self._wake_writer.set()
        if sum(map(len, self._updates.values())) >= min(CLEAR_SOON, self._window):
            self._write_now.set()

    async def _publish(self, batch: Sequence[Entry]) -> _Published:
        """Publish a batch, and release the events whose outcome is UNKNOWN."""
        messages = [message for _, event in batch for message in messages_of(event)]
        done = _Published((), {}, batch)
        try:
            outcomes = await self._bus.publish(messages)
            if outcomes.count(Outcome.CONFIRMED) == len(messages):
                done = _Published(batch, {}, ())
            else:
                done = await self._by_outcome(
                    batch, dict(zip((message.id for message in messages), outcomes, strict=True))
                )
        finally:
            self._release(event for _, event in done.unknown)
            _count(done)
        return done

    async def _by_outcome(self, batch: Sequence[Entry], outcomes: Mapping[str, Outcome]) -> _Published:
        """Sort the batch by the outcomes of its public messages.

        The outcome of a notification does not matter here: if the notifier misses it, it fetches it from the record.
        """
        found: dict[Outcome, list[Entry]] = {outcome: [] for outcome in Outcome}
        for entry in batch:
            found[outcomes[entry[1].id]].append(entry)
        refused = await self._by_refuser(found[Outcome.REFUSED]) if found[Outcome.REFUSED] else {}
        return _Published(found[Outcome.CONFIRMED], refused, found[Outcome.UNKNOWN])

    async def _by_refuser(self, entries: Sequence[Entry]) -> Mapping[RefusedBy, Sequence[Entry]]:
        """Whose queue refused each event.

        If Tokenwire's own pools accept it now, a subscriber's queue refused it. If they refuse it as well, only they
        did so, provided that the broker accepts a probe. Otherwise every queue refuses, subscribers' too; it does so
        until it is restarted, so it cannot have recovered between the event and the probe on one connection.
        """
        probe = Message(f"{PROBE_KEY}:{secrets.token_hex(8)}", Exchange.TICKS, PROBE_KEY, b"", type=PROBE_KEY)
        *outcomes, probed = await self._bus.publish([*(_for_pools(event) for _, event in entries), probe])
        attributed: dict[RefusedBy, list[Entry]] = {}
        for entry, outcome in zip(entries, outcomes, strict=True):
            only_pools = outcome is Outcome.REFUSED and probed is Outcome.CONFIRMED
            attributed.setdefault(RefusedBy.POOL if only_pools else RefusedBy.SUBSCRIBER, []).append(entry)
        for refused_by, refused in attributed.items():
            self._log_refusal(refused_by, refused[0][1])
        return attributed

    def _log_refusal(self, refused_by: RefusedBy, event: PendingEvent) -> None:
        now = asyncio.get_running_loop().time()
        if self._log_refusal_at.get(refused_by, 0.0) <= now:
            self._log_refusal_at[refused_by] = now + REFUSAL_LOG_INTERVAL
            log.error("events_refused", refused_by=refused_by.value, key=event.key)

    # Updating the records

    async def _write_updates(self) -> None:
        while True:
            if not self._updates:
                await self._wake_writer.wait()
            self._wake_writer.clear()
            with suppress(TimeoutError):  # a process that dies in between leaves them to be published again
                async with asyncio.timeout(CLEAR_INTERVAL):
                    await self._write_now.wait()
            self._write_now.clear()
            while self._updates:
                update, events = self._updates.popitem()
                if rest := events[BATCH:]:
                    self._updates[update] = rest
                await self._write(update, events[:BATCH])

    async def _write(self, update: "_RecordUpdate", events: Sequence[PendingEvent]) -> None:
        """Update the records of at most BATCH events; a failed update is retried later."""
        try:
            await self._apply(update, events)
            if self._waiting:
                self._window = min(LARGEST_WINDOW, self._window + WINDOW_STEP)
        except BaseException as error:
            self._unwritten |= {event.id: (update, event) for event in events}
            self._wake_rewriter.set()
            if not isinstance(error, TemporarilyUnavailable):
                raise
            log.warning("outbox_not_cleared", collection=update.source, events=len(events), error=error.detail)
        finally:
            self._release(events)

    async def _apply(self, update: "_RecordUpdate", events: Sequence[PendingEvent]) -> None:
        source = self._sources[update.source]
        if update.refused_by is None:
            await source.clear(events)
        else:
            await source.set_aside(events, update.refused_by)

    async def _retry_updates(self) -> None:
        backoff = FIRST_REWRITE_BACKOFF
        while True:
            if not self._unwritten:
                backoff = FIRST_REWRITE_BACKOFF
                self._wake_rewriter.clear()
                await self._wake_rewriter.wait()
            await asyncio.sleep(random.uniform(backoff / 2, backoff))  # noqa: S311 - spreads instances, no secret
            backoff = min(2 * backoff, LONGEST_REWRITE_BACKOFF)
            await self._rewrite()

    async def _rewrite(self) -> None:
        """Retry the failed updates; if a batch fails and MongoDB is not away, update each of its records by itself."""
        updates: dict[_RecordUpdate, list[PendingEvent]] = {}
        for update, event in self._unwritten.values():
            updates.setdefault(update, []).append(event)
        failure: Exception | None = None
        parts = deque(
            (update, events[at : at + BATCH])
            for update, events in updates.items()
            for at in range(0, len(events), BATCH)
        )
        while parts:
            update, part = parts.popleft()
            try:
                await self._apply(update, part)
            except TemporarilyUnavailable as error:
                log.warning(
                    "outbox_not_cleared", collection=update.source, events=len(self._unwritten), error=error.detail
                )
                return
            except Exception as error:  # noqa: BLE001 - raised when the others are written
                failure = error
                if len(part) > 1:
                    parts.extend((update, [event]) for event in part)
            else:
                self._forget_unwritten(part)
        if failure is not None:
            raise failure

    def _forget_unwritten(self, events: Iterable[PendingEvent]) -> None:
        for event in events:
            self._unwritten.pop(event.id, None)
        OUTBOX_WAITING.set(len(self._held) + len(self._unwritten))

    # Sweeping

    async def _sweep_forever(self) -> None:
        logged = LoggedReasons()
        while True:
            await asyncio.sleep(SWEEP_INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311 - spreads instances, no secret
            failure: Exception | None = None
            away: dict[str, list[str]] = {}
            for source in list(self._sources.values()):
                try:
                    await self._sweep(source)
                    await self._retry_refused(source)
                except TemporarilyUnavailable as error:
                    away.setdefault(error.detail or error.description, []).append(source.name)
                except Exception as error:  # noqa: BLE001 - raised when the other collections are swept
                    failure = error
            for reason, collections in away.items():
                if logged.is_new(reason):
                    log.warning("outbox_not_swept", collections=collections, error=reason)
            if not away:
                logged.clear()
            if failure is not None:
                raise failure

    async def _sweep(self, source: Source) -> None:
        """Publish the events that were left behind, by other processes or this one, oldest first."""
        while await source.give_up(SWEEP_AFTER, self._is_known, BATCH) == BATCH:
            pass
        await self._adopt_abandoned(source)
        # When the bus works again, other processes get the confirmations of their events first, and clear them.
        while len(self._unwritten) < WAITING_LIMIT and self._bus.confirming_for >= SWEEP_AFTER.total_seconds():
            known = self._known()  # before reading: an event that is released meanwhile has been published
            found = await source.pending(self._now() - SWEEP_AFTER, BATCH)
            batch = [(source, event) for event in found if event.id not in known and not self._is_known(event.id)]
            if not batch or not await source.lead(self._holder, self._now()):
                break
            published = await self._publish_held(batch)
            if published.unknown:
                break
        await self._purge(source)
        count, oldest = await source.backlog()
        OUTBOX_BACKLOG.labels(source.name).set(count)
        OUTBOX_AGE.labels(source.name).set((self._now() - oldest).total_seconds() if oldest else 0)

    async def _purge(self, source: Source) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._purge_at.get(source.name, now):
            return
        while found := await source.purgeable(self._now(), PURGE_BATCH):
            if not await source.lead(self._holder, self._now()):
                break
            await source.purge(found, self._now())
        self._purge_at[source.name] = now + PURGE_INTERVAL

    def _known(self) -> frozenset[str]:
        return frozenset((*self._held, *self._unwritten, *self._unconfirmed))

    def _is_known(self, event_id: str) -> bool:
        return event_id in self._held or event_id in self._unwritten or event_id in self._unconfirmed

    async def _adopt_abandoned(self, source: Source) -> None:
        """Move numbered events that were left behind to the pending ones. The bus need not work for that."""
        while True:
            known = self._known()
            found = await source.abandoned(self._now() - SWEEP_AFTER, BATCH)
            left = [event for event in found if event.id not in known and not self._is_known(event.id)]
            if not left or not await source.lead(self._holder, self._now()):
                return
            await source.adopt(left)

    async def _publish_held(self, batch: Sequence[Entry]) -> _Published:
        """Publish events that a sweep found, and update their records."""
        self._held.update(event.id for _, event in batch)
        self._idle.clear()
        published = await self._publish_and_follow(batch)
        failure: Exception | None = None
        for update, events in _updates_of(published).items():
            try:
                await self._write(update, events)
            except Exception as error:  # noqa: BLE001 - raised when the others are written
                failure = error
        if failure is not None:
            raise failure
        return published

    # Refused events

    async def _retry_refused(self, source: Source) -> None:
        """Retry refused events one at a time until one is accepted, then all with its routing key.

        One process does this for each collection. Queues that accepted an event the first time get it again, so as few
        as possible are tried.
        """
        count, oldest = await source.refusals()
        OUTBOX_REFUSED.labels(source.name).set(count)
        OUTBOX_REFUSED_AGE.labels(source.name).set((self._now() - oldest).total_seconds() if oldest else 0)
        if not count or not await source.lead(self._holder, self._now()):
            self._retries.pop(source.name, None)
            return
        clock = asyncio.get_running_loop().time
        retries = self._retries.setdefault(source.name, _Retries(clock() + FIRST_RETRY_BACKOFF))
        while clock() >= retries.due:
            found = await source.refused(1, without=retries.refused_keys)
            if not found:
                retries.refused_keys.clear()
                break
            event = found[0]
            outcome = Outcome.UNKNOWN if self._is_known(event.id) else await self._try_again(source, event)
            if outcome is Outcome.UNKNOWN:
                retries.due = clock() + FIRST_RETRY_BACKOFF
            elif outcome and await self._publish_refused(source, event.key):
                retries.succeeded()
            else:
                retries.failed(event, clock())

    async def _try_again(self, source: Source, event: PendingEvent) -> Outcome:
        """Publish a refused event to all queues again; it is cleared if they accept it."""
        if event.refused_by is RefusedBy.POOL:
            (outcome,) = await self._bus.publish([_for_pools(event)])
            if not outcome:
                return outcome
        published = await self._publish_held([(source, event._replace(sealed=None))])
        if event.refused_by is RefusedBy.POOL and RefusedBy.SUBSCRIBER in published.refused:
            # While a pool refused the other events with this key, it was unknown whether a subscriber did as well.
            await self._publish_refused(source, event.key, by=RefusedBy.POOL, then=RefusedBy.SUBSCRIBER)
        if published.unknown:
            return Outcome.UNKNOWN
        return Outcome.CONFIRMED if published.confirmed else Outcome.REFUSED

    async def _publish_refused(
        self, source: Source, key: str, *, by: RefusedBy | None = None, then: RefusedBy | None = None
    ) -> bool:
        """Publish the refused events with this routing key to the side that refused them; whether all were accepted.

        Accepted events are cleared, or set aside as refused by `then`.
        """
        while await source.lead(self._holder, self._now()):
            refused = await source.refused(RETRY_BATCH, key=key, by=by)
            found = [event for event in refused if not self._is_known(event.id)]
            if not found:
                return True
            outcomes = await self._bus.publish(
                [_for_pools(event) if event.refused_by is RefusedBy.POOL else _public(event) for event in found]
            )
            accepted = [event for event, outcome in zip(found, outcomes, strict=True) if outcome]
            await self._write(_RecordUpdate(source.name, then), accepted)
            if then is None:
                EVENTS_PUBLISHED.labels(source.name).inc(len(accepted))
            if len(accepted) < len(found):
                return False
            await asyncio.sleep(RETRY_PAUSE)
        return False


def _updates_of(published: _Published) -> Mapping[_RecordUpdate, list[PendingEvent]]:
    """The update of each record."""
    updates: dict[_RecordUpdate, list[PendingEvent]] = {}
    for refused_by, entries in ((None, published.confirmed), *published.refused.items()):
        for source, event in entries:
            updates.setdefault(_RecordUpdate(source.name, refused_by), []).append(event)
    return updates


def _count(published: _Published) -> None:
    for name, events in Counter(source.name for source, _ in published.confirmed).items():
        EVENTS_PUBLISHED.labels(name).inc(events)
    for name, events in Counter(source.name for source, _ in published.unknown).items():
        EVENTS_UNPUBLISHED.labels(name).inc(events)
    for refused_by, entries in published.refused.items():
        for name, events in Counter(source.name for source, _ in entries).items():
            EVENTS_REFUSED.labels(name, refused_by.value).inc(events)
