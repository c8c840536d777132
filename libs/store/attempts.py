"""Failed logins and issued tokens, counted exactly over all instances; and from where users have logged in."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from pymongo import IndexModel, ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError

from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import Mongo, outage_is_unavailability

KEPT = timedelta(minutes=5)
"""How long a count outlives its window, since clocks differ."""


class Reserved(NamedTuple):
    """Whether a slot was granted, and how many attempts have failed in this window so far."""

    granted: bool
    failed: int


class Outcome(NamedTuple):
    """How many attempts failed, and how many slots are given back."""

    failed: int
    returned: int


class Attempts:
    """One document for each counter and window.

    `taken` slots belong to attempts that failed, are in progress, or were lost with their process; they never exceed
    the limit. A lost slot is returned only when the window ends, so an error never allows more attempts.
    """

    name = "attempts"
    indexes = (IndexModel("purge_after", name="purge", expireAfterSeconds=0),)

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        mongo.want(self.name, self.indexes)

    async def take(self, key: str, limit: int, end: datetime) -> Reserved:
        """Take a slot if fewer than `limit` are taken. Raises TemporarilyUnavailable; the slot may be taken then."""
        # The limit is in the pipeline and not in the query: at the limit, a query that does not match would make the
        # upsert insert a second document, which fails with a duplicate key.
        one_more = {
            "taken": {"$min": [limit, {"$add": [{"$ifNull": ["$taken", 0]}, 1]}]},
            "failed": {"$ifNull": ["$failed", 0]},
            "purge_after": end + KEPT,
        }
        async with outage_is_unavailability():
            before = await self._mongo[self.name].find_one_and_update(
                {"_id": key}, [{"$set": one_more}], upsert=True, return_document=ReturnDocument.BEFORE
            )
        return Reserved(before["taken"] < limit, before["failed"]) if before else Reserved(granted=True, failed=0)

    async def reserve(self, key: str, limit: int, count: int, end: datetime) -> int:
        """Take up to `count` slots in the window of this key; how many were left under the limit.

        Raises TemporarilyUnavailable with the outcome unknown: assume that they were taken.
        """
        taken = {"$min": [limit, {"$add": [{"$ifNull": ["$taken", 0]}, count]}]}
        async with outage_is_unavailability():
            before = await self._mongo[self.name].find_one_and_update(
                {"_id": key},
                [{"$set": {"taken": taken, "purge_after": end + KEPT}}],
                upsert=True,
                return_document=ReturnDocument.BEFORE,
            )
        return min(count, limit - before["taken"]) if before else min(count, limit)

    async def write_outcomes(self, outcomes: Mapping[str, Outcome]) -> None:
        """Count failures, and give slots back.

        Raises TemporarilyUnavailable with the outcome unknown. Must not be repeated then: it is not idempotent.
        """
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
        """Remember until then that the user has logged in from there. Raises TemporarilyUnavailable."""
        async with outage_is_unavailability():
            await self._mongo[self.name].update_one({"_id": place}, {"$set": {"purge_after": until}}, upsert=True)

    async def remembers(self, place: str, now: datetime) -> bool:
        """Whether the user has logged in from there. Raises TemporarilyUnavailable."""
        async with outage_is_unavailability():
            return await self._mongo[self.name].find_one({"_id": place, "purge_after": {"$gt": now}}) is not None
