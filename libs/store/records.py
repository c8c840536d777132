"""Named records: APIs, clients, policies, resource owners, operators. A deleted one leaves a tombstone."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel
from pymongo import ASCENDING, IndexModel

from contracts.base import Record
from contracts.events import Event, PendingEvent
from contracts.pages import MOST_AT_ONCE, MOST_PAGES, PAGE_SIZE
from libs.encryption import CannotDecrypt
from libs.event_encoding import EventContext, new_event_id, pending, sequence_text
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import Conflict, Document, outage_is_unavailability
from libs.store.optimistic import retry_on_conflict
from libs.store.outbox_collection import OutboxCollection

TOMBSTONE_RETENTION = timedelta(days=100)
"""Longer than any grant lives: a record that is created again under the same id must not revive old grants."""

M = TypeVar("M", bound=Record)


@dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    """One page of a list."""

    records: Sequence[M]
    pages: int
    """How many pages of PAGE_SIZE there are; MOST_PAGES + 1 if there are more than MOST_PAGES."""
    next: str | None = None
    """The id after which the next page begins; None on the last page."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What remains of a deleted record."""

    version: int
    deleted_at: datetime


class Reencryption(NamedTuple):
    """The outcome for one record of which some values were not encrypted with the current key."""

    key: str
    refusal: str | None = None
    """Why some values could not be re-encrypted; None if all are encrypted with the current key now."""


Reencrypt = Callable[[Document], tuple[Document, str | None]]
"""For a record: its fields with re-encrypted values, and why others cannot be. May raise CannotDecrypt."""


def event_of(
    event: type[Event], data: BaseModel, subject: str, word: str, sequence: int, ctx: EventContext
) -> PendingEvent:
    """The event of the change that made version `sequence` of the record `subject`, and whose change it was."""
    if ctx.actor is not None and "actor" in type(data).model_fields:
        data = data.model_copy(update={"actor": ctx.actor})
    made = event.model_validate(
        {
            "id": new_event_id(ctx.now),
            "source": ctx.source,
            "time": ctx.now,
            "subject": subject,
            "sequence": sequence_text(sequence),
            "traceparent": ctx.traceparent,
            "data": data,
        }
    )
    return pending(made, word, subject)


LIVING = IndexModel([("deleted", ASCENDING), ("_id", ASCENDING)], name="living")
MADE = IndexModel("created_at", name="made")


class Records(OutboxCollection, Generic[M]):
    """A collection of named records."""

    indexes: Sequence[IndexModel] = (LIVING, MADE)

    model: type[M]
    key: ClassVar[str]
    """The model's field that is the record's id."""
    as_json: ClassVar[frozenset[str]] = frozenset()
    """Fields whose keys are chosen by users, stored as JSON text: BSON restricts field names."""

    secret: ClassVar[Mapping[str, object]] = {}
    """The values that replace secret fields in a tombstone."""

    _last_found: Document | None = None
    """The last document that was found, which `_get_constant_time` decodes if there is none."""

    def _id(self, record: M) -> str:
        identifier: str = getattr(record, self.key)
        return identifier

    def _word(self, record: M) -> str:
        """The last word of the routing key of the record's events."""
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
        """The record; None if it does not exist or was deleted."""
        document = await self._read(key)
        return self._decode(document) if document and not document["deleted"] else None

    async def _get_constant_time(self, key: str) -> M | None:
        """`get` for ids that anybody may send: takes the same time whether or not there is such a record."""
        document = await self._read(key)
        if document and not document["deleted"]:
            self._last_found = document
            return self._decode(document)
        if self._last_found:
            self._decode(self._last_found)
        return None

    async def _list(self, query: Document, limit: int = 0, index: str | None = None) -> Sequence[M]:
        async with outage_is_unavailability():
            living = {**query, "deleted": False}
            collection = self._mongo.indexed(self.name) if index else self._mongo[self.name]
            cursor = collection.find(living, hint=index).sort("_id", ASCENDING).limit(limit)
            return [self._decode(document) async for document in cursor]

    async def first_unknown(self, keys: Iterable[str]) -> str | None:
        """The first of these ids that no record has; None if all exist."""
        wanted = list(keys)
        known = await self.living(wanted)
        return next((key for key in wanted if key not in known), None)

    async def living(self, keys: Sequence[str]) -> frozenset[str]:
        """Which of these ids have a record that is not deleted."""
        if not keys:
            return frozenset()
        async with outage_is_unavailability():
            query = {"_id": {"$in": list(keys)}, "deleted": False}
            return frozenset([document["_id"] async for document in self._mongo[self.name].find(query, {"_id": 1})])

    async def keys(self) -> Sequence[str]:
        """The ids of all records, sorted."""
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find({"deleted": False}, {"_id": 1}).sort("_id", 1)
            return [document["_id"] async for document in cursor]

    async def first(self, limit: int) -> Sequence[M]:
        """The first `limit` records, sorted by id."""
        return await self._list({}, limit, "living")

    async def ids_with(self, field: str, value: str, limit: int) -> Sequence[str]:
        """Up to `limit` ids of records whose field has this value, sorted; the index `with_<field>` must exist."""
        async with outage_is_unavailability():
            cursor = self._mongo.indexed(self.name).find({field: value, "deleted": False}, {"_id": 1})
            found = await cursor.hint(f"with_{field}").sort("_id", ASCENDING).limit(limit).to_list(None)
        return [document["_id"] for document in found]

    async def all(self) -> Sequence[M]:
        """All records, sorted by id."""
        return await self._list({})

    async def page(self, number: int | None, after: str | None = None) -> Page[M]:
        """One page of PAGE_SIZE records sorted by id: those after the id `after`, or page `number`, counted from 1.

        Without both, the first MOST_AT_ONCE records as one page. A page after MOST_PAGES is empty, even if `pages` says
        that there are more. Reads no more records than it returns, however many there are.
        """
        return await self._page({}, "living", number, after)

    async def _page(self, query: Document, index: str, number: int | None, after: str | None) -> Page[M]:
        """`page` of the records that match the query, found through this index, which must be ordered by id."""
        living = {**query, "deleted": False}
        if after is not None:
            pages = await self._pages(living, index)
            return await self._part({**living, "_id": {"$gt": after}}, index, PAGE_SIZE, pages)
        if number is None:
            whole = await self._part(living, index, MOST_AT_ONCE)
            return Page(whole.records, min(1, len(whole.records)), whole.next)
        pages = await self._pages(living, index)
        if number > min(pages, MOST_PAGES):
            return Page((), pages)
        return await self._part(await self._from_page(living, index, number), index, PAGE_SIZE, pages)

    async def _part(self, query: Document, index: str, size: int, pages: int = 1) -> Page[M]:
        async with outage_is_unavailability():
            cursor = self._mongo.indexed(self.name).find(query, hint=index).sort("_id", ASCENDING)
            found = await cursor.limit(size + 1).to_list(None)
        records = [self._decode(document) for document in found[:size]]
        return Page(records, pages, self._id(records[-1]) if len(found) > size else None)

    async def _pages(self, query: Document, index: str) -> int:
        """How many pages there are, counted in the index, up to MOST_PAGES + 1."""
        async with outage_is_unavailability():
            collection = self._mongo.indexed(self.name)
            count = await collection.count_documents(query, limit=MOST_PAGES * PAGE_SIZE + 1, hint=index)
        return -(-count // PAGE_SIZE)

    async def _from_page(self, query: Document, index: str, number: int) -> Document:
        """The query for the records from this page on; earlier pages are skipped in the index."""
        if number == 1:
            return query
        async with outage_is_unavailability():
            cursor = self._mongo.indexed(self.name).find(query, {"_id": 1}, hint=index).sort("_id", ASCENDING)
            found = await cursor.skip((number - 1) * PAGE_SIZE).limit(1).to_list(None)
        return {**query, "_id": {"$gte": found[0]["_id"]} if found else {"$in": []}}

    async def deleted_at(self, key: str) -> datetime | None:
        """When the record was deleted; None if it was not, or its tombstone is gone."""
        tombstone = await self._tombstone(key)
        return tombstone.deleted_at if tombstone else None

    async def _tombstone(self, key: str) -> Tombstone | None:
        document = await self._read(key)
        return Tombstone(document["version"], document["deleted_at"]) if document and document["deleted"] else None

    async def _reencrypt(self, reencrypt: Reencrypt) -> AsyncIterator[Reencryption]:
        """Re-encrypt every record that has values not encrypted with the current key; one outcome for each.

        A record keeps its version and gets no event, because its content does not change. A request that changes the
        record at the same time advances the version, so the compare-and-set here fails and the record is read again.
        """
        last = ""
        while documents := await self._after(last):
            last = documents[-1]["_id"]
            for document in documents:
                if (outcome := await self._reencrypt_one(document, reencrypt)) is not None:
                    yield outcome

    async def _reencrypt_one(self, document: Document, reencrypt: Reencrypt) -> Reencryption | None:
        key, current = document["_id"], document

        async def attempt() -> tuple[Reencryption | None] | None:
            nonlocal current
            if not current or current["deleted"]:
                return (None,)
            try:
                fields, refusal = reencrypt(current)
            except CannotDecrypt as reason:
                fields, refusal = {}, str(reason)
            if not fields:
                return (Reencryption(key, refusal) if refusal else None,)
            if await self._advance(key, current["version"], fields, None):
                return (Reencryption(key, refusal),)
            current = await self._read(key) or {}
            return None

        (outcome,) = await retry_on_conflict(attempt, exhausted=_too_many_changes)
        return outcome

    async def _after(self, key: str) -> Sequence[Document]:
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find({"_id": {"$gt": key}, "deleted": False}).sort("_id", 1)
            return await cursor.limit(PAGE_SIZE).to_list(None)

    def _event(self, event: type[Event], data: BaseModel, record: M, ctx: EventContext) -> PendingEvent:
        return event_of(event, data, self._id(record), self._word(record), record.version, ctx)

    async def _add(self, record: M, event: type[Event], data: BaseModel, ctx: EventContext) -> M:
        """Insert a record with its event, or replace its tombstone. Raises Conflict if the record exists."""
        tombstone = await self._tombstone(self._id(record))
        if tombstone:
            record = self._recreated(record, tombstone)
        pending_event = self._event(event, data, record, ctx)
        document = {**self._encode(record), "last_event": pending_event.id}
        if tombstone is None:
            await self._insert_named({"_id": self._id(record), **document}, pending_event)
            return record
        document["before"] = tombstone.version
        if not await self._advance(self._id(record), tombstone.version, document, pending_event):
            raise Conflict(self._id(record))
        return record

    def _recreated(self, record: M, tombstone: Tombstone) -> M:
        """The record, continuing the versions of the deleted one with the same id, so that caches see an increase."""
        return record.model_copy(update={"version": tombstone.version + 1})

    async def _change(
        self, before: M, changes: dict[str, object], event: type[Event], data: BaseModel, ctx: EventContext
    ) -> M | None:
        """Write the changes with their event. The new record; None if another writer was first. Raises Conflict."""
        changed = tuple(sorted(name for name, value in changes.items() if value != getattr(before, name)))
        data = data.model_copy(update={"changed": changed})
        after = before.model_copy(update={**changes, "version": before.version + 1, "updated_at": ctx.now})
        pending_event = self._event(event, data, after, ctx)
        document = {**self._encode(after), "last_event": pending_event.id}
        done = await self._advance(self._id(after), before.version, document, pending_event)
        return after if done else None

    async def _remove(self, before: M, event: type[Event], data: BaseModel, ctx: EventContext) -> bool:
        """Replace the record with a tombstone; False if another writer was first."""
        after = before.model_copy(update={"version": before.version + 1})
        pending_event = self._event(event, data, after, ctx)
        fields = {
            **self.secret,
            "version": after.version,
            "deleted": True,
            "deleted_at": ctx.now,
            "last_event": pending_event.id,
            "purge_after": ctx.now + TOMBSTONE_RETENTION,
        }
        return await self._advance(self._id(after), before.version, fields, pending_event)


def _too_many_changes() -> TemporarilyUnavailable:
    return TemporarilyUnavailable("too many changes of one record at once")
