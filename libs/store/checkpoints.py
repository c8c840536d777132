"""Checkpoints: one small document for each process says which of the events that it inserted are settled (ADR 48).

A process numbers the records that it inserts. Its checkpoint names the numbers whose events are settled: confirmed by
the broker, or moved into the outbox of their own record. So an event that was published needs no write to its record.
Whatever a checkpoint does not name as settled, any sweeper finds by process and number, and publishes.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import NamedTuple

from pymongo import IndexModel

from libs.store.batched import insert_many
from libs.store.batcher import Batcher
from libs.store.failures import raise_write_concern_error, write_error
from libs.store.mongo import DURABLE, Document, Mongo, outage_is_unavailability, outcome_of_write

_IS_NUMBERED: Document = {"numbered.process": {"$exists": True}}
NUMBERED_INDEXES = (
    # Finds the records that a checkpoint does not settle.
    IndexModel(
        [("numbered.process", 1), ("numbered.number", 1)], name="numbered", partialFilterExpression=_IS_NUMBERED
    ),
    # Finds those whose time is over. A TTL index would not ask the checkpoints.
    IndexModel("purge_after", name="purge_numbered", partialFilterExpression=_IS_NUMBERED),
)

MOST_OPEN = 1000
"""Unsettled numbers that a checkpoint names; it covers nothing from the next one on."""
MOST_UNKNOWN = 200
"""Batches of which it is not known whether they were inserted. With more, no further records are numbered."""
RECENT = 1.0
"""Seconds after which an event that is confirmed is looked for in its record, too: a sweeper may have moved it."""
RENEWED_AFTER = 3600.0
"""Seconds after which an unchanged checkpoint is written again, so that it is not taken for that of a dead process."""
VALID_FOR = 6 * 3600.0
"""Seconds after its last write from which a checkpoint must be written before another record is numbered."""
IDLE = timedelta(days=1)
"""After this time without a write, a checkpoint that leaves nothing to publish is deleted. Must be longer than the time
for which a process inserts records without writing it."""


_IDLE_MS = int(IDLE.total_seconds() * 1000)


class Checkpoint(NamedTuple):
    """Which events of a process are settled: those with numbers up to `last` that are in none of the `open` ranges."""

    process: str
    last: int
    open: Sequence[tuple[int, int]]
    """Ranges of numbers, ends included."""
    written_at: datetime

    def settles(self, number: int) -> bool:
        """Whether the event with this number is settled. If not, it is unpublished, or was never inserted."""
        return number <= self.last and not any(first <= number <= last for first, last in self.open)

    @property
    def unsettled(self) -> list[Document]:
        """Queries that together find the records whose event is not settled."""
        ranges: list[Document] = [{"$gt": self.last}, *({"$gte": first, "$lte": last} for first, last in self.open)]
        return [{"numbered.process": self.process, "numbered.number": numbers} for numbers in ranges]


class _Numbered(NamedTuple):
    """A record that this process has inserted, or is about to, and whose event is not settled."""

    event_id: str
    owner: str
    began: float
    """When it was submitted, by the event loop's time."""


class Checkpoints:
    """The checkpoints of one collection, and the numbers of the records that this process inserts into it."""

    name = "checkpoints"

    def __init__(self, mongo: Mongo, collection: str) -> None:
        self._mongo = mongo
        self._collection = collection
        self._process = ""
        """Drawn before the first insert, so that processes forked from one another differ."""
        self._next = 1
        self._inserting = self._next
        """Records with numbers from here on are not known to be inserted."""
        self._unsettled: dict[int, _Numbered] = {}
        """By number, in ascending order."""
        self._numbers: dict[str, int] = {}
        """By event id: the numbers of the same records."""
        self._unknown: list[tuple[int, int]] = []
        """Ranges of numbers whose insert had no known outcome: it may be applied at any later time."""
        self._lock = asyncio.Lock()
        self._written: tuple[int, Sequence[tuple[int, int]]] | None = None
        self._written_at = float("-inf")
        self._inserts: Batcher[tuple[Document, float], None] = Batcher("numbered-inserts", self._insert_batch)

    @property
    def may_number(self) -> bool:
        """Whether another record may be numbered."""
        return len(self._unknown) < MOST_UNKNOWN

    async def insert(self, document: Document, entry: Document) -> None:
        """Insert a record with its first event, as `batched_inserts` does, and number it."""
        document["numbered"] = {"process": "", "number": 0, "event": entry}
        await self._inserts.submit((document, asyncio.get_running_loop().time()))

    async def _insert_batch(self, batch: Sequence[tuple[Document, float]]) -> Sequence[Exception | None]:
        if asyncio.get_running_loop().time() > self._written_at + VALID_FOR:
            # Before the first record: a process without a checkpoint counts as one that has nothing to publish.
            await self._write()
        first = self._number(batch)
        documents = [document for document, _ in batch]
        collection = self._mongo.grouped(self._collection)
        try:
            outcomes = await outcome_of_write(lambda repeated: insert_many(collection, documents, repeated))
        except Exception:
            for number in range(first, self._next):
                del self._numbers[self._unsettled.pop(number).event_id]
            self._unknown.append((first, self._next - 1))
            self._inserting = self._next
            raise
        self._inserting = self._next
        self._forget(
            document["numbered"]["event"]["id"]
            for document, outcome in zip(documents, outcomes, strict=True)
            if outcome is not None
        )
        return outcomes

    def _number(self, batch: Sequence[tuple[Document, float]]) -> int:
        """Number the records; the first number."""
        self._inserting = first = self._next
        for number, (document, began) in enumerate(batch, first):
            document["numbered"]["process"], document["numbered"]["number"] = self._process, number
            event_id = document["numbered"]["event"]["id"]
            self._unsettled[number] = _Numbered(event_id, document["_id"], began)
            self._numbers[event_id] = number
        self._next = first + len(batch)
        return first

    def is_recent(self, event_id: str) -> bool:
        """Whether this process has just inserted the event with its record, so that no sweeper has moved it."""
        number = self._numbers.get(event_id)
        if number is None:
            return False
        return asyncio.get_running_loop().time() < self._unsettled[number].began + RECENT

    async def settle(self, event_ids: Iterable[str]) -> None:
        """Settle those of the events that this process has numbered. Raises TemporarilyUnavailable.

        After an error the next call writes what this one did not.
        """
        self._forget(event_ids)
        if self._process and self._state() != self._written:
            await self._write()

    def _forget(self, event_ids: Iterable[str]) -> None:
        for event_id in event_ids:
            number = self._numbers.pop(event_id, None)
            if number is not None:
                del self._unsettled[number]

    def given_up(self, after: float, is_known: Callable[[str], bool], limit: int) -> list[_Numbered]:
        """Records inserted more than `after` seconds ago whose event is neither settled nor published by this process.

        For example because the caller was cancelled, or because too many events waited. `is_known`: whether the event
        with this id is published by this process.
        """
        latest = asyncio.get_running_loop().time() - after
        inserted = takewhile(lambda item: item[0] < self._inserting, self._unsettled.items())
        found = (each for _, each in inserted if each.began < latest and not is_known(each.event_id))
        return [each for each, _ in zip(found, range(limit), strict=False)]

    async def renew(self) -> None:
        """Write the checkpoint if it has changed, or was last written long ago. Raises TemporarilyUnavailable."""
        if self._process and (
            self._state() != self._written or asyncio.get_running_loop().time() > self._written_at + RENEWED_AFTER
        ):
            await self._write()

    def _state(self) -> tuple[int, Sequence[tuple[int, int]]]:
        """Up to which number the checkpoint can cover, and the ranges before that which it does not."""
        last = self._next - 1
        ranges: list[tuple[int, int]] = []
        for index, number in enumerate(self._unsettled):
            if index == MOST_OPEN:
                last = number - 1
                break
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1] = (ranges[-1][0], number)
            else:
                ranges.append((number, number))
        return last, [*self._unknown, *ranges]

    async def _write(self) -> None:
        """An older state that arrives after a newer one does no harm: it settles less."""
        async with self._lock:
            self._process = self._process or os.urandom(6).hex()
            began, state = asyncio.get_running_loop().time(), self._state()
            last, ranges = state
            fields: Document = {"last": last, "open": {"$literal": ranges}, "written_at": "$$NOW"}
            key = f"{self._collection} {self._process}"
            async with outage_is_unavailability():
                # The plain command, because the driver's session and transaction number would only cost.
                reply = await self._mongo.grouped(self.name).database.command(
                    "update",
                    self.name,
                    updates=[{"q": {"_id": key}, "u": [{"$set": fields}], "upsert": True}],
                    writeConcern=DURABLE,
                )
                raise_write_concern_error(reply)
                for entry in reply.get("writeErrors", ()):
                    raise write_error(entry)
            self._written, self._written_at = state, began

    # Purge

    async def purgeable(self, now: datetime, limit: int) -> Sequence[str]:
        """Numbered records whose time is over and whose events are all published: the ids of up to `limit`."""
        records = self._mongo.indexed(self._collection)
        async with outage_is_unavailability():
            query = await self._purgeable(now)
            found = await records.find(query, {"_id": 1}, hint="purge_numbered").limit(limit).to_list(None)
        return [document["_id"] for document in found]

    async def purge(self, keys: Sequence[str], now: datetime) -> None:
        """Leave those of these records that are still purgeable to the TTL index, which soon deletes them."""
        async with outage_is_unavailability():
            query = {"_id": {"$in": list(keys)}, **await self._purgeable(now)}
            await self._mongo.grouped(self._collection).update_many(query, {"$set": {"purge_at": now}})

    async def _purgeable(self, now: datetime) -> Document:
        """The query. MongoDB's clock must agree that the time is over, as with a TTL index."""
        over: Document = {"purge_after": {"$lt": now}, "$expr": {"$lt": ["$purge_after", "$$NOW"]}}
        checkpoints = await self.all()
        waiting = {"$nor": [unsettled(checkpoints)]} if checkpoints else {}
        return {**_IS_NUMBERED, **over, "pending": {"$exists": False}, "purge_at": {"$exists": False}, **waiting}

    # Those of all processes

    async def all(self) -> Sequence[Checkpoint]:
        """The checkpoints of all processes. A process without one has nothing to publish."""
        query = {"_id": {"$gte": f"{self._collection} ", "$lt": f"{self._collection}!"}}
        async with outage_is_unavailability():
            found = await self._mongo.majority(self.name).find(query).to_list(None)
        return [_decode(document) for document in found]

    async def of(self, process: str) -> Checkpoint | None:
        """The checkpoint of this process, if it has one."""
        async with outage_is_unavailability():
            found = await self._mongo.majority(self.name).find_one({"_id": f"{self._collection} {process}"})
        return _decode(found) if found is not None else None

    async def delete_idle(self, checkpoints: Sequence[Checkpoint], now: datetime) -> None:
        """Delete those whose process is gone and that leave nothing to publish. Raises TemporarilyUnavailable."""
        records = self._mongo.majority(self._collection)
        for checkpoint in checkpoints:
            if checkpoint.written_at > now - IDLE:
                continue
            async with outage_is_unavailability():
                if await records.find_one({"$or": checkpoint.unsettled}, {"_id": 1}) is None:
                    key = f"{self._collection} {checkpoint.process}"
                    # Not if it was written meanwhile: then its process is alive. And by the clock that wrote it.
                    idle: Document = {"$expr": {"$lt": ["$written_at", {"$subtract": ["$$NOW", _IDLE_MS]}]}}
                    query = {"_id": key, "written_at": checkpoint.written_at, **idle}
                    await self._mongo[self.name].delete_one(query)


def _decode(document: Document) -> Checkpoint:
    process = document["_id"].partition(" ")[2]
    ranges = [(first, last) for first, last in document["open"]]
    return Checkpoint(process, document["last"], ranges, document["written_at"])


def unsettled(checkpoints: Sequence[Checkpoint], **also: object) -> Document:
    """A query for the records whose event is not settled; `checkpoints` must not be empty."""
    return {"$or": [{**query, **also} for checkpoint in checkpoints for query in checkpoint.unsettled]}
