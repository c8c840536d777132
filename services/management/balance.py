"""Whether the events balance: what the records say they committed, against what the bus brought."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

from contracts.audit import AuditAnswer, AuditExample, EventBalance, Fault, NotificationBalance, RecordingState
from libs.bus.port import BusUnavailable, Parking
from libs.events import first_event_id, moment_of
from libs.store.deliveries import Deliveries
from libs.store.events import KEPT, SLICE, RecordedEvents, Seen
from libs.store.ledger import RETENTION, Ledger, Standing
from libs.store.store import Store
from services.management.recorder import POOL

BATCH = 1000
"""Records looked at together."""
GRACE = timedelta(seconds=10)
"""An event this young may be on its way between two sights of it."""
MOST_EXAMPLES = 20
EARLIEST = KEPT - timedelta(hours=1)
"""No record older than this can be audited: its first events may be forgotten."""

T = TypeVar("T")


class Unexplained(NamedTuple):
    """An event that was neither published nor pending when we looked."""

    subject: str
    sequence: int


class Published(NamedTuple):
    """The published events of a record."""

    standing: Standing
    events: Sequence[Seen]


@dataclass(slots=True)
class Sheet:
    """The counts of one collection while they are made."""

    collection: str
    horizon: str
    """Event ids before this are of no concern to `firsts`."""
    counts: Counter[str] = field(default_factory=Counter)
    notifications: Counter[str] = field(default_factory=Counter)
    firsts: Counter[str] = field(default_factory=Counter)
    """How many records had their first event recorded, by the slice of time."""
    unexplained: list[Unexplained] = field(default_factory=list)
    ahead: list[Unexplained] = field(default_factory=list)
    """Events that the bus brought before the record was seen to have them."""
    examples: list[AuditExample] = field(default_factory=list)

    def fault(self, fault: Fault, subject: str, sequence: int) -> None:
        """Remember this one, if there are not enough already."""
        if len(self.examples) < MOST_EXAMPLES:
            example = AuditExample(fault=fault, collection=self.collection, subject=subject, sequence=sequence)
            self.examples.append(example)

    def enter(self, standing: Standing, seen: Sequence[Seen]) -> Published:
        """Count one record's events."""
        committed = standing.committed
        sequences = {event.sequence: event for event in seen}
        self.counts["records"] += 1
        self.counts["committed"] += len(committed)
        if 1 in sequences and sequences[1].id >= self.horizon:
            self.firsts[sequences[1].id[SLICE]] += 1
        if len(seen) == len(sequences) == len(committed) and all(sequence in committed for sequence in sequences):
            published = seen
        else:
            published = self._enter_unequal(standing, sequences, seen)
        self.counts["published"] += len(published)
        return Published(standing, published)

    def _enter_unequal(self, standing: Standing, sequences: Mapping[int, Seen], seen: Sequence[Seen]) -> list[Seen]:
        subject, committed = standing.subject, standing.committed
        for event in seen:
            if sequences[event.sequence].id != event.id:
                self.counts["doubled"] += 1
                self.fault(Fault.DOUBLED, subject, event.sequence)
        for sequence in committed:
            if sequence in sequences:
                continue
            if sequence in standing.unpublished:
                self.counts["pending"] += 1
            else:
                self.unexplained.append(Unexplained(subject, sequence))
        self.ahead += [Unexplained(subject, sequence) for sequence in sequences if sequence > standing.sequence]
        return [event for sequence, event in sequences.items() if sequence in committed]

    @property
    def balance(self) -> EventBalance:
        """The counts as they are answered."""
        return EventBalance.model_validate(self.counts)


class Auditor:
    """Compares batch by batch: with any number of records it holds few of them."""

    def __init__(self, store: Store, parking: Parking, now: Callable[[], datetime]) -> None:
        self._ledgers: tuple[Ledger, ...] = store.ledgers
        self._events: RecordedEvents = store.events
        self._deliveries: Deliveries = store.deliveries
        self._notifying = store.grants.name
        self._parking = parking
        self._now = now

    async def audit(self, since: datetime, until: datetime) -> AuditAnswer:
        """The events of the records made from `since` on and before `until`. Raises TemporarilyUnavailable."""
        # A record stays for at least RETENTION: where a younger event has none, there never was one.
        known = max(since, self._now() - RETENTION)
        sheets = [await self._sheet(ledger, since, until, first_event_id(known)) for ledger in self._ledgers]
        await self._find_strangers(sheets, known, until)
        recording = await self._recording()
        for sheet, ledger in zip(sheets, self._ledgers, strict=True):
            await self._explain(sheet, ledger, recording)
            await self._find_phantoms(sheet, ledger)
        total = EventBalance.model_validate(sum((sheet.counts for sheet in sheets), Counter[str]()))
        notifications = NotificationBalance.model_validate(sum((s.notifications for s in sheets), Counter[str]()))
        return AuditAnswer.model_validate(
            {
                "from": since,
                "to": until,
                "balanced": not (total.missing or total.phantom or total.doubled or notifications.missing),
                "total": total,
                "collections": {sheet.collection: sheet.balance for sheet in sheets},
                "notifications": notifications,
                "recording": recording,
                "examples": [example for sheet in sheets for example in sheet.examples][:MOST_EXAMPLES],
            }
        )

    async def _sheet(self, ledger: Ledger, since: datetime, until: datetime, horizon: str) -> Sheet:
        sheet = Sheet(ledger.name, horizon)
        async for standings in ledger.standings(since, until, BATCH):
            # Those without events need not be asked about: what somebody made up for one has a first event.
            seen = await self._events.about(ledger.name, [each.subject for each in standings if each.sequence])
            published = [sheet.enter(standing, seen.get(standing.subject, ())) for standing in standings]
            if ledger.name == self._notifying:
                await self._enter_notifications(sheet, published)
        return sheet

    async def _enter_notifications(self, sheet: Sheet, published: Iterable[Published]) -> None:
        counts = sheet.notifications
        wanted = [(standing, event) for standing, events in published for event in events if event.notify]
        number = sum(len(events) for _, events in published)
        counts["published"] += number
        counts["not_applicable"] += number - len(wanted)
        if not wanted:
            return
        # The grants were read before: what they carried no more then is a delivery by now.
        ids = [event.id for _, event in wanted]
        reached = await self._deliveries.count_states(ids)
        if sum(reached.values()) == len(set(ids)) == len(ids):
            counts.update({state.value: count for state, count in reached.items()})
            return
        states = await self._deliveries.states(ids)
        for standing, event in wanted:
            if state := states.get(event.id):
                counts[state.value] += 1
            elif event.id in standing.carried:
                counts["handover"] += 1
            else:
                counts["missing"] += 1
                sheet.fault(Fault.NOT_NOTIFIED, standing.subject, event.sequence)

    async def _find_strangers(self, sheets: Sequence[Sheet], since: datetime, until: datetime) -> None:
        """Events of records that there are not. Looks closely only where the numbers differ."""
        counts = await self._events.firsts(since, until)
        for sheet, ledger in zip(sheets, self._ledgers, strict=True):
            for part in [part for (name, part), count in counts.items() if name == ledger.name]:
                if counts[ledger.name, part] == sheet.firsts[part]:
                    continue
                subjects = await self._events.subjects_of(ledger.name, part)
                present = await ledger.present(subjects)
                for subject in set(subjects) - present:
                    sheet.counts["phantom"] += 1
                    sheet.fault(Fault.PHANTOM, subject, 1)

    async def _recording(self) -> RecordingState:
        try:
            return RecordingState(waiting=await self._parking.waiting(POOL), parked=await self._parking.parked(POOL))
        except BusUnavailable:
            return RecordingState(waiting=None, parked=None)

    async def _explain(self, sheet: Sheet, ledger: Ledger, recording: RecordingState) -> None:
        """What was unexplained at first sight is in flight, or missing."""
        for part in _parts(sheet.unexplained):
            subjects = list({each.subject for each in part})
            latest = {standing.subject: standing.latest for standing in await ledger.standings_of(subjects)}
            seen = await self._events.about(ledger.name, subjects)
            young = self._now() - GRACE
            for subject, sequence in part:
                events = seen.get(subject, ())
                late = any(event.sequence == sequence for event in events)
                # Whatever a record did before is no younger than what it did later.
                later = [moment_of(event.id) for event in events if event.sequence > sequence]
                if subject in latest:
                    later.append(latest[subject])
                # With an empty queue, all that was published before we looked is recorded.
                if late or recording.waiting != 0 or (later and min(later) > young):
                    sheet.counts["in_flight"] += 1
                else:
                    sheet.counts["missing"] += 1
                    sheet.fault(Fault.MISSING, subject, sequence)

    async def _find_phantoms(self, sheet: Sheet, ledger: Ledger) -> None:
        """What was ahead of its record at first sight, and still is, was never committed."""
        for part in _parts(sheet.ahead):
            standings = await ledger.standings_of(list({each.subject for each in part}))
            reached = {standing.subject: standing.sequence for standing in standings}
            for subject, sequence in part:
                # A record that is gone by now had published all it had.
                if sequence > reached.get(subject, sequence):
                    sheet.counts["phantom"] += 1
                    sheet.fault(Fault.PHANTOM, subject, sequence)


def _parts(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
