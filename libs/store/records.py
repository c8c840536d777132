"""Named records — APIs, clients, policies, resource owners, operators — with a tombstone in place of a deleted one."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel

from contracts.base import Record
from contracts.events import Event, PendingEvent
from libs.events import Origin, new_event_id, pending, sequence_text
from libs.sealing import CannotOpen
from libs.store.ledger import Ledger
from libs.store.mongo import Conflict, Document, outage_is_unavailability

TOMBSTONE_RETENTION = timedelta(days=100)
"""Longer than any grant lives: a record made again under the same name must not revive what ended with the old one."""

PAGE_SIZE = 100

M = TypeVar("M", bound=Record)


@dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    """Some of the records, and how many such pages there are."""

    records: Sequence[M]
    pages: int


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is left of a deleted record."""

    version: int
    deleted_at: datetime


class Resealing(NamedTuple):
    """What became of the sealed values of a record that is not wholly under the current key."""

    key: str
    refusal: str | None = None
    """Why some are as they were; None: all are under the current key now."""


Renew = Callable[[Document], tuple[Document, str | None]]
"""The fields of a record that are to be sealed anew, and why others cannot be; may raise CannotOpen."""


def event_of(event: type[Event], data: BaseModel, subject: str, word: str, sequence: int, at: Origin) -> PendingEvent:
    """The event of the change that made version `sequence` of the record `subject`, and whose change it was."""
    if at.actor is not None and "actor" in type(data).model_fields:
        data = data.model_copy(update={"actor": at.actor})
    made = event.model_validate(
        {
            "id": new_event_id(at.now),
            "source": at.source,
            "time": at.now,
            "subject": subject,
            "sequence": sequence_text(sequence),
            "traceparent": at.traceparent,
            "data": data,
        }
    )
    return pending(made, word, subject)


class Records(Ledger, Generic[M]):
    """One collection of named records."""

    model: type[M]
    key: ClassVar[str]
    """The model's field that is the record's id."""
    as_json: ClassVar[frozenset[str]] = frozenset()
    """Fields with keys of other people's choosing, kept as JSON text: BSON field names are not free."""

    secret: ClassVar[Mapping[str, object]] = {}
    """What takes the place of secret fields in a tombstone."""

    _stand_in: Document | None = None
    """The last that was found, to be decoded in place of one that is not."""

    def _id(self, record: M) -> str:
        identifier: str = getattr(record, self.key)
        return identifier

    def _word(self, record: M) -> str:
        """What ends the routing key of the record's events."""
        return self._id(record)

    def _encode(self, record: M) -> Document:
        document: dict[str, Any] = record.model_dump(exclude={self.key})
        for field in self.as_json:
            document[field] = orjson.dumps(document[field])
        return {**document, "deleted": False, "purge_after": None}

    def _decode(self, document: Document) -> M:
        document = {**document, self.key: document["_id"]}
        for field in self.as_json:
            document[field] = orjson.loads(document[field])
        return self.model.model_validate(document)

    async def get(self, key: str) -> M | None:
        """The record; None if there is none, or it was deleted."""
        document = await self._read(key)
        return self._decode(document) if document and not document["deleted"] else None

    async def _get_alike(self, key: str) -> M | None:
        """`get` for what a stranger may ask for: the time does not tell whether there is such a record."""
        document = await self._read(key)
        if document and not document["deleted"]:
            self._stand_in = document
            return self._decode(document)
        if self._stand_in:
            self._decode(self._stand_in)
        return None

    async def _list(self, query: Document, skip: int = 0, limit: int = 0) -> Sequence[M]:
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find({**query, "deleted": False}).sort("_id", 1).skip(skip).limit(limit)
            return [self._decode(document) async for document in cursor]

    async def first_unknown(self, keys: Iterable[str]) -> str | None:
        """The first of these that is no record's id; None if all are."""
        wanted = list(keys)
        if not wanted:
            return None
        async with outage_is_unavailability():
            query = {"_id": {"$in": wanted}, "deleted": False}
            known = {document["_id"] async for document in self._mongo[self.name].find(query, {"_id": 1})}
        return next((key for key in wanted if key not in known), None)

    async def keys(self) -> Sequence[str]:
        """The id of every record."""
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find({"deleted": False}, {"_id": 1}).sort("_id", 1)
            return [document["_id"] async for document in cursor]

    async def all(self) -> Sequence[M]:
        """Every record, by id."""
        return await self._list({})

    async def page(self, number: int | None) -> Page[M]:
        """One page of PAGE_SIZE by id, counted from 1; None: all of them as one."""
        return await self._page({}, number)

    async def _page(self, query: Document, number: int | None) -> Page[M]:
        if number is None:
            records = await self._list(query)
            return Page(records, min(1, len(records)))
        async with outage_is_unavailability():
            count = await self._mongo[self.name].count_documents({**query, "deleted": False})
        return Page(await self._list(query, (number - 1) * PAGE_SIZE, PAGE_SIZE), -(-count // PAGE_SIZE))

    async def _tombstone(self, key: str) -> Tombstone | None:
        document = await self._read(key)
        return Tombstone(document["version"], document["deleted_at"]) if document and document["deleted"] else None

    async def _resealed(self, renew: Renew) -> AsyncIterator[Resealing]:
        """What became of every record whose sealed values are not all under the current key.

        A record keeps its version and gets no event: what it says is what it said. Whoever changes it at the same time
        writes under the current key, too, and is seen by the compare-and-set.
        """
        last = ""
        while documents := await self._after(last):
            last = documents[-1]["_id"]
            for document in documents:
                if (outcome := await self._resealed_one(document, renew)) is not None:
                    yield outcome

    async def _resealed_one(self, document: Document, renew: Renew) -> Resealing | None:
        current: Document | None = document
        while current and not current["deleted"]:
            try:
                fields, refusal = renew(current)
            except CannotOpen as reason:
                fields, refusal = {}, str(reason)
            if not fields:
                return Resealing(current["_id"], refusal) if refusal else None
            if await self._advance(current["_id"], current["version"], fields, None):
                return Resealing(current["_id"], refusal)
            current = await self._read(current["_id"])
        return None

    async def _after(self, key: str) -> Sequence[Document]:
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find({"_id": {"$gt": key}, "deleted": False}).sort("_id", 1)
            return await cursor.limit(PAGE_SIZE).to_list(None)

    def _event(self, event: type[Event], data: BaseModel, record: M, at: Origin) -> PendingEvent:
        return event_of(event, data, self._id(record), self._word(record), record.version, at)

    async def _add(self, record: M, event: type[Event], data: BaseModel, at: Origin) -> M:
        """A new record with its event, in place of its tombstone where there is one. Raises Conflict if it exists."""
        tombstone = await self._tombstone(self._id(record))
        if tombstone:
            record = self._made_again(record, tombstone)
        pending_event = self._event(event, data, record, at)
        document = {**self._encode(record), "last_event": pending_event.id}
        if tombstone is None:
            await self._insert_named({"_id": self._id(record), **document}, pending_event)
            return record
        document["before"] = tombstone.version
        if not await self._advance(self._id(record), tombstone.version, document, pending_event):
            raise Conflict(self._id(record))
        return record

    def _made_again(self, record: M, tombstone: Tombstone) -> M:
        """The record as it goes on where the deleted one of the same id ended."""
        return record.model_copy(update={"version": tombstone.version + 1})

    async def _change(
        self, before: M, changes: dict[str, object], event: type[Event], data: BaseModel, at: Origin
    ) -> M | None:
        """The record with the changes and their event; None if it is no longer as it was before. Raises Conflict."""
        changed = tuple(sorted(name for name, value in changes.items() if value != getattr(before, name)))
        data = data.model_copy(update={"changed": changed})
        after = before.model_copy(update={**changes, "version": before.version + 1, "updated_at": at.now})
        pending_event = self._event(event, data, after, at)
        document = {**self._encode(after), "last_event": pending_event.id}
        done = await self._advance(self._id(after), before.version, document, pending_event)
        return after if done else None

    async def _remove(self, before: M, event: type[Event], data: BaseModel, at: Origin) -> bool:
        """A tombstone in place of the record; whether it was still as before."""
        after = before.model_copy(update={"version": before.version + 1})
        pending_event = self._event(event, data, after, at)
        fields = {
            **self.secret,
            "version": after.version,
            "deleted": True,
            "deleted_at": at.now,
            "last_event": pending_event.id,
            "purge_after": at.now + TOMBSTONE_RETENTION,
        }
        return await self._advance(self._id(after), before.version, fields, pending_event)
