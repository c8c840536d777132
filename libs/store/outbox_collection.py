"""The transactional outbox: records carry their own unpublished events.

A change of a record and the event that tells of it are one write to one document, so neither exists without the other.
The process that made the change publishes the event at once and then clears it from the record. If the process dies in
between, another one finds the event by the index on `pending_since` and publishes it (`libs.bus.outbox`).

The first event of a grant is not cleared: its record is numbered, and the checkpoint of the process that inserted it
tells that the event is published (`libs.store.checkpoints`). Only if it is not published soon, a sweeper moves it to
the pending events of its record.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple

import orjson
from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from contracts.events import PendingEvent, RefusedBy
from libs.event_encoding import moment_of
from libs.store.batched import batched_finds, batched_inserts
from libs.store.checkpoints import NUMBERED_INDEXES, Checkpoint, Checkpoints, unsettled
from libs.store.mongo import Conflict, Document, Mongo, outage_is_unavailability, outcome_of_write

RETENTION = timedelta(days=1)
"""How long a record stays readable after its end."""

LEAD = timedelta(seconds=10)
"""For how long the lease to sweep a collection is taken. Longer than it takes to publish a batch. A process that dies
with the lease delays the next sweep by this much."""

OUTBOX_INDEXES = (
    # Partial indexes: a record without unpublished events, that is, nearly every one, is in none of them.
    IndexModel("pending_since", name="pending", partialFilterExpression={"pending_since": {"$exists": True}}),
    IndexModel("handover_since", name="handover", partialFilterExpression={"handover_since": {"$exists": True}}),
    IndexModel("refused_since", name="refused", partialFilterExpression={"refused_since": {"$exists": True}}),
    IndexModel("purge_at", name="purge", expireAfterSeconds=0, partialFilterExpression={"purge_at": {"$exists": True}}),
)


_SENT: Document = {"$gt": ["$$this.sent_at", None]}
_REFUSED: Document = {"$and": [{"$gt": ["$$this.refused_by", None]}, {"$not": [_SENT]}]}
_UNPUBLISHED: Document = {"$not": [{"$or": [_SENT, _REFUSED]}]}
_UNDELIVERED: Document = {"$and": [{"$gt": ["$$this.sealed", None]}, {"$or": [_SENT, _REFUSED]}]}
"""A notification that was sent or refused and that the notifier has not confirmed; it fetches it from the record."""


def _oldest(condition: Document, moment: Document | str) -> Document:
    """Expression: the least `moment` of the entries that meet the condition; no field if there are none."""
    entries = {"$filter": {"input": "$pending", "cond": condition}}
    return {"$ifNull": [{"$min": {"$map": {"input": entries, "in": moment}}}, "$$REMOVE"]}


_NONE_LEFT: Document = {"$eq": [{"$size": {"$ifNull": ["$pending", []]}}, 0]}
_IS_SETTLED: Document = {"$and": [_NONE_LEFT, {"$not": ["$numbered"]}]}
PURGE_AT: Document = {"$cond": [_IS_SETTLED, {"$ifNull": ["$purge_after", "$$REMOVE"]}, "$$REMOVE"]}
"""Expression for the TTL index: a record is never purged while it carries an event. For numbered records, sweepers set
the time."""
_SUMMARY: Document = {
    "pending_since": _oldest(_UNPUBLISHED, "$$this.at"),
    "refused_since": _oldest(_REFUSED, "$$this.at"),
    "handover_since": _oldest(_UNDELIVERED, {"$ifNull": ["$$this.sent_at", "$$this.at"]}),
    "purge_at": PURGE_AT,
    "pending": {"$cond": [_NONE_LEFT, "$$REMOVE", "$pending"]},
}
"""The fields derived from `pending`, for the indexes. Set in the same write as `pending`, so they cannot disagree."""

Announce = Callable[["OutboxCollection", PendingEvent], None]
"""Called with every committed event, to publish it at once. Must not block. If it loses one, the sweep publishes it."""


def announce_nothing(collection: "OutboxCollection", event: PendingEvent) -> None:
    """For processes that publish nothing: every event waits for the sweeper of another process."""


def entry_of(event: PendingEvent) -> Document:
    """The event as it is stored in its record."""
    entry: Document = {"id": event.id, "key": event.key, "body": event.body, "at": event.at}
    if event.sealed is not None:
        entry["sealed"] = event.sealed
    return entry


def _is_refused(entry: Document) -> bool:
    return "refused_by" in entry and "sent_at" not in entry


def _is_unpublished(entry: Document) -> bool:
    return "refused_by" not in entry and "sent_at" not in entry


def _is_undelivered(entry: Document) -> bool:
    return "sealed" in entry and not _is_unpublished(entry)


def _events(document: Document, wanted: Callable[[Document], bool]) -> Iterable[PendingEvent]:
    for entry in document.get("pending", ()):
        if wanted(entry):
            yield _event(document, entry)


def _event(document: Document, entry: Document) -> PendingEvent:
    return PendingEvent(
        id=entry["id"],
        owner=document["_id"],
        key=entry["key"],
        body=entry["body"],
        sealed=entry.get("sealed"),
        at=entry["at"],
        refused_by=RefusedBy(entry["refused_by"]) if "refused_by" in entry else None,
    )


def _is_settled(document: Document, checkpoints: Iterable[Checkpoint]) -> bool:
    """Whether the numbered event of this record is published; a process without a checkpoint has left nothing."""
    process, number = document["numbered"]["process"], document["numbered"]["number"]
    return all(each.settles(number) for each in checkpoints if each.process == process)


class OutboxStatus(NamedTuple):
    """Which events a record has had, and which of them it still carries."""

    subject: str
    before: int
    """The last sequence of an earlier, deleted record with the same id; 0 if there was none."""
    sequence: int
    """The sequence of its last event."""
    last: str | datetime
    """The id of its last event, or a moment not before it."""
    unpublished: Collection[int] = ()
    """Sequences of the events that it carries and that are not confirmed as published."""
    carried: Collection[str] = ()
    """Ids of all events that it carries."""

    @property
    def committed(self) -> range:
        """The sequences of its events."""
        return range(self.before + 1, self.sequence + 1)

    @property
    def latest(self) -> datetime:
        """No event of the record is later than this."""
        return self.last if isinstance(self.last, datetime) else moment_of(self.last)


class OutboxCollection:
    """A collection whose records carry events. The TTL of a record starts only when its last event is published."""

    name: str
    indexes: Sequence[IndexModel] = ()
    by_time: ClassVar[str] = "made"
    """The index that finds records by the time of their creation."""
    retired: ClassVar[Sequence[str]] = ()
    """Names of indexes of earlier releases, which are dropped."""
    counter: ClassVar[str] = "version"
    """The field with the sequence of the record's last event."""
    last: ClassVar[str] = "last_event"
    """The field that tells when that event was: its id, or a time."""
    numbers: ClassVar[bool] = False
    """Whether inserted records are numbered, so that their first event needs no clearing."""

    def __init__(self, mongo: Mongo, announce: Announce = announce_nothing) -> None:
        self._mongo = mongo
        self._announce = announce
        self._inserts = batched_inserts(lambda: mongo.grouped(self.name))
        self._finds = batched_finds(lambda: mongo.grouped(self.name))
        self._checkpoints = Checkpoints(mongo, self.name) if self.numbers else None
        own = (*self.indexes, *NUMBERED_INDEXES) if self.numbers else self.indexes
        mongo.want(self.name, (*own, *OUTBOX_INDEXES), self.retired)

    async def _read(self, key: str) -> Document | None:
        return await self._finds.submit(key)

    async def _insert(self, document: Document, event: PendingEvent) -> None:
        """Insert a record with its first event, batched with others. Its id must be random: see `batched_inserts`."""
        if self._checkpoints is not None and self._checkpoints.may_number and event.sealed is None:
            await self._checkpoints.insert(document, entry_of(event))
        else:
            document["pending"], document["pending_since"] = [entry_of(event)], event.at
            await self._inserts.submit(document)
        self._announce(self, event)

    async def _insert_named(self, document: Document, event: PendingEvent) -> None:
        """Insert a record with its first event. Raises Conflict if its id or another unique field is taken."""
        document = {**document, "pending": [entry_of(event)], "pending_since": event.at}

        async def write(repeated: bool) -> None:
            try:
                await self._mongo[self.name].insert_one(document)
            except DuplicateKeyError as error:
                # In a repeated attempt the duplicate may be our own record; event ids are unique, so the event tells.
                if not (repeated and await self._has(document["_id"], event)):
                    raise Conflict(document["_id"]) from error

        await outcome_of_write(write)
        self._announce(self, event)

    async def _has(self, key: str, event: PendingEvent) -> bool:
        found = await self._mongo[self.name].find_one({"_id": key}, {"last_event": 1, "pending.id": 1})
        if found is None:
            return False
        return found.get("last_event") == event.id or any(entry["id"] == event.id for entry in found.get("pending", ()))

    async def _advance(self, key: str, version: int, fields: Document, event: PendingEvent | None) -> bool:
        """Compare-and-set: if the record is still at `version`, set the fields and add the event. Whether it was.

        After an ambiguous error the same write is repeated with the same values. It then finds a later version if the
        first attempt was applied after all; that the record carries this very event proves it. Raises Conflict if
        another unique field is taken.
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

        advanced = await outcome_of_write(write)
        if advanced and event is not None:
            self._announce(self, event)
        return advanced

    async def pending(self, before: datetime, limit: int) -> Sequence[PendingEvent]:
        """Events committed before `before` that are neither confirmed as published nor refused; the oldest first.

        At most those of `limit` records. Read with majority concern: an event whose write may still be rolled back must
        not be published.
        """
        async with outage_is_unavailability():
            cursor = (
                self._mongo.majority(self.name)
                .find({"pending_since": {"$lt": before}}, {"pending": 1})
                .sort("pending_since", 1)
                .limit(limit)
            )
            return [event async for document in cursor for event in _events(document, _is_unpublished)]

    async def abandoned(self, before: datetime, limit: int) -> Sequence[PendingEvent]:
        """Numbered events committed before `before` that no checkpoint settles, of at most `limit` records.

        Read with majority concern, as by `pending`. Deletes checkpoints that have settled everything for long.
        """
        if self._checkpoints is None:
            return []
        checkpoints = await self._checkpoints.all()
        if not checkpoints:
            return []
        async with outage_is_unavailability():
            self._mongo.indexed(self.name)  # without the index, all records would be read
            query = unsettled(checkpoints, **{"numbered.event.at": {"$lt": before}})
            cursor = self._mongo.majority(self.name).find(query, {"numbered": 1}).limit(limit)
            found = [_event(document, document["numbered"]["event"]) async for document in cursor]
        if not found:
            await self._checkpoints.delete_idle(checkpoints, before)
        return found

    async def adopt(self, events: Sequence[PendingEvent]) -> None:
        """Move numbered events to the pending ones of their records, where `pending` finds them. Idempotent."""
        await self._adopt([(event.id, event.owner) for event in events])

    async def give_up(self, after: timedelta, is_known: Callable[[str], bool], limit: int) -> int:
        """Adopt up to `limit` numbered events of this process that are older than `after` and not `is_known`; how many.

        Such an event is neither published nor to be published by this process, as when its insert's caller was
        cancelled. Its number would keep the checkpoint open for ever.
        """
        if self._checkpoints is None:
            return 0
        if found := self._checkpoints.given_up(after.total_seconds(), is_known, limit):
            await self._adopt([(each.event_id, each.owner) for each in found])
        await self._checkpoints.renew()
        return len(found)

    async def _adopt(self, events: Sequence[tuple[str, str]]) -> None:
        """Of pairs of event id and owner."""
        if not events or self._checkpoints is None:
            return
        pending: Document = {"$concatArrays": [["$numbered.event"], {"$ifNull": ["$pending", []]}]}
        pipeline: list[Document] = [{"$set": {"pending": pending, "numbered": "$$REMOVE"}}, {"$set": _SUMMARY}]
        ids, owners = zip(*events, strict=True)
        async with outage_is_unavailability():
            query = {"_id": {"$in": list(owners)}, "numbered.event.id": {"$in": list(ids)}}
            await self._mongo.grouped(self.name).update_many(query, pipeline)
        await self._checkpoints.settle(ids)

    async def purgeable(self, now: datetime, limit: int) -> Sequence[str]:
        """Ids of up to `limit` numbered records whose time is over and whose events are all published."""
        return await self._checkpoints.purgeable(now, limit) if self._checkpoints is not None else ()

    async def purge(self, keys: Sequence[str], now: datetime) -> None:
        """Leave these records to the TTL index, unless they have changed meanwhile."""
        if self._checkpoints is not None:
            await self._checkpoints.purge(keys, now)

    async def backlog(self) -> tuple[int, datetime | None]:
        """How many records have unpublished events that no queue has refused, and since when the oldest waits."""
        records, oldest = await self._waiting("pending_since")
        checkpoints = await self._checkpoints.all() if self._checkpoints is not None else ()
        if not checkpoints:
            return records, oldest
        async with outage_is_unavailability():
            self._mongo.indexed(self.name)  # without the index, all records would be read
            pipeline = [
                {"$match": unsettled(checkpoints)},
                {"$group": {"_id": None, "records": {"$sum": 1}, "oldest": {"$min": "$numbered.event.at"}}},
            ]
            for numbered in await self._mongo.majority(self.name).aggregate(pipeline).to_list(None):
                records += numbered["records"]
                oldest = min(oldest or numbered["oldest"], numbered["oldest"])
        return records, oldest

    async def refusals(self) -> tuple[int, datetime | None]:
        """How many records have events that a queue has refused, and when the oldest of these was committed."""
        return await self._waiting("refused_since")

    async def _waiting(self, since: str) -> tuple[int, datetime | None]:
        query = {since: {"$exists": True}}
        async with outage_is_unavailability():
            collection = self._mongo[self.name]
            oldest = await collection.find_one(query, {since: 1}, sort=[(since, 1)])
            if oldest is None:
                return 0, None
            return await collection.count_documents(query), oldest[since]

    async def set_aside(self, events: Sequence[PendingEvent], refused_by: RefusedBy) -> None:
        """Mark events as refused by a queue: `refused` returns them from now on instead of `pending`. Idempotent.

        Their notifications do not wait for that queue: `awaiting_handover` returns them.
        """
        if self._checkpoints is not None:
            await self.adopt(events)
        ids = [event.id for event in events]
        refused = {"$mergeObjects": ["$$this", {"refused_by": refused_by.value}]}
        marked = {"$map": {"input": "$pending", "in": {"$cond": [{"$in": ["$$this.id", ids]}, refused, "$$this"]}}}
        await self._rewrite_pending(events, marked)

    async def refused(
        self, limit: int, *, key: str | None = None, without: Collection[str] = (), by: RefusedBy | None = None
    ) -> Sequence[PendingEvent]:
        """Refused events of up to `limit` records, the oldest first.

        With `key`, those with this routing key; otherwise those with none of the keys in `without`. With `by`, only
        those that were refused by queues of this kind.
        """
        wanted: Document = {"refused_by": by.value if by else {"$exists": True}, "sent_at": {"$exists": False}}
        wanted["key"] = {"$nin": list(without)} if key is None else key
        query = {"refused_since": {"$exists": True}, "pending": {"$elemMatch": wanted}}
        async with outage_is_unavailability():
            cursor = self._mongo.majority(self.name).find(query, {"pending": 1}).sort("refused_since", 1).limit(limit)
            found = [event async for document in cursor for event in _events(document, _is_refused)]
        return [
            event
            for event in found
            if (event.key not in without if key is None else event.key == key) and by in (None, event.refused_by)
        ]

    async def unpublished(self, key: str) -> Sequence[PendingEvent]:
        """The events of this record that are not confirmed as published, in their order; refused ones included."""
        document = await self._read(key)
        if document is None:
            return []
        waiting = list(_events(document, lambda entry: "sent_at" not in entry))
        if (numbered := document.get("numbered")) and self._checkpoints is not None:
            checkpoint = await self._checkpoints.of(numbered["process"])
            if checkpoint is not None and not checkpoint.settles(numbered["number"]):
                waiting.insert(0, _event(document, numbered["event"]))
        return waiting

    async def refused_by(self) -> frozenset[RefusedBy]:
        """The kinds of queues that have refused events which are still unpublished."""
        async with outage_is_unavailability():
            find_one = self._mongo.majority(self.name).find_one
            queries = [{"refused_since": {"$exists": True}, "pending.refused_by": by.value} for by in RefusedBy]
            found = [await find_one(query, {"_id": 1}) for query in queries]
        return frozenset(by for by, document in zip(RefusedBy, found, strict=True) if document is not None)

    async def clear(self, events: Sequence[PendingEvent]) -> None:
        """Mark events as published. Idempotent.

        An event without a notification is removed from its record. One with a notification (`sealed`) stays until it is
        `handed_over`, so that no notification is lost if the broker loses its disk. A record without events may be
        purged from now on.

        A numbered event stays: the checkpoint of this process tells that it is published.
        """
        checkpoints = self._checkpoints
        in_records = [event for event in events if checkpoints is None or not checkpoints.is_recent(event.id)]
        if in_records:
            await self._clear_in_records(in_records)
        if checkpoints is not None:
            await checkpoints.settle([event.id for event in events])

    async def _clear_in_records(self, events: Sequence[PendingEvent]) -> None:
        await self._clear(events)

    async def _clear(self, events: Sequence[PendingEvent], also: Document | None = None) -> int:
        """How many of the records still carried one of the events. `also`: further fields to set in the same write."""
        ids = [event.id for event in events]
        published = {"$in": ["$$this.id", ids]}
        forgotten = {"$and": [published, {"$not": ["$$this.sealed"]}]}
        sent = {"$mergeObjects": ["$$this", {"sent_at": {"$ifNull": ["$$this.sent_at", "$$NOW"]}}]}
        kept = {"$filter": {"input": "$pending", "cond": {"$not": [forgotten]}}}
        marked = {"$map": {"input": kept, "in": {"$cond": [published, sent, "$$this"]}}}
        return await self._rewrite_pending(events, marked, also)

    async def awaiting_handover(self, before: datetime, limit: int) -> Sequence[PendingEvent]:
        """Events with a notification that was sent or refused before `before` and is not handed over; the oldest first.

        For a refused one, the time of its commit counts.
        """
        async with outage_is_unavailability():
            cursor = (
                self._mongo.majority(self.name)
                .find({"handover_since": {"$lt": before}}, {"pending": 1})
                .sort("handover_since", 1)
                .limit(limit)
            )
            return [event async for document in cursor for event in _events(document, _is_undelivered)]

    async def handed_over(self, events: Sequence[PendingEvent]) -> None:
        """Remove events whose notification the notifier has stored; of refused events, only that part. Idempotent."""
        handed = {"$in": ["$$this.id", [event.id for event in events]]}
        kept = {"$filter": {"input": "$pending", "cond": {"$or": [{"$not": [handed]}, _REFUSED]}}}
        unsealed = {"$unsetField": {"field": "sealed", "input": "$$this"}}
        left = {"$map": {"input": kept, "in": {"$cond": [handed, unsealed, "$$this"]}}}
        await self._rewrite_pending(events, left)

    async def _rewrite_pending(
        self, events: Sequence[PendingEvent], pending: Document, also: Document | None = None
    ) -> int:
        """How many of the records still carried one of the events. `also`: further fields to set in the same write."""
        pipeline: list[Document] = [{"$set": {"pending": pending, **(also or {})}}, {"$set": _SUMMARY}]
        owners = list({event.owner for event in events})
        ids = [event.id for event in events]
        async with outage_is_unavailability():
            query = {"_id": {"$in": owners}, "pending.id": {"$in": ids}}
            result = await self._mongo.grouped(self.name).update_many(query, pipeline)
        return int(result.matched_count)

    async def present(self, keys: Sequence[str]) -> frozenset[str]:
        """Which of these ids have a record, in any state."""
        async with outage_is_unavailability():
            cursor = self._mongo.majority(self.name).find({"_id": {"$in": list(keys)}}, {"_id": 1})
            return frozenset([document["_id"] async for document in cursor])

    def _made(self, since: datetime, until: datetime) -> Document:
        """The query for records created at `since` or later, and before `until`."""
        return {"created_at": {"$gte": since, "$lt": until}}

    async def count_created_up_to(self, most: int, since: datetime, until: datetime) -> int:
        """How many records were created at `since` or later and before `until`; counted in an index, up to `most`."""
        async with outage_is_unavailability():
            query = self._made(since, until)
            return await self._mongo.indexed(self.name).count_documents(query, limit=most, hint=self.by_time)

    async def outbox_statuses(
        self, since: datetime, until: datetime, batch: int
    ) -> AsyncIterator[Sequence[OutboxStatus]]:
        """The status of the records created at `since` or later and before `until`, in batches."""
        async with outage_is_unavailability():
            query = self._made(since, until)
            cursor = self._mongo.majority(self.name).find(query, self._status_fields, batch_size=batch)
            while found := await cursor.to_list(batch):
                yield await self._statuses(found)

    async def outbox_statuses_of(self, keys: Sequence[str]) -> Sequence[OutboxStatus]:
        """The status of these records."""
        async with outage_is_unavailability():
            query = {"_id": {"$in": list(keys)}}
            found = await self._mongo.majority(self.name).find(query, self._status_fields).to_list(None)
        return await self._statuses(found)

    async def _statuses(self, documents: Sequence[Document]) -> Sequence[OutboxStatus]:
        # After the records: what is published meanwhile counts as published, as if the records were read later.
        numbered = self._checkpoints is not None and any("numbered" in document for document in documents)
        checkpoints = await self._checkpoints.all() if self._checkpoints is not None and numbered else ()
        return [self._status(document, checkpoints) for document in documents]

    @property
    def _status_fields(self) -> Document:
        fields = [self.counter, "before", self.last, "pending.id", "pending.body", "pending.sent_at"]
        fields += [f"numbered.{name}" for name in ("process", "number", "event.id", "event.body")]
        return dict.fromkeys(fields, 1)

    def _status(self, document: Document, checkpoints: Sequence[Checkpoint]) -> OutboxStatus:
        status = OutboxStatus(document["_id"], document.get("before", 0), document[self.counter], document[self.last])
        pending = document.get("pending", [])
        if "numbered" in document and not _is_settled(document, checkpoints):
            pending = [document["numbered"]["event"], *pending]
        if pending:
            unsent = [orjson.loads(entry["body"]) for entry in pending if "sent_at" not in entry]
            return status._replace(
                unpublished=[int(event["sequence"]) for event in unsent], carried=[entry["id"] for entry in pending]
            )
        return status

    async def lead(self, holder: str, now: datetime) -> bool:
        """Take or extend the lease to sweep this collection, for LEAD; whether `holder` has it.

        One sweeper is enough, and two would publish the same events twice.
        """
        lease = self._mongo["leases"]
        free = {"_id": f"sweep {self.name}", "$or": [{"holder": holder}, {"until": {"$lte": now}}]}
        try:
            async with outage_is_unavailability():
                await lease.update_one(free, {"$set": {"holder": holder, "until": now + LEAD}}, upsert=True)
        except DuplicateKeyError:
            return False  # the lease of another holder is not over, so the query found nothing and the upsert failed
        return True
