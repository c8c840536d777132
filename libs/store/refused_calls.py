"""Calls that the gateways refused, counted for each grant exactly once, although a write may have to be repeated."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pymongo import IndexModel, UpdateOne
from pymongo.errors import BulkWriteError

from contracts.grant_views import RefusalCount, RefusedCallsView
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.failures import DUPLICATE_KEY
from libs.store.mongo import Mongo, outage_is_unavailability

KEPT = timedelta(days=100)
"""After the last refusal; longer than any grant lives."""

Refused = Mapping[str, Mapping[str, int]]
"""For each grant, the number of refused calls by reason."""


class RefusedCalls:
    """One document for each grant with refused calls.

    `by` has the number of the last batch that each source (gateway process) has added, so a repeated one adds nothing.
    """

    name = "refused_calls"
    indexes = (IndexModel("purge_at", name="purge", expireAfterSeconds=0),)

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        mongo.want(self.name, self.indexes)

    async def add(self, source: str, number: int, refused: Refused, now: datetime) -> None:
        """Add the batch once, however often this is called with it. Raises TemporarilyUnavailable: call it again.

        A source adds its batches one after the other, with increasing numbers, and the next only after this returned.
        """
        async with outage_is_unavailability():
            failed = await self._write([(grant, source, number, refused[grant]) for grant in refused], now, upsert=True)
            # A duplicate key: the document has this batch already, or another process has just created it.
            await self._write([(grant, source, number, refused[grant]) for grant in failed], now, upsert=False)

    async def _write(
        self, batch: Sequence[tuple[str, str, int, Mapping[str, int]]], now: datetime, *, upsert: bool
    ) -> Sequence[str]:
        """The grants whose document could not be inserted because it exists."""
        writes = [
            UpdateOne(
                {"_id": grant, f"by.{source}": {"$not": {"$gte": number}}},
                {
                    "$inc": {f"counts.{reason}": count for reason, count in counts.items()},
                    "$set": {f"by.{source}": number},
                    "$max": {"last_at": now, "purge_at": now + KEPT},
                },
                upsert=upsert,
            )
            for grant, source, number, counts in batch
        ]
        if not writes:
            return []
        try:
            await self._mongo[self.name].bulk_write(writes, ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            faults = details.get("writeErrors", [])
            if details.get("writeConcernErrors") or any(fault["code"] != DUPLICATE_KEY for fault in faults):
                raise TemporarilyUnavailable("not every write succeeded", detail=str(details)[:200]) from error
            return [batch[fault["index"]][0] for fault in faults]
        return []

    async def of(self, grant_id: str) -> RefusedCallsView:
        """The refused calls of the grant."""
        async with outage_is_unavailability():
            found = await self._mongo[self.name].find_one({"_id": grant_id}) or {}
        counts = [RefusalCount(reason=reason, count=count) for reason, count in sorted(found.get("counts", {}).items())]
        return RefusedCallsView(counts=counts, last_at=found.get("last_at"))
