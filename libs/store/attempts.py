"""Failed attempts to prove who one is, counted over all instances, and the places where users have proven it."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from pymongo import IndexModel, ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError

from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import Mongo, outage_is_unavailability

KEPT = timedelta(minutes=5)
"""How long a count outlives its window: clocks differ."""


class Asked(NamedTuple):
    """Whether one more attempt may be made, and how many failed so far."""

    granted: bool
    failed: int


class Outcome(NamedTuple):
    """What became of attempts that were taken."""

    failed: int
    returned: int


class Attempts:
    """One document a tally and window. `taken`: failed, under way, or lost with their process; never over the limit."""

    name = "attempts"
    indexes = (IndexModel("purge_after", name="purge", expireAfterSeconds=0),)

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        mongo.want(self.name, self.indexes)

    async def take(self, key: str, limit: int, end: datetime) -> Asked:
        """One more attempt taken, if fewer than `limit` are. Raises TemporarilyUnavailable."""
        # Never a mismatch, which an upsert would answer with an error: at the limit the write changes nothing.
        one_more = {
            "taken": {"$min": [limit, {"$add": [{"$ifNull": ["$taken", 0]}, 1]}]},
            "failed": {"$ifNull": ["$failed", 0]},
            "purge_after": end + KEPT,
        }
        async with outage_is_unavailability():
            before = await self._mongo[self.name].find_one_and_update(
                {"_id": key}, [{"$set": one_more}], upsert=True, return_document=ReturnDocument.BEFORE
            )
        return Asked(before["taken"] < limit, before["failed"]) if before else Asked(granted=True, failed=0)

    async def settle(self, outcomes: Mapping[str, Outcome]) -> None:
        """What was taken has failed, or is there again. Raises TemporarilyUnavailable."""
        writes = [
            UpdateOne({"_id": key}, {"$inc": {"taken": -outcome.returned, "failed": outcome.failed}})
            for key, outcome in outcomes.items()
        ]
        async with outage_is_unavailability():
            try:
                await self._mongo[self.name].bulk_write(writes, ordered=False)
            except BulkWriteError as error:
                raise TemporarilyUnavailable("not every write succeeded", detail=str(error.details)[:200]) from error

    async def remember(self, place: str, until: datetime) -> None:
        """The place is known until then. Raises TemporarilyUnavailable."""
        async with outage_is_unavailability():
            await self._mongo[self.name].update_one({"_id": place}, {"$set": {"purge_after": until}}, upsert=True)

    async def remembers(self, place: str, now: datetime) -> bool:
        """Whether the place is known. Raises TemporarilyUnavailable."""
        async with outage_is_unavailability():
            return await self._mongo[self.name].find_one({"_id": place, "purge_after": {"$gt": now}}) is not None
