"""Records that carry their own unpublished events: state and event change in the same write, or not at all."""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple

import orjson
from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from contracts.events import PendingEvent
from libs.events import moment_of
from libs.store.mongo import Conflict, Document, GroupCommit, GroupedFind, Mongo, outage_is_unavailability, settled

RETENTION = timedelta(days=1)
"""How long a record that is over stays readable."""

LEAD = timedelta(seconds=5)
"""How long a process that died keeps others from sweeping in its place."""

OUTBOX_INDEXES = (
    # Each holds only what it is for, so that a settled, living record costs them nothing.
    IndexModel("pending_since", name="pending", partialFilterExpression={"pending_since": {"$exists": True}}),
    IndexModel("handover_since", name="handover", partialFilterExpression={"handover_since": {"$exists": True}}),
    IndexModel("purge_at", name="purge", expireAfterSeconds=0, partialFilterExpression={"purge_at": {"$exists": True}}),
)


def _oldest(sent: bool, moment: str) -> Document:
    """The least `moment` of the entries that are sent, or are not; no field at all where there are none."""
    condition = {"$gt": ["$$this.sent_at", None]}
    entries = {"$filter": {"input": "$pending", "cond": condition if sent else {"$not": [condition]}}}
    return {"$ifNull": [{"$min": {"$map": {"input": entries, "in": f"$$this.{moment}"}}}, "$$REMOVE"]}


_NONE_LEFT: Document = {"$eq": [{"$size": {"$ifNull": ["$pending", []]}}, 0]}
PURGE_AT: Document = {"$cond": [_NONE_LEFT, {"$ifNull": ["$purge_after", "$$REMOVE"]}, "$$REMOVE"]}
"""When a record may go: not while it has an event to tell."""
_SUMMARY: Document = {
    "pending_since": _oldest(False, "at"),
    "handover_since": _oldest(True, "sent_at"),
    "purge_at": PURGE_AT,
    "pending": {"$cond": [_NONE_LEFT, "$$REMOVE", "$pending"]},
}
"""What follows from `pending`, for the indexes."""

Announce = Callable[["Ledger", PendingEvent], None]
"""Told of every committed event, so that it is published at once; returns at once, may forget (a sweep follows)."""


def nobody(ledger: "Ledger", event: PendingEvent) -> None:
    """Announces nothing: every event waits for the sweeper."""


def entry_of(event: PendingEvent) -> Document:
    """The event as its record carries it."""
    entry: Document = {"id": event.id, "key": event.key, "body": event.body, "at": event.at}
    if event.sealed is not None:
        entry["sealed"] = event.sealed
    return entry


def _events(document: Document, *, sent: bool) -> Iterable[PendingEvent]:
    for entry in document.get("pending", ()):
        if ("sent_at" in entry) is not sent:
            continue
        yield PendingEvent(
            id=entry["id"],
            owner=document["_id"],
            key=entry["key"],
            body=entry["body"],
            sealed=entry.get("sealed"),
            at=entry["at"],
        )


class Standing(NamedTuple):
    """What a record says of its own events."""

    subject: str
    before: int
    """The sequence of the last event of an earlier record under the same id; 0 where there was none."""
    sequence: int
    """The sequence of its last event."""
    last: str | datetime
    """The id of its last event, or a moment that is no earlier."""
    unpublished: Collection[int] = ()
    """Sequences of the events that it carries and that are not known to be published."""
    carried: Collection[str] = ()
    """Ids of all events that it carries."""

    @property
    def committed(self) -> range:
        """The sequences of its events."""
        return range(self.before + 1, self.sequence + 1)

    @property
    def latest(self) -> datetime:
        """No event of it is younger."""
        return self.last if isinstance(self.last, datetime) else moment_of(self.last)


class Ledger:
    """One collection of such records. `purge_after` of a record counts from the moment its last event is published."""

    name: str
    indexes: Sequence[IndexModel] = ()
    counter: ClassVar[str] = "version"
    """The field that is the sequence of the record's last event."""
    last: ClassVar[str] = "last_event"
    """The field that says when it was."""

    def __init__(self, mongo: Mongo, announce: Announce = nobody) -> None:
        self._mongo = mongo
        self._announce = announce
        self._group = GroupCommit(lambda: mongo[self.name])
        self._finder = GroupedFind(lambda: mongo[self.name])
        mongo.want(self.name, (*self.indexes, *OUTBOX_INDEXES))

    async def _read(self, key: str) -> Document | None:
        return await self._finder.find(key)

    async def _insert(self, document: Document, event: PendingEvent) -> None:
        """The record with its first event, in one write shared with others; its id must be random."""
        document["pending"], document["pending_since"] = [entry_of(event)], event.at
        await self._group.insert(document)
        self._announce(self, event)

    async def _insert_named(self, document: Document, event: PendingEvent) -> None:
        """The record with its first event; its id or another unique field may be taken. Raises Conflict."""
        document = {**document, "pending": [entry_of(event)], "pending_since": event.at}

        async def write(repeated: bool) -> None:
            try:
                await self._mongo[self.name].insert_one(document)
            except DuplicateKeyError as error:
                if not (repeated and await self._has(document["_id"], event)):
                    raise Conflict(document["_id"]) from error

        await settled(write)
        self._announce(self, event)

    async def _has(self, key: str, event: PendingEvent) -> bool:
        found = await self._mongo[self.name].find_one({"_id": key}, {"last_event": 1, "pending.id": 1})
        if found is None:
            return False
        return found.get("last_event") == event.id or any(entry["id"] == event.id for entry in found.get("pending", ()))

    async def _advance(self, key: str, version: int, fields: Document, event: PendingEvent | None) -> bool:
        """Set the fields and add the event, if the record is still at `version`; whether it was.

        After an ambiguous error the same compare-and-set is repeated with the same values: a miss on a record that
        carries the very event is success. Raises Conflict where another unique field is taken.
        """
        update: Document = {"$set": fields}
        if event is not None:
            update |= {"$push": {"pending": entry_of(event)}, "$min": {"pending_since": event.at}}
            update["$unset"] = {"purge_at": ""}

        async def write(repeated: bool) -> bool:
            try:
                result = await self._mongo[self.name].update_one({"_id": key, "version": version}, update)
            except DuplicateKeyError as error:
                raise Conflict(key) from error
            if result.matched_count == 1:
                return True
            return repeated and event is not None and await self._has(key, event)

        advanced = await settled(write)
        if advanced and event is not None:
            self._announce(self, event)
        return advanced

    async def pending(self, before: datetime, limit: int) -> Sequence[PendingEvent]:
        """Events committed before `before` and not yet known to be published, of the oldest records first.

        Read with majority concern: an event whose write may still be rolled back is not seen.
        """
        async with outage_is_unavailability():
            cursor = (
                self._mongo.majority(self.name)
                .find({"pending_since": {"$lt": before}}, {"pending": 1})
                .sort("pending_since", 1)
                .limit(limit)
            )
            return [event async for document in cursor for event in _events(document, sent=False)]

    async def backlog(self) -> tuple[int, datetime | None]:
        """How many records have unpublished events, and since when the oldest waits."""
        async with outage_is_unavailability():
            collection = self._mongo[self.name]
            count = await collection.count_documents({"pending_since": {"$exists": True}})
            oldest = await collection.find_one({"pending_since": {"$exists": True}}, sort=[("pending_since", 1)])
        return count, oldest["pending_since"] if oldest else None

    async def clear(self, events: Sequence[PendingEvent]) -> None:
        """Note that events were published. Idempotent.

        An event is forgotten; one with a sealed part only once it is `handed_over`, so that a broker that loses its
        disk loses no notification. A record with no event left may be purged from now on.
        """
        ids = [event.id for event in events]
        published = {"$in": ["$$this.id", ids]}
        forgotten = {"$and": [published, {"$not": ["$$this.sealed"]}]}
        sent = {"$mergeObjects": ["$$this", {"sent_at": {"$ifNull": ["$$this.sent_at", "$$NOW"]}}]}
        kept = {"$filter": {"input": "$pending", "cond": {"$not": [forgotten]}}}
        marked = {"$map": {"input": kept, "in": {"$cond": [published, sent, "$$this"]}}}
        await self._rewrite_pending(events, marked)

    async def awaiting_handover(self, before: datetime, limit: int) -> Sequence[PendingEvent]:
        """Events with a sealed part, published before `before`, that nobody said were handed over; the oldest first."""
        async with outage_is_unavailability():
            cursor = (
                self._mongo.majority(self.name)
                .find({"handover_since": {"$lt": before}}, {"pending": 1})
                .sort("handover_since", 1)
                .limit(limit)
            )
            return [event async for document in cursor for event in _events(document, sent=True)]

    async def handed_over(self, events: Sequence[PendingEvent]) -> None:
        """Forget events whose notification is in other hands. Idempotent."""
        ids = [event.id for event in events]
        left = {"$filter": {"input": "$pending", "cond": {"$not": [{"$in": ["$$this.id", ids]}]}}}
        await self._rewrite_pending(events, left)

    async def _rewrite_pending(self, events: Sequence[PendingEvent], pending: Document) -> None:
        pipeline: list[Document] = [{"$set": {"pending": pending}}, {"$set": _SUMMARY}]
        owners = list({event.owner for event in events})
        ids = [event.id for event in events]
        async with outage_is_unavailability():
            query = {"_id": {"$in": owners}, "pending.id": {"$in": ids}}
            await self._mongo[self.name].update_many(query, pipeline)

    async def present(self, keys: Sequence[str]) -> frozenset[str]:
        """Which of these ids have a record, in whatever state."""
        async with outage_is_unavailability():
            cursor = self._mongo.majority(self.name).find({"_id": {"$in": list(keys)}}, {"_id": 1})
            return frozenset([document["_id"] async for document in cursor])

    def _made(self, since: datetime, until: datetime) -> Document:
        """A query for the records made from `since` on and before `until`."""
        return {"created_at": {"$gte": since, "$lt": until}}

    async def standings(self, since: datetime, until: datetime, batch: int) -> AsyncIterator[Sequence[Standing]]:
        """What the records made from `since` on and before `until` say of their events, in batches."""
        async with outage_is_unavailability():
            query = self._made(since, until)
            cursor = self._mongo.majority(self.name).find(query, self._standing_fields, batch_size=batch)
            while found := await cursor.to_list(batch):
                yield [self._standing(document) for document in found]

    async def standings_of(self, keys: Sequence[str]) -> Sequence[Standing]:
        """What these records say of their events now."""
        async with outage_is_unavailability():
            query = {"_id": {"$in": list(keys)}}
            found = await self._mongo.majority(self.name).find(query, self._standing_fields).to_list(None)
        return [self._standing(document) for document in found]

    @property
    def _standing_fields(self) -> Document:
        fields = (self.counter, "before", self.last, "pending.id", "pending.body", "pending.sent_at")
        return dict.fromkeys(fields, 1)

    def _standing(self, document: Document) -> Standing:
        standing = Standing(document["_id"], document.get("before", 0), document[self.counter], document[self.last])
        if pending := document.get("pending"):
            unsent = [orjson.loads(entry["body"]) for entry in pending if "sent_at" not in entry]
            return standing._replace(
                unpublished=[int(event["sequence"]) for event in unsent], carried=[entry["id"] for entry in pending]
            )
        return standing

    async def lead(self, holder: str, now: datetime) -> bool:
        """Whether `holder` is the one process that sweeps this collection, for the next LEAD."""
        lease = self._mongo["leases"]
        free = {"_id": f"sweep {self.name}", "$or": [{"holder": holder}, {"until": {"$lte": now}}]}
        try:
            async with outage_is_unavailability():
                await lease.update_one(free, {"$set": {"holder": holder, "until": now + LEAD}}, upsert=True)
        except DuplicateKeyError:
            return False
        return True
