"""How the webhooks of each API arrived lately: what the list of webhook endpoints shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pymongo import DESCENDING

from contracts.webhooks import Attempt, DeliveryState
from libs.event_encoding import first_event_id, moment_of
from libs.store.deliveries import Deliveries
from libs.store.mongo import Document, Mongo, outage_is_unavailability

MOST_COUNTED = 1000
"""Deliveries whose states are counted, read from the index alone."""
MOST_READ = 100
"""Deliveries whose attempts are read."""
_ATTEMPT = {f"attempts.{name}": 1 for name in ("at", "latency_ms", "status", "error")}


@dataclass(frozen=True, slots=True)
class Recent:
    """The latest deliveries of one API."""

    states: Mapping[DeliveryState, int]
    attempts: Sequence[Attempt]
    """The latest first."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Deliveries of one API that are pending."""

    count: int
    """At most MOST_COUNTED + 1."""
    oldest: datetime | None
    """When the event of the oldest one happened."""


@dataclass(frozen=True, slots=True)
class RecentDeliveries:
    """Reads a bounded number of deliveries of each API, however many there are."""

    mongo: Mongo

    async def apis(self, after: str, limit: int) -> Sequence[str]:
        """Up to `limit` ids of APIs that have deliveries, sorted, those after `after`; one index step per API."""
        pipeline: list[Document] = [
            {"$match": {"api_id": {"$gt": after}}},
            {"$group": {"_id": "$api_id"}},
            {"$sort": {"_id": 1}},
            {"$limit": limit},
        ]
        return [document["_id"] for document in await self._aggregate(pipeline)]

    async def of_api(self, api_id: str, since: datetime) -> Recent:
        """The latest deliveries of the API for events since then."""
        query = {
            "api_id": api_id,
            "state": {"$in": [state.value for state in DeliveryState]},
            "_id": {"$gte": first_event_id(since)},
        }
        latest: list[Document] = [{"$match": query}, {"$sort": {"_id": -1}}, {"$limit": MOST_COUNTED}]
        counted = await self._aggregate([*latest, {"$group": {"_id": "$state", "count": {"$sum": 1}}}])
        async with outage_is_unavailability():
            cursor = self.mongo.indexed(Deliveries.name).find(query, _ATTEMPT, hint="api_state")
            found = await cursor.sort("_id", DESCENDING).limit(MOST_READ).to_list(None)
        attempts = [Attempt.model_validate(attempt) for document in found for attempt in document.get("attempts", ())]
        attempts.sort(key=lambda attempt: attempt.at, reverse=True)
        return Recent({DeliveryState(document["_id"]): document["count"] for document in counted}, attempts)

    async def backlog(self, api_id: str) -> Backlog:
        """What the API has pending."""
        pipeline: list[Document] = [
            {"$match": {"api_id": api_id, "state": DeliveryState.PENDING.value}},
            {"$sort": {"_id": 1}},
            {"$limit": MOST_COUNTED + 1},
            {"$group": {"_id": None, "count": {"$sum": 1}, "oldest": {"$first": "$_id"}}},
        ]
        found = await self._aggregate(pipeline)
        return Backlog(found[0]["count"], moment_of(found[0]["oldest"])) if found else Backlog(0, None)

    async def _aggregate(self, pipeline: list[Document]) -> Sequence[Document]:
        async with outage_is_unavailability():
            cursor = self.mongo.indexed(Deliveries.name).aggregate(pipeline, hint="api_state")
            return await cursor.to_list(None)
