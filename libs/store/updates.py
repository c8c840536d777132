"""Compare-and-set updates of single records that share round trips."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from contracts.events import PendingEvent
from libs.store.batcher import Batcher
from libs.store.failures import raise_write_concern_error, write_error
from libs.store.mongo import DURABLE, Document, GroupedCollection, outcome_of_write
from libs.store.outbox_collection import PURGE_AT, entry_of


class Change(NamedTuple):
    """New values for a record, applied only if it is still at `version`; its next version has them."""

    key: str
    version: int
    fields: Mapping[str, object]
    """New values. `purge_at` is derived: from `purge_after`, and from whether an event waits to be published."""
    event: PendingEvent | None = None
    appended: Mapping[str, Document] | None = None
    """For each list, the element to append."""


def batched_updates(collection: Callable[[], GroupedCollection], lists: Mapping[str, int]) -> Batcher[Change, bool]:
    """Applies changes. `submit` returns whether the record was still at the expected version, and is changed now.

    It raises TemporarilyUnavailable with the outcome unknown. `lists`: the fields that can be appended to, and how many
    of their latest elements are kept.

    One update statement for each change would cost the server twice as much, and three times as a retryable write. So
    a batch is one statement, and each change leaves a stamp in its record. The stamps say which changes were applied if
    the server's count does not say "all", or if the batch is repeated because the outcome of an attempt is unknown. The
    event of a change is proof as well, for a record that another writer has changed again by then.
    """
    pipeline = _pipeline(lists)

    async def send(changes: Sequence[Change]) -> Sequence[bool]:
        # Before the first attempt: a repeated one must find its own stamps.
        stamped = [(change, new_stamp()) for change in changes]
        applied = await outcome_of_write(lambda _: _write(collection(), stamped, pipeline))
        return [applied is None or not applied.isdisjoint(_marks(change, stamp)) for change, stamp in stamped]

    # A statement gives each record one change, so two changes of one record never share a batch.
    return Batcher("batched-updates", send, unique_key=attrgetter("key"))


async def _write(
    collection: GroupedCollection, stamped: Sequence[tuple[Change, str]], pipeline: Sequence[Document]
) -> set[str | None] | None:
    """The marks of the changes that were applied; None: all of them were."""
    keys = [change.key for change, _ in stamped]
    reply = await collection.database.command(
        "update",
        collection.name,
        updates=[
            {
                "q": {"_id": {"$in": keys}},
                "u": [{"$set": {"change": _chosen(keys, stamped)}}, *pipeline],
                "multi": True,
            }
        ],
        writeConcern=DURABLE,
    )
    raise_write_concern_error(reply)
    for entry in reply.get("writeErrors", ()):
        raise write_error(entry)
    if reply["nModified"] == len(stamped):
        return None
    found = await collection.find({"_id": {"$in": keys}}, {"stamp": 1, "last_event": 1, "pending.id": 1}).to_list(None)
    carried = {event["id"] for document in found for event in document.get("pending", ())}
    return carried.union(*((document.get("stamp"), document.get("last_event")) for document in found))


def _marks(change: Change, stamp: str) -> set[str]:
    """What the record carries if the change was applied."""
    return {stamp} if change.event is None else {stamp, change.event.id}


_PROCESS = os.urandom(8).hex()
_numbers = itertools.count()


def new_stamp() -> str:
    """A unique mark for one update, which the records it changed carry afterwards; not a secret."""
    return f"{_PROCESS}.{os.getpid()}.{next(_numbers)}"


def _chosen(keys: Sequence[str], stamped: Sequence[tuple[Change, str]]) -> Document:
    """Expression: the change that is meant for the record that the server is updating."""
    changes = [_encode(change, stamp) for change, stamp in stamped]
    return {"$arrayElemAt": [{"$literal": changes}, {"$indexOfArray": [{"$literal": keys}, "$_id"]}]}


def _encode(change: Change, stamp: str) -> Document:
    encoded: Document = {
        "from": change.version,
        "fields": {**change.fields, "version": change.version + 1, "stamp": stamp},
    }
    if change.event is not None:
        encoded["event"] = entry_of(change.event)
    if change.appended:
        encoded["appended"] = change.appended
    return encoded


def _pipeline(lists: Mapping[str, int]) -> list[Document]:
    """Applies the change to a record that is at the expected version, and leaves any other record as it is."""
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
    """Expression: the list with the element appended, or the list alone if there is no element."""
    new: Document = {"$cond": [{"$ifNull": [element, False]}, [element], []]}
    return {"$concatArrays": [{"$ifNull": [f"${name}", []]}, new]}
