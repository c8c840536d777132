"""The events that the bus delivered, to be compared with what the records committed (reconciliation)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple

from pymongo import ASCENDING, DESCENDING, IndexModel

from contracts.event_list import EventQuery
from contracts.reconciliation import RecordedEvent
from libs.event_encoding import first_event_id
from libs.store.mongo import Conflict, Document, Mongo, outage_is_unavailability
from libs.store.usage import Usage
from libs.store.usage_batcher import UsageBatcher

KEPT = timedelta(days=8)
"""How long a recorded event is kept, counted from the event."""


class Seen(NamedTuple):
    """One event that the bus delivered."""

    id: str
    sequence: int
    notify: bool


class RecordedEvents:
    """One document per event, with the event's id."""

    name = "events"
    indexes = (
        IndexModel([("subject", ASCENDING), ("sequence", ASCENDING)], name="subject"),
        # Counts records by their first event without visiting later ones.
        IndexModel(
            [("sequence", ASCENDING), ("collection", ASCENDING), ("_id", ASCENDING)],
            name="firsts",
            partialFilterExpression={"sequence": 1},
        ),
        IndexModel("time", name="purge", expireAfterSeconds=int(KEPT.total_seconds())),
    )

    def __init__(self, mongo: Mongo, usage: Usage) -> None:
        self._mongo = mongo
        self.usage = usage
        self.batches = UsageBatcher(mongo, self.name, usage, KEPT)
        mongo.want(self.name, self.indexes)

    async def add(self, event: RecordedEvent) -> None:
        """Record and count the event, batched with others. Idempotent. Raises TemporarilyUnavailable."""
        document = event.model_dump(exclude={"id"}, exclude_none=True)
        with suppress(Conflict):
            await self.batches.add({"_id": event.id, **document})

    async def about(self, collection: str, subjects: Sequence[str]) -> Mapping[str, Sequence[Seen]]:
        """All recorded events of these records, by record."""
        query = {"subject": {"$in": list(subjects)}, "collection": collection}
        fields = {"subject": 1, "sequence": 1, "notify": 1}
        seen: dict[str, list[Seen]] = {}
        async with outage_is_unavailability():
            for found in await self._mongo.majority(self.name).find(query, fields).to_list(None):
                event = Seen(found["_id"], found["sequence"], found["notify"])
                seen.setdefault(found["subject"], []).append(event)
        return seen

    async def of(self, collection: str, subject: str) -> Sequence[RecordedEvent]:
        """All recorded events of this record, in their order."""
        query = {"subject": subject, "collection": collection}
        async with outage_is_unavailability():
            cursor = self._mongo.indexed(self.name).find(query, {"batch": 0}, hint="subject")
            found = await cursor.sort("sequence", ASCENDING).to_list(None)
        return [RecordedEvent.model_validate({**document, "id": document["_id"]}) for document in found]

    async def page(self, query: EventQuery, types: Sequence[str] | None) -> tuple[Sequence[RecordedEvent], str | None]:
        """At most `query.limit` events of these types (None: all), the latest first, and the id after which to go on.

        Looks at SCANNED events at most, in the order of their ids, which sort by time: filters have no index.
        """
        wanted: list[RecordedEvent] = []
        seen = None
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find({"_id": _bounds(query)}, {"batch": 0}, hint="_id_")
            found = await cursor.sort("_id", DESCENDING).limit(_most(query, types)).to_list(None)
        for seen in found:
            if _is_wanted(seen, query, types):
                wanted.append(RecordedEvent.model_validate({**seen, "id": seen["_id"]}))
            if len(wanted) == query.limit:
                break
        if seen is None or (seen is found[-1] and len(found) < _most(query, types)):
            return wanted, None
        return wanted, seen["_id"]

    async def following(self, after: str, before: str, limit: int) -> Sequence[RecordedEvent]:
        """At most so many events whose ids sort between these, the oldest first."""
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find({"_id": {"$gt": after, "$lt": before}}, {"batch": 0}, hint="_id_")
            found = await cursor.sort("_id", ASCENDING).limit(limit).to_list(None)
        return [RecordedEvent.model_validate({**document, "id": document["_id"]}) for document in found]

    async def firsts(self, collections: Sequence[str], since: datetime, until: datetime) -> Counter[tuple[str, str]]:
        """How many records had their first event recorded in that time, by collection and SLICE of the event id."""
        moments = {"$gte": first_event_id(since), "$lt": first_event_id(until)}
        query = {"sequence": 1, "collection": {"$in": list(collections)}, "_id": moments}
        counts: Counter[tuple[str, str]] = Counter()
        async with outage_is_unavailability():
            self._mongo.indexed(self.name)
            collection = self._mongo.majority(self.name)
            cursor = collection.find(query, {"collection": 1}, hint="firsts", batch_size=_BATCH)
            while found := await cursor.to_list(_BATCH):
                counts.update((document["collection"], document["_id"][SLICE]) for document in found)
        return counts

    async def subjects_of(self, collection: str, part: str) -> Sequence[str]:
        """The records whose first event has this SLICE of its id."""
        query = {"_id": {"$gte": f"evt_{part}", "$lt": f"evt_{part}g"}, "sequence": 1, "collection": collection}
        async with outage_is_unavailability():
            found = await self._mongo.majority(self.name).find(query, {"subject": 1}).to_list(None)
        return [document["subject"] for document in found]


SCANNED = 2000
"""The most events that one request for a filtered list looks at."""


def _most(query: EventQuery, types: Sequence[str] | None) -> int:
    filtered = types is not None or query.api_id is not None or query.client_id is not None
    return SCANNED if filtered else query.limit + 1


def _bounds(query: EventQuery) -> Document:
    since = first_event_id(query.since) if query.since else "evt_"
    before = [bound for bound in (query.until and first_event_id(query.until), query.after, "evt_g") if bound]
    return {"$gte": since, "$lt": min(before)}


def _is_wanted(event: Document, query: EventQuery, types: Sequence[str] | None) -> bool:
    return (
        (types is None or event["type"] in types)
        and query.api_id in {None, event.get("api_id")}
        and query.client_id in {None, event.get("client_id")}
    )


SLICE = slice(4, 13)
"""The part of an event id that is the same for events of the same four seconds."""

_BATCH = 5000
