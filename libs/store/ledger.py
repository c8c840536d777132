"""Records that carry their own unpublished events: state and event change in the same write, or not at all."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from bson import Binary
from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from contracts.events import PendingEvent
from libs.store.mongo import Conflict, Document, GroupCommit, GroupedFind, Mongo, outage_is_unavailability, settled

RETENTION = timedelta(days=1)
"""How long a record that is over stays readable."""

OUTBOX_INDEXES = (
    # Both hold only what they are for, so that a settled, living record costs them nothing.
    IndexModel("pending_since", name="pending", partialFilterExpression={"pending_since": {"$exists": True}}),
    IndexModel("purge_at", name="purge", expireAfterSeconds=0, partialFilterExpression={"purge_at": {"$exists": True}}),
)


Announce = Callable[["Ledger", PendingEvent], None]
"""Told of every committed event, so that it is published at once; returns at once, may forget (a sweep follows)."""


def nobody(ledger: "Ledger", event: PendingEvent) -> None:
    """Announces nothing: every event waits for the sweeper."""


def entry_of(event: PendingEvent) -> Document:
    """The event as its record carries it."""
    entry: Document = {"id": event.id, "key": event.key, "body": Binary(event.body), "at": event.at}
    if event.sealed is not None:
        entry["sealed"] = Binary(event.sealed)
    return entry


def _pending_events(document: Document) -> Iterable[PendingEvent]:
    for entry in document.get("pending", ()):
        yield PendingEvent(
            id=entry["id"],
            owner=document["_id"],
            key=entry["key"],
            body=entry["body"],
            sealed=entry.get("sealed"),
            at=entry["at"],
        )


class Ledger:
    """One collection of such records. `purge_after` of a record counts from the moment its last event is published."""

    name: str
    indexes: Sequence[IndexModel] = ()

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
        await self._group.insert({**document, "pending": [entry_of(event)], "pending_since": event.at})
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
            return [event async for document in cursor for event in _pending_events(document)]

    async def backlog(self) -> tuple[int, datetime | None]:
        """How many records have unpublished events, and since when the oldest waits."""
        async with outage_is_unavailability():
            collection = self._mongo[self.name]
            count = await collection.count_documents({"pending_since": {"$exists": True}}, hint="pending")
            oldest = await collection.find_one({"pending_since": {"$exists": True}}, sort=[("pending_since", 1)])
        return count, oldest["pending_since"] if oldest else None

    async def clear(self, events: Sequence[PendingEvent]) -> None:
        """Forget events that were published. A record with none left may be purged from now on. Idempotent."""
        ids = [event.id for event in events]
        left = {"$filter": {"input": "$pending", "cond": {"$not": [{"$in": ["$$this.id", ids]}]}}}
        none_left = {"$eq": [{"$size": {"$ifNull": ["$pending", []]}}, 0]}
        pipeline: list[Document] = [
            {"$set": {"pending": left}},
            {
                "$set": {
                    "pending_since": {"$cond": [none_left, "$$REMOVE", {"$min": "$pending.at"}]},
                    "purge_at": {"$cond": [none_left, {"$ifNull": ["$purge_after", "$$REMOVE"]}, "$$REMOVE"]},
                    "pending": {"$cond": [none_left, "$$REMOVE", "$pending"]},
                }
            },
        ]
        owners = list({event.owner for event in events})
        async with outage_is_unavailability():
            await self._mongo[self.name].update_many({"_id": {"$in": owners}, "pending.id": {"$in": ids}}, pipeline)
