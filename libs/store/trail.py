"""The audit trail, kept long after the events that it is made of."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from pymongo import ASCENDING, DESCENDING, IndexModel

from contracts.trail import TrailEntry, TrailQuery
from libs.events import first_event_id
from libs.store.mongo import Conflict, Document, GroupCommit, Mongo, outage_is_unavailability

KEPT = timedelta(days=400)
"""How long an entry is there, counted from the change: a year, and time to look at it."""


class Trail:
    """One document a change, under the id of its event, which sorts by time."""

    name = "trail"
    indexes = (
        IndexModel([("subject", ASCENDING), ("_id", DESCENDING)], name="subject"),
        IndexModel([("actor.operator_id", ASCENDING), ("_id", DESCENDING)], name="operator"),
        IndexModel([("action", ASCENDING), ("_id", DESCENDING)], name="action"),
        IndexModel("at", name="purge", expireAfterSeconds=int(KEPT.total_seconds())),
    )

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._group = GroupCommit(lambda: mongo[self.name])
        mongo.want(self.name, self.indexes)

    async def add(self, entry: TrailEntry) -> None:
        """The entry stored; once, however often. Raises TemporarilyUnavailable."""
        with suppress(Conflict):
            await self._group.insert({"_id": entry.id, **entry.model_dump(exclude={"id"}, exclude_none=True)})

    async def page(self, query: TrailQuery) -> tuple[Sequence[TrailEntry], bool]:
        """The latest changes first, at most `query.limit`, and whether there are more."""
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find(_filter(query)).sort("_id", DESCENDING).limit(query.limit + 1)
            found = await cursor.to_list(None)
        return [_decode(document) for document in found[: query.limit]], len(found) > query.limit

    async def latest_of(self, operator_id: str) -> datetime | None:
        """When the operator last changed something; None: not as far as the trail goes back."""
        async with outage_is_unavailability():
            found = await self._mongo[self.name].find_one(
                {"actor.operator_id": operator_id}, sort=[("_id", DESCENDING)]
            )
        return _decode(found).at if found else None


def _decode(document: Document) -> TrailEntry:
    return TrailEntry.model_validate({**document, "id": document["_id"]})


def _filter(query: TrailQuery) -> Document:
    wanted: Document = {}
    if query.operator:
        wanted["actor.operator_id"] = query.operator
    if query.subject:
        wanted["subject"] = query.subject
    if query.action:
        kind = query.action.removesuffix("*")
        # "/" follows "." in the order of characters, so these are all that begin with it.
        wanted["action"] = {"$gte": kind, "$lt": f"{kind[:-1]}/"} if kind != query.action else kind
    bounds = {"$gte": first_event_id(query.since)} if query.since else {}
    if before := [bound for bound in (query.until and first_event_id(query.until), query.after) if bound]:
        bounds["$lt"] = min(before)
    return wanted | ({"_id": bounds} if bounds else {})
