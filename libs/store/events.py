"""The events that the bus has brought: what went out, to be compared with what was committed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple

from pymongo import ASCENDING, IndexModel

from contracts.audit import RecordedEvent
from libs.events import first_event_id
from libs.store.mongo import Conflict, Mongo, outage_is_unavailability
from libs.store.recording import Recording
from libs.store.usage import Usage

KEPT = timedelta(days=8)
"""How long the record of an event is there, counted from the event."""


class Seen(NamedTuple):
    """One event as the bus brought it."""

    id: str
    sequence: int
    notify: bool


class RecordedEvents:
    """One document an event, under the event's id."""

    name = "events"
    indexes = (
        IndexModel([("subject", ASCENDING), ("sequence", ASCENDING)], name="subject"),
        IndexModel("time", name="purge", expireAfterSeconds=int(KEPT.total_seconds())),
    )

    def __init__(self, mongo: Mongo, usage: Usage) -> None:
        self._mongo = mongo
        self.recording = Recording(mongo, self.name, usage, KEPT)
        mongo.want(self.name, self.indexes)

    async def add(self, event: RecordedEvent) -> None:
        """The event recorded and counted, with others together; once, however often. Raises TemporarilyUnavailable."""
        document = event.model_dump(exclude={"id"}, exclude_none=True)
        with suppress(Conflict):
            await self.recording.insert({"_id": event.id, **document})

    async def about(self, collection: str, subjects: Sequence[str]) -> Mapping[str, Sequence[Seen]]:
        """Every recorded event of these records, by record."""
        query = {"subject": {"$in": list(subjects)}, "collection": collection}
        fields = {"subject": 1, "sequence": 1, "notify": 1}
        seen: dict[str, list[Seen]] = {}
        async with outage_is_unavailability():
            for found in await self._mongo.majority(self.name).find(query, fields).to_list(None):
                event = Seen(found["_id"], found["sequence"], found["notify"])
                seen.setdefault(found["subject"], []).append(event)
        return seen

    async def firsts(self, since: datetime, until: datetime) -> Counter[tuple[str, str]]:
        """How many records of each collection had their first event recorded, by the slice of that time."""
        query = {"_id": {"$gte": first_event_id(since), "$lt": first_event_id(until)}, "sequence": 1}
        counts: Counter[tuple[str, str]] = Counter()
        async with outage_is_unavailability():
            cursor = self._mongo.majority(self.name).find(query, {"collection": 1}, batch_size=_BATCH)
            while found := await cursor.to_list(_BATCH):
                counts.update((document["collection"], document["_id"][SLICE]) for document in found)
        return counts

    async def subjects_of(self, collection: str, part: str) -> Sequence[str]:
        """The records whose first event was recorded in this slice."""
        query = {"_id": {"$gte": f"evt_{part}", "$lt": f"evt_{part}g"}, "sequence": 1, "collection": collection}
        async with outage_is_unavailability():
            found = await self._mongo.majority(self.name).find(query, {"subject": 1}).to_list(None)
        return [document["subject"] for document in found]


SLICE = slice(4, 13)
"""The part of an event id that is the same for four seconds."""

_BATCH = 5000
