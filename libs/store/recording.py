"""How events are recorded, many at a time, so that each is counted once, whoever dies when.

A batch is noted, then inserted, then counted, and only then may the next take the place of its note. What it counts are
the events that bear its mark: of an event that was brought twice, only the batch that inserted it has one. Once all its
events are there — its own, or as other batches inserted them — no mark changes any more, so whoever finishes a batch
that was left behind counts the same, and the number of the batch in the usage documents keeps it from counting twice.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from libs.store.mongo import Document, GroupCommit, Mongo, outage_is_unavailability
from libs.store.usage import Counts, Usage, UsageKey, hour_of, new_source

COUNTED: Mapping[str, str] = {
    "token.new": "issued",
    "token.refresh": "refreshed",
    "token.revoked": "revoked",
    "grant.revoked": "revoked",
}
"""Which number an event adds to."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that are recorded together; those that count bear its mark."""

    source: str
    number: int
    documents: list[Document]

    @property
    def mark(self) -> str:
        """Unique."""
        return _mark(self.source, self.number)

    @property
    def counted(self) -> Sequence[Document]:
        """The events that count, if it is this batch that inserts them."""
        return [document for document in self.documents if document["type"] in COUNTED]


class Recording(GroupCommit):
    """The batches of this process, and those that others left behind."""

    name = "batches"

    def __init__(self, mongo: Mongo, events: str, usage: Usage, kept: timedelta) -> None:
        super().__init__(lambda: mongo[events])
        self._mongo = mongo
        self._events = events
        self._usage = usage
        self._source, self._number = new_source(), 0
        mongo.want(self.name, (IndexModel("at", name="purge", expireAfterSeconds=int(kept.total_seconds())),))

    def next_batch(self, documents: list[Document]) -> Batch:
        """These events as the next batch of this process."""
        self._number += 1
        batch = Batch(self._source, self._number, documents)
        for document in batch.counted:
            document["batch"] = batch.mark
        return batch

    async def note(self, batch: Batch) -> None:
        """What is to be counted is known to whoever finishes it, in place of the batch before."""
        ids = [document["_id"] for document in batch.counted]
        earlier = {"_id": batch.source, "number": {"$lt": batch.number}}
        update = {"$set": {"number": batch.number, "ids": ids}, "$currentDate": {"at": True}}
        with suppress(DuplicateKeyError):  # by an attempt before, whose answer was lost
            await self._mongo[self.name].update_one(earlier, update, upsert=True)

    async def put(self, batch: Batch, repeated: bool = False) -> dict[int, Exception]:
        """The events are there; which were refused, and why."""
        return await super()._insert_many(batch.documents, repeated)

    async def count(self, batch: Batch, *, all_new: bool = False) -> None:
        """What this batch inserted is counted. Where it inserted all, they need not be read."""
        counted = batch.counted if all_new else await self._found([document["_id"] for document in batch.counted])
        await self._usage.apply(batch.source, batch.number, _counts(batch.mark, counted))

    async def finish_left_behind(self, older: timedelta) -> None:
        """Batches that nobody has gone on with for so long are counted. Raises TemporarilyUnavailable.

        One whose events are not all there waits for the bus to bring them again.
        """
        milliseconds = int(older.total_seconds() * 1000)
        query = {"$expr": {"$lte": ["$at", {"$subtract": ["$$NOW", milliseconds]}]}}
        async with outage_is_unavailability():
            for note in await self._mongo[self.name].find(query).to_list(None):
                found = await self._found(note["ids"])
                if len(found) == len(set(note["ids"])):
                    counts = _counts(_mark(note["_id"], note["number"]), found)
                    await self._usage.apply(note["_id"], note["number"], counts)
                    await self._mongo[self.name].delete_one({"_id": note["_id"], "number": note["number"]})

    async def _insert_many(self, documents: list[Document], repeated: bool) -> dict[int, Exception]:
        batch = self.next_batch(documents)
        if not batch.counted:
            return await self.put(batch, repeated)
        try:
            await self.note(batch)
            refused = await self.put(batch, repeated)
            await self.count(batch, all_new=not (refused or repeated))
        except BaseException:
            # How far it came is unknown. Its note stays for whoever finishes it, since no other takes its place.
            self._source, self._number = new_source(), 0
            raise
        return refused

    async def _found(self, ids: Sequence[str]) -> Sequence[Document]:
        fields = dict.fromkeys(("batch", "type", "time", "api_id", "client_id"), 1)
        return await self._mongo[self._events].find({"_id": {"$in": list(ids)}}, fields).to_list(None)


def _mark(source: str, number: int) -> str:
    return f"{source}.{number}"


def _counts(mark: str, events: Iterable[Document]) -> Counts:
    """Each event with the mark once, in the hour in which it happened."""
    counts: dict[UsageKey, Counter[str]] = {}
    for event in {event["_id"]: event for event in events if event.get("batch") == mark}.values():
        key = UsageKey(hour_of(event["time"]), event.get("api_id"), event.get("client_id"))
        counts.setdefault(key, Counter())[COUNTED[event["type"]]] += 1
    return counts
