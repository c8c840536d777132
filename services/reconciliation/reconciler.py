"""Compares the events that records say they committed with the events that the bus delivered."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

from contracts.events import RefusedBy
from contracts.reconciliation import (
    Discrepancy,
    DiscrepancyKind,
    EventBalance,
    NotificationBalance,
    ReconciliationReport,
    RecordingState,
    RefusedEvents,
    UnpublishedEvents,
)
from libs.bus.port import BusUnavailable, PoolQueues
from libs.event_encoding import first_event_id, moment_of
from libs.store.deliveries import Deliveries
from libs.store.outbox_collection import RETENTION, OutboxCollection, OutboxStatus
from libs.store.reconciliation_results import WINDOW, ReconciliationResults, window_of
from libs.store.recorded_events import KEPT, SLICE, RecordedEvents, Seen
from libs.store.store import Store
from services.reconciliation.recorder import POOL

BATCH = 1000
"""Records compared together."""
COMPARED_AT_ONCE = 250
"""Up to so many records are compared while a request waits; each takes about a tenth of a millisecond."""
EPSILON = timedelta(milliseconds=1)
"""The smallest difference between two times."""
GRACE = timedelta(seconds=10)
"""An event younger than this may still be on its way between record, bus and recorder."""
MAX_EXAMPLES = 20
EARLIEST = KEPT - timedelta(hours=1)
"""Records older than this are not compared: recorded events are deleted after KEPT."""

EVENT_POOLS = ("event_log", "revocation", "management")
"""Pools of the bus that receive events."""
_SUBSCRIBER_REFUSES = (
    "A subscriber's queue that is bound to tokenwire.events is full and refuses messages (x-overflow: reject-publish). "
    "`rabbitmqctl list_queues name messages consumers arguments policy` shows which: have its owner consume or delete "
    "it, and declare it with x-overflow: drop-head. Every other queue has these events. If none is full, RabbitMQ "
    "refuses every message: its disk may be full (its log says so); free space, and restart it."
)
_POOL_REFUSES = (
    "One of Tokenwire's queues is full, missing, or without a quorum: {queues}. Start the service that "
    "consumes it (management: event_log, management; revocation: revocation), or more instances of it."
)

T = TypeVar("T")


class Unexplained(NamedTuple):
    """An event that at first was neither published nor pending."""

    subject: str
    sequence: int


class Published(NamedTuple):
    """A record and its published events."""

    status: OutboxStatus
    events: Sequence[Seen]


@dataclass(slots=True)
class CollectionComparison:
    """The comparison of one collection's committed and recorded events, while it runs."""

    collection: str
    horizon: str
    """Event ids before this are not counted in `firsts`."""
    counts: Counter[str] = field(default_factory=Counter)
    notifications: Counter[str] = field(default_factory=Counter)
    firsts: Counter[str] = field(default_factory=Counter)
    """Number of records whose first event was recorded, by time slice."""
    unexplained: list[Unexplained] = field(default_factory=list)
    ahead: list[Unexplained] = field(default_factory=list)
    """Events that the bus delivered although the record, as it was read, has not committed them."""
    examples: list[Discrepancy] = field(default_factory=list)

    def add_example(self, fault: DiscrepancyKind, subject: str, sequence: int) -> None:
        """Keep the event as an example, unless there are enough."""
        if len(self.examples) < MAX_EXAMPLES:
            example = Discrepancy(fault=fault, collection=self.collection, subject=subject, sequence=sequence)
            self.examples.append(example)

    def count(self, status: OutboxStatus, seen: Sequence[Seen]) -> Published:
        """Count the events of one record."""
        committed = status.committed
        sequences = {event.sequence: event for event in seen}
        self.counts["records"] += 1
        self.counts["committed"] += len(committed)
        if 1 in sequences and sequences[1].id >= self.horizon:
            self.firsts[sequences[1].id[SLICE]] += 1
        if len(seen) == len(sequences) == len(committed) and all(sequence in committed for sequence in sequences):
            published = seen
        else:
            published = self._count_differences(status, sequences, seen)
        self.counts["published"] += len(published)
        return Published(status, published)

    def _count_differences(
        self, status: OutboxStatus, sequences: Mapping[int, Seen], seen: Sequence[Seen]
    ) -> list[Seen]:
        subject, committed = status.subject, status.committed
        for event in seen:
            if sequences[event.sequence].id != event.id:
                self.counts["doubled"] += 1
                self.add_example(DiscrepancyKind.DOUBLED, subject, event.sequence)
        for sequence in committed:
            if sequence in sequences:
                continue
            if sequence in status.unpublished:
                self.counts["pending"] += 1
            else:
                self.unexplained.append(Unexplained(subject, sequence))
        self.ahead += [Unexplained(subject, sequence) for sequence in sequences if sequence > status.sequence]
        return [event for sequence, event in sequences.items() if sequence in committed]

    @property
    def balance(self) -> EventBalance:
        """The counts for the report."""
        return EventBalance.model_validate(self.counts)


class Reconciler:
    """Compares in batches, so that memory does not grow with the number of records."""

    def __init__(self, store: Store, queues: PoolQueues, now: Callable[[], datetime]) -> None:
        self._collections: tuple[OutboxCollection, ...] = store.outbox_collections
        self._events: RecordedEvents = store.events
        self._deliveries: Deliveries = store.deliveries
        self._results: ReconciliationResults = store.reconciliation_results
        self._notifying = store.grants.name
        self._queues = queues
        self._now = now

    async def compare(self, since: datetime, until: datetime) -> ReconciliationReport:
        """Compare the events of records created from `since` until before `until`. Raises TemporarilyUnavailable."""
        began = self._now()
        # Records are kept for at least RETENTION, so a younger event without a record was never committed.
        known = max(since, began - RETENTION)
        comparisons = [
            await self._compare_collection(collection, since, until, first_event_id(known))
            for collection in self._collections
        ]
        await self._find_orphans(comparisons, known, until)
        recording = await self._recording()
        unpublished, refused = await asyncio.gather(self._unpublished(), self._refused())
        for comparison, collection in zip(comparisons, self._collections, strict=True):
            await self._classify_unexplained(comparison, collection, recording)
            await self._find_phantoms(comparison, collection)
        return _report(
            since,
            until,
            {comparison.collection: comparison.balance for comparison in comparisons},
            NotificationBalance.model_validate(sum((s.notifications for s in comparisons), Counter[str]())),
            recording,
            unpublished,
            refused,
            [example for comparison in comparisons for example in comparison.examples],
            as_of=began,
        )

    async def is_small(self, since: datetime, until: datetime) -> bool:
        """Whether at most COMPARED_AT_ONCE records were created in this time."""
        left = COMPARED_AT_ONCE
        for collection in self._collections:
            left -= await collection.count_created_up_to(left + 1, since, until)
            if left < 0:
                return False
        return True

    async def compare_window(self, window: datetime) -> ReconciliationReport:
        """Compare the records created in this window, and store the result. Raises TemporarilyUnavailable."""
        now = self._now()
        found = await self.compare(window, window + WINDOW)
        await self._results.put(window, now, found)
        return found

    async def stored_report(self, since: datetime, until: datetime) -> ReconciliationReport:
        """The sum of the stored results of all windows in this time. Raises TemporarilyUnavailable."""
        since, until = window_of(since), window_of(until - EPSILON) + WINDOW
        results, recording, unpublished, refused = await asyncio.gather(
            self._results.between(since, until), self._recording(), self._unpublished(), self._refused()
        )
        counts = {collection.name: Counter[str]() for collection in self._collections}
        notifications = Counter[str]()
        for result in results:
            notifications.update(result.notifications)
            for name in counts.keys() & result.collections.keys():
                counts[name].update(result.collections[name])
        collections = {name: EventBalance.model_validate(numbers) for name, numbers in counts.items()}
        return _report(
            since,
            until,
            collections,
            NotificationBalance.model_validate(notifications),
            recording,
            unpublished,
            refused,
            [example for result in results for example in result.examples],
            as_of=min((result.checked_at for result in results), default=None),
            unchecked=(until - since) // WINDOW - len(results),
        )

    async def _compare_collection(
        self, collection: OutboxCollection, since: datetime, until: datetime, horizon: str
    ) -> CollectionComparison:
        comparison = CollectionComparison(collection.name, horizon)
        async for statuses in collection.outbox_statuses(since, until, BATCH):
            # Records without events are skipped here; _find_orphans finds phantom events of such records.
            seen = await self._events.about(collection.name, [each.subject for each in statuses if each.sequence])
            published = [comparison.count(status, seen.get(status.subject, ())) for status in statuses]
            if collection.name == self._notifying:
                await self._count_notifications(comparison, published)
        return comparison

    async def _count_notifications(self, comparison: CollectionComparison, published: Iterable[Published]) -> None:
        counts = comparison.notifications
        wanted = [(status, event) for status, events in published for event in events if event.notify]
        number = sum(len(events) for _, events in published)
        counts["published"] += number
        counts["not_applicable"] += number - len(wanted)
        if not wanted:
            return
        # The grants were read before: a webhook that was no longer stored with its grant then is a delivery by now.
        ids = [event.id for _, event in wanted]
        reached = await self._deliveries.count_states(ids)
        if sum(reached.values()) == len(set(ids)) == len(ids):
            counts.update({state.value: count for state, count in reached.items()})
            return
        states = await self._deliveries.states(ids)
        for status, event in wanted:
            if state := states.get(event.id):
                counts[state.value] += 1
            elif event.id in status.carried:
                counts["handover"] += 1
            else:
                counts["missing"] += 1
                comparison.add_example(DiscrepancyKind.NOT_NOTIFIED, status.subject, event.sequence)

    async def _find_orphans(
        self, comparisons: Sequence[CollectionComparison], since: datetime, until: datetime
    ) -> None:
        """Find events of records that do not exist; examines single events only in slices whose counts differ."""
        counts = await self._events.firsts([collection.name for collection in self._collections], since, until)
        for comparison, collection in zip(comparisons, self._collections, strict=True):
            for part in [part for (name, part), count in counts.items() if name == collection.name]:
                if counts[collection.name, part] == comparison.firsts[part]:
                    continue
                subjects = await self._events.subjects_of(collection.name, part)
                present = await collection.present(subjects)
                for subject in set(subjects) - present:
                    comparison.counts["phantom"] += 1
                    comparison.add_example(DiscrepancyKind.PHANTOM, subject, 1)

    async def _recording(self) -> RecordingState:
        try:
            return RecordingState(
                waiting=await self._queues.waiting(POOL), dead_letters=await self._queues.dead_letters(POOL)
            )
        except BusUnavailable:
            return RecordingState(waiting=None, dead_letters=None)

    async def _unpublished(self) -> UnpublishedEvents:
        """Events in all collections that are still to be published."""
        counts = await asyncio.gather(*(collection.backlog() for collection in self._collections))
        oldest = min((since for _, since in counts if since is not None), default=None)
        return UnpublishedEvents(records=sum(records for records, _ in counts), oldest=oldest)

    async def _refused(self) -> RefusedEvents:
        """Events in all collections that wait because a queue refuses them."""
        counts = await asyncio.gather(*(collection.refusals() for collection in self._collections))
        by = frozenset[RefusedBy]().union(
            *[
                await collection.refused_by()
                for collection, (records, _) in zip(self._collections, counts, strict=True)
                if records
            ]
        )
        causes = [_SUBSCRIBER_REFUSES] if RefusedBy.SUBSCRIBER in by else []
        if RefusedBy.POOL in by:
            causes.append(_POOL_REFUSES.format(queues=", ".join([await self._described(pool) for pool in EVENT_POOLS])))
        oldest = min((since for _, since in counts if since is not None), default=None)
        return RefusedEvents(records=sum(records for records, _ in counts), oldest=oldest, likely_causes=causes)

    async def _described(self, pool: str) -> str:
        try:
            return f"tokenwire.{pool} has {await self._queues.waiting(pool)} messages"
        except BusUnavailable:
            return f"tokenwire.{pool} cannot be inspected"

    async def _classify_unexplained(
        self, comparison: CollectionComparison, collection: OutboxCollection, recording: RecordingState
    ) -> None:
        """Decide which of the unexplained events are in flight and which are missing."""
        for part in _parts(comparison.unexplained):
            subjects = list({each.subject for each in part})
            latest = {status.subject: status.latest for status in await collection.outbox_statuses_of(subjects)}
            seen = await self._events.about(collection.name, subjects)
            young = self._now() - GRACE
            for subject, sequence in part:
                events = seen.get(subject, ())
                late = any(event.sequence == sequence for event in events)
                # Earlier events of a record are at least as old as later ones.
                later = [moment_of(event.id) for event in events if event.sequence > sequence]
                if subject in latest:
                    later.append(latest[subject])
                # If the queue was empty, everything published before that is recorded.
                if late or recording.waiting != 0 or (later and min(later) > young):
                    comparison.counts["in_flight"] += 1
                else:
                    comparison.counts["missing"] += 1
                    comparison.add_example(DiscrepancyKind.MISSING, subject, sequence)

    async def _find_phantoms(self, comparison: CollectionComparison, collection: OutboxCollection) -> None:
        """Events that are still ahead of their record, read again, were never committed."""
        for part in _parts(comparison.ahead):
            statuses = await collection.outbox_statuses_of(list({each.subject for each in part}))
            reached = {status.subject: status.sequence for status in statuses}
            for subject, sequence in part:
                # A record that was deleted meanwhile had published all its events.
                if sequence > reached.get(subject, sequence):
                    comparison.counts["phantom"] += 1
                    comparison.add_example(DiscrepancyKind.PHANTOM, subject, sequence)


def _total(balances: Iterable[EventBalance]) -> EventBalance:
    return EventBalance.model_validate(sum((Counter(each.model_dump()) for each in balances), Counter[str]()))


def _report(
    since: datetime,
    until: datetime,
    collections: Mapping[str, EventBalance],
    notifications: NotificationBalance,
    recording: RecordingState,
    unpublished: UnpublishedEvents,
    refused: RefusedEvents,
    examples: Sequence[Discrepancy],
    *,
    as_of: datetime | None,
    unchecked: int = 0,
) -> ReconciliationReport:
    total = _total(collections.values())
    return ReconciliationReport.model_validate(
        {
            "from": since,
            "to": until,
            "as_of": as_of,
            "unchecked": unchecked,
            "balanced": not (
                total.missing or total.phantom or total.doubled or notifications.missing or refused.records
            ),
            "total": total,
            "collections": collections,
            "notifications": notifications,
            "recording": recording,
            "unpublished": unpublished,
            "refused": refused,
            "examples": examples[:MAX_EXAMPLES],
        }
    )


def _parts(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
