"""Compare-and-sets on single records that share round trips."""

import asyncio
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pymongo.errors import OperationFailure, PyMongoError, WriteConcernError

from contracts.events import PendingEvent
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.ledger import PURGE_AT, entry_of
from libs.store.mongo import BATCH_LIMIT, Collection, Document, settled


class Change(NamedTuple):
    """What becomes of a record that is still at `version`; the next version has it."""

    key: str
    version: int
    fields: Mapping[str, object]
    """New values; `purge_at` follows from `purge_after` and from whether an event waits to be published."""
    event: PendingEvent | None = None
    appended: Mapping[str, Document] | None = None
    """New last elements of lists."""


@dataclass(slots=True)
class _Waiter:
    change: Change
    stamp: str
    future: asyncio.Future[bool]


class GroupUpdate:
    """Changes that wait at the same time share one statement; one is in flight, which is the window.

    A statement of its own for each change costs the server twice as much, and as a retryable write three times. So each
    change leaves a stamp in its record: where the server's count does not say that all were applied, or an attempt's
    outcome is unknown and it is repeated, the stamps say which were.
    """

    def __init__(self, collection: Callable[[], Collection], lists: Mapping[str, int]) -> None:
        """`lists` are the fields that can be appended to, and how many of the latest elements are kept."""
        self._collection = collection
        self._pipeline = _pipeline(lists)
        self._waiting: list[_Waiter] = []
        self._flusher: asyncio.Task[None] | None = None

    async def apply(self, change: Change) -> bool:
        """Whether the record was still as the change expects it, and is changed now.

        Raises TemporarilyUnavailable, with the outcome unknown.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiter(change, new_stamp(), future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="group-update")
        return await future

    async def _flush(self) -> None:
        try:
            while self._waiting:
                await self._commit(self._next_batch())
        finally:
            self._flusher = None

    def _next_batch(self) -> Sequence[_Waiter]:
        """Some of those who wait; two changes of one record are never in the same batch."""
        batch: dict[str, _Waiter] = {}
        left: list[_Waiter] = []
        for waiter in self._waiting:
            if len(batch) < BATCH_LIMIT and waiter.change.key not in batch:
                batch[waiter.change.key] = waiter
            else:
                left.append(waiter)
        self._waiting = left
        return list(batch.values())

    async def _commit(self, batch: Sequence[_Waiter]) -> None:
        try:
            applied = await settled(lambda _: self._write(batch))
        except (PyMongoError, TemporarilyUnavailable) as error:
            for waiter in batch:
                if not waiter.future.done():
                    waiter.future.set_exception(error)
            return
        for waiter in batch:
            if not waiter.future.done():
                waiter.future.set_result(applied is None or waiter.stamp in applied)

    async def _write(self, batch: Sequence[_Waiter]) -> set[str] | None:
        """The stamps of the changes that were applied; None: all."""
        collection = self._collection()
        keys = [waiter.change.key for waiter in batch]
        reply = await collection.database.command(
            "update",
            collection.name,
            updates=[
                {
                    "q": {"_id": {"$in": keys}},
                    "u": [{"$set": {"change": _chosen(keys, batch)}}, *self._pipeline],
                    "multi": True,
                }
            ],
            writeConcern=collection.write_concern.document,
        )
        _raise_what_failed(reply)
        if reply["nModified"] == len(batch):
            return None
        found = await collection.find({"_id": {"$in": keys}}, {"stamp": 1}).to_list(None)
        return {document["stamp"] for document in found if "stamp" in document}


_PROCESS = os.urandom(8).hex()
_numbers = itertools.count()


def new_stamp() -> str:
    """What marks a record as changed by this very update; unique, and no secret."""
    return f"{_PROCESS}.{os.getpid()}.{next(_numbers)}"


def _chosen(keys: Sequence[str], batch: Sequence[_Waiter]) -> Document:
    """An expression for the change that is meant for the record at hand."""
    changes = [_encode(waiter) for waiter in batch]
    return {"$arrayElemAt": [{"$literal": changes}, {"$indexOfArray": [{"$literal": keys}, "$_id"]}]}


def _encode(waiter: _Waiter) -> Document:
    change = waiter.change
    encoded: Document = {
        "from": change.version,
        "fields": {**change.fields, "version": change.version + 1, "stamp": waiter.stamp},
    }
    if change.event is not None:
        encoded["event"] = entry_of(change.event)
    if change.appended:
        encoded["appended"] = change.appended
    return encoded


def _pipeline(lists: Mapping[str, int]) -> list[Document]:
    """The record with the change, where it is at the version that the change is for; otherwise as it is."""
    appended: Document = {
        name: {"$slice": [_with_last(name, f"$change.appended.{name}"), -kept]} for name, kept in lists.items()
    }
    events: Document = {
        "pending": {"$cond": ["$change.event", _with_last("pending", "$change.event"), "$pending"]},
        "pending_since": {"$ifNull": ["$pending_since", "$change.event.at"]},
    }
    changed = {"$mergeObjects": ["$$ROOT", "$change.fields", {**appended, **events}]}
    return [
        {"$replaceWith": {"$cond": [{"$eq": ["$version", "$change.from"]}, changed, "$$ROOT"]}},
        {"$set": {"change": "$$REMOVE", "purge_at": PURGE_AT}},
    ]


def _with_last(name: str, element: str) -> Document:
    """The list with the element at its end, if there is one."""
    new: Document = {"$cond": [{"$ifNull": [element, False]}, [element], []]}
    return {"$concatArrays": [{"$ifNull": [f"${name}", []]}, new]}


def _raise_what_failed(reply: Document) -> None:
    concern: dict[str, Any] | None = reply.get("writeConcernError")
    if concern:
        raise WriteConcernError(concern.get("errmsg", "not on a majority"), concern.get("code"), concern)
    for failed in reply.get("writeErrors", ()):
        raise OperationFailure(failed.get("errmsg", "write error"), failed["code"], failed)
