"""Stored results of reconciliation: one for the records created in each window of five minutes.

A report about a whole day adds up results instead of comparing all records again.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from contracts.reconciliation import Discrepancy, ReconciliationReport
from libs.store.mongo import Document, Mongo, outage_is_unavailability
from libs.store.recorded_events import KEPT

WINDOW = timedelta(minutes=5)
LEASE = timedelta(minutes=5)
"""If a reconciler dies, another one takes over after this time at the latest."""


def window_of(moment: datetime) -> datetime:
    """The beginning of the window that the moment is in."""
    return moment.astimezone(UTC).replace(minute=moment.minute // 5 * 5, second=0, microsecond=0)


class WindowResult(NamedTuple):
    """The result for the records that were created in one window, as of the last comparison."""

    window: datetime
    checked_at: datetime
    collections: Mapping[str, Mapping[str, int]]
    """By collection, the numbers of its EventBalance that are not 0."""
    notifications: Mapping[str, int]
    """The numbers of its NotificationBalance that are not 0."""
    examples: Sequence[Discrepancy]


class ReconciliationResults:
    """One document per window; its id is the window's beginning."""

    name = "reconciliation"

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        # Kept as long as the recorded events: without those, a window could not be compared again.
        mongo.want(self.name, (IndexModel("at", name="purge", expireAfterSeconds=int(KEPT.total_seconds())),))

    async def put(self, window: datetime, checked_at: datetime, found: ReconciliationReport) -> None:
        """Store the result of this window, replacing an earlier one. Raises TemporarilyUnavailable."""
        document: Document = {
            "at": window,
            "checked_at": checked_at,
            "collections": {name: _present(balance.model_dump()) for name, balance in found.collections.items()},
            "notifications": _present(found.notifications.model_dump()),
            "examples": [example.model_dump(mode="json") for example in found.examples],
        }
        async with outage_is_unavailability():
            await self._mongo[self.name].replace_one({"_id": _key(window)}, document, upsert=True)

    async def between(self, since: datetime, until: datetime) -> Sequence[WindowResult]:
        """The results of the windows that begin at `since` or later and before `until`, in order of time."""
        async with outage_is_unavailability():
            wanted = {"_id": {"$gte": _key(since), "$lt": _key(until)}}
            found = await self._mongo[self.name].find(wanted).sort("_id", ASCENDING).to_list(None)
        return [_result(document) for document in found]

    async def checked(self, since: datetime, until: datetime) -> dict[datetime, datetime]:
        """For each window of this time that was compared, when it was last compared."""
        async with outage_is_unavailability():
            wanted = {"_id": {"$gte": _key(since), "$lt": _key(until)}}
            cursor = self._mongo[self.name].find(wanted, {"at": 1, "checked_at": 1})
            return {document["at"]: document["checked_at"] async for document in cursor}

    async def lead(self, holder: str, now: datetime) -> bool:
        """Take or extend the lease to reconcile, for LEASE; whether `holder` has it."""
        free = {"_id": "reconciliation", "$or": [{"holder": holder}, {"until": {"$lte": now}}]}
        try:
            async with outage_is_unavailability():
                update = {"$set": {"holder": holder, "until": now + LEASE}}
                await self._mongo["leases"].update_one(free, update, upsert=True)
        except DuplicateKeyError:
            return False
        return True


def _key(window: datetime) -> str:
    return window.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")


def _present(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _result(document: Document) -> WindowResult:
    return WindowResult(
        document["at"],
        document["checked_at"],
        document["collections"],
        document["notifications"],
        [Discrepancy.model_validate(example) for example in document["examples"]],
    )
