"""Records events in batches and adds them to the usage numbers exactly once, although any process may die at any time.

A batch takes three steps, each of which may be repeated: `write_ahead` stores which events are about to be counted,
`insert` stores the events, `count` adds them to the usage numbers. Only then may the next batch of this process take
the place of the write-ahead entry.

An event counts if it bears the batch's mark. If the bus delivers an event twice, only the batch that inserted it first
has put its mark on it. Once all events of a batch exist, whichever process inserted them, no mark changes any more; so
any process that finishes an abandoned batch computes the same numbers, and the batch number in the usage documents
prevents a second addition.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from libs.store.batched import insert_many, inserted_by
from libs.store.mongo import Document, Mongo, outage_is_unavailability
from libs.store.usage import Counts, Usage, UsageKey, hour_of, new_source

COUNTED: Mapping[str, str] = {
    "token.new": "issued",
    "token.refresh": "refreshed",
    "token.revoked": "revoked",
    "grant.revoked": "revoked",
}
"""The usage number that an event type adds to; other types are recorded and not counted."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that are recorded together."""

    source: str
    """The process that made the batch, or rather one stretch of its life: see `new_source`."""
    number: int
    """Counts the batches of a source."""
    documents: list[Document]

    @property
    def mark(self) -> str:
        """Identifies the batch among those of all processes."""
        return _mark(self.source, self.number)

    @property
    def countable(self) -> Sequence[Document]:
        """The events whose type is counted. They are counted by this batch if it is the one that inserts them."""
        return [document for document in self.documents if document["type"] in COUNTED]


class UsageBatcher:
    """The event batches of this process, and those that other processes abandoned."""

    name = "batches"

    def __init__(self, mongo: Mongo, events: str, usage: Usage, kept: timedelta) -> None:
        """`events`: the collection that the events go to; they, and so the write-ahead entries, are kept that long."""
        self._mongo = mongo
        self._events = events
        self._usage = usage
        self._source, self._number = new_source(), 0
        self._batcher = inserted_by(self._record, "event-recording")
        mongo.want(self.name, (IndexModel("at", name="purge", expireAfterSeconds=int(kept.total_seconds())),))

    async def add(self, document: Document) -> None:
        """Return when the event is recorded and counted. Raises Conflict if it was recorded before.

        Raises TemporarilyUnavailable with the outcome unknown; adding it again is safe.
        """
        await self._batcher.submit(document)

    def next_batch(self, documents: Sequence[Document]) -> Batch:
        """These events as the next batch of this process, marked but not stored yet."""
        self._number += 1
        batch = Batch(self._source, self._number, list(documents))
        for document in batch.countable:
            document["batch"] = batch.mark
        return batch

    async def write_ahead(self, batch: Batch) -> None:
        """Store what is about to be counted, in place of this source's previous entry."""
        ids = [document["_id"] for document in batch.countable]
        earlier = {"_id": batch.source, "number": {"$lt": batch.number}}
        update = {"$set": {"number": batch.number, "ids": ids}, "$currentDate": {"at": True}}
        # A duplicate key means that the entry has this number already, or a later one: the reply to an earlier attempt
        # was lost, or this command arrives after the process has gone on. An older number must not replace a newer one.
        with suppress(DuplicateKeyError):
            await self._mongo.grouped(self.name).update_one(earlier, update, upsert=True)

    async def insert(self, batch: Batch, repeated: bool = False) -> Sequence[Exception | None]:
        """Store the events; for each, None or why it was refused. `repeated`: an earlier attempt may have stored it."""
        return await insert_many(self._mongo.grouped(self._events), batch.documents, repeated)

    async def count(self, batch: Batch, *, all_new: bool = False) -> None:
        """Add the events that this batch inserted to the usage numbers; with `all_new`, all of them, without a read."""
        events = batch.countable if all_new else await self._found([document["_id"] for document in batch.countable])
        await self._usage.apply(batch.source, batch.number, _counts(batch.mark, events))

    async def finish_abandoned(self, older: timedelta) -> None:
        """Count the batches on which no process has made progress for that long. Raises TemporarilyUnavailable.

        A batch whose events do not all exist is left: the bus redelivers the missing ones, which no process has
        acknowledged. A process that was only slow may go on afterwards; it counts nothing twice.
        """
        milliseconds = int(older.total_seconds() * 1000)
        query = {"$expr": {"$lte": ["$at", {"$subtract": ["$$NOW", milliseconds]}]}}
        async with outage_is_unavailability():
            for entry in await self._mongo[self.name].find(query).to_list(None):
                found = await self._found(entry["ids"])
                if len(found) == len(set(entry["ids"])):
                    counts = _counts(_mark(entry["_id"], entry["number"]), found)
                    await self._usage.apply(entry["_id"], entry["number"], counts)
                    await self._mongo[self.name].delete_one({"_id": entry["_id"], "number": entry["number"]})

    async def _record(self, documents: Sequence[Document], repeated: bool) -> Sequence[Exception | None]:
        batch = self.next_batch(documents)
        if not batch.countable:
            return await self.insert(batch, repeated)
        try:
            await self.write_ahead(batch)
            outcomes = await self.insert(batch, repeated)
            await self.count(batch, all_new=not (repeated or any(outcomes)))
        except BaseException:
            # It is not known which steps were applied. A new source keeps the next batch from replacing the write-ahead
            # entry, so that `finish_abandoned` finds it.
            self._source, self._number = new_source(), 0
            raise
        return outcomes

    async def _found(self, ids: Sequence[str]) -> Sequence[Document]:
        fields = dict.fromkeys(("batch", "type", "time", "api_id", "client_id"), 1)
        return await self._mongo[self._events].find({"_id": {"$in": list(ids)}}, fields).to_list(None)


def _mark(source: str, number: int) -> str:
    return f"{source}.{number}"


def _counts(mark: str, events: Iterable[Document]) -> Counts:
    """What the events with this mark add to the usage numbers of the hours in which they happened."""
    counts: dict[UsageKey, Counter[str]] = {}
    for event in {event["_id"]: event for event in events if event.get("batch") == mark}.values():
        key = UsageKey(hour_of(event["time"]), event.get("api_id"), event.get("client_id"))
        counts.setdefault(key, Counter())[COUNTED[event["type"]]] += 1
    return counts
