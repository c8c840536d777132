"""Usage by API, client and hour: numbers that grow by batches, each of which counts once."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pymongo
from pymongo import ASCENDING, IndexModel
from pymongo.errors import OperationFailure, WriteConcernError

from contracts.usage import ClientUsage, UsageAnswer, UsageCounts, UsagePeriod, UsageQuery
from libs.store.mongo import DURABLE, Document, Mongo, outage_is_unavailability

KEPT = timedelta(days=90)
"""How long the numbers of an hour are there."""
REFUSED = "refused_"
"""Begins the name of a number of refusals; the reason follows."""
SUM_WITHIN = 25.0
"""Seconds that a sum may take."""
_STATEMENTS = 500
_TAKEN = 11000


class UsageKey(NamedTuple):
    """Whose numbers, of which hour."""

    hour: datetime
    api_id: str | None
    client_id: str | None

    @property
    def row(self) -> str:
        """Sorts by hour, API and client."""
        return f"{self.hour.isoformat()[:_HOUR]}.{self.api_id or ''}.{self.client_id or ''}"


Counts = Mapping[UsageKey, Mapping[str, int]]
"""By whose, how much to add to which number."""

_HOUR, _DAY = len("2026-03-01T12"), len("2026-03-01")
_REST: Document = {"$substrBytes": ["$_id", _HOUR, -1]}
_ROWS: Mapping[UsagePeriod, Any] = {
    UsagePeriod.DAY: {"$concat": [{"$substrBytes": ["$_id", 0, _DAY]}, _REST]},
    UsagePeriod.TOTAL: _REST,
}
"""The row that the numbers of a document belong to, where it is not a row itself."""


def hour_of(moment: datetime) -> datetime:
    """When its hour began."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def new_source() -> str:
    """Who gives batches: unique, and no secret."""
    return os.urandom(8).hex()


class Usage:
    """One document an API, client and hour."""

    name = "usage"
    indexes = (
        IndexModel("hour", name="purge", expireAfterSeconds=int(KEPT.total_seconds())),
        IndexModel([("client_id", ASCENDING), ("hour", ASCENDING)], name="client"),
        IndexModel([("api_id", ASCENDING), ("hour", ASCENDING)], name="api"),
    )

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        mongo.want(self.name, self.indexes)

    async def add(self, source: str, number: int, counts: Counts) -> None:
        """The batch counted, once, however often it is given. Raises TemporarilyUnavailable: give it again.

        A source gives its batches one after the other, the next with a higher number and only when this has returned.
        """
        async with outage_is_unavailability():
            await self.apply(source, number, counts)

    async def apply(self, source: str, number: int, counts: Counts) -> None:
        """As `add`; raises what the driver raises."""
        statements = [_statement(source, number, key, added) for key, added in counts.items()]
        for start in range(0, len(statements), _STATEMENTS):
            # An upsert that finds its document taken met one that has this batch already, or one just made by others.
            taken = await self._write(statements[start : start + _STATEMENTS])
            await self._write([{**statement, "upsert": False} for statement in taken])

    async def _write(self, statements: Sequence[Document]) -> Sequence[Document]:
        """Those whose document was taken."""
        if not statements:
            return []
        reply = await self._mongo[self.name].database.command(
            "update", self.name, updates=list(statements), ordered=False, writeConcern=DURABLE
        )
        failures = reply.get("writeErrors", ())
        for failure in failures:
            if failure["code"] != _TAKEN:
                raise OperationFailure(failure.get("errmsg", "write error"), failure["code"], failure)
        if doubt := reply.get("writeConcernError"):
            raise WriteConcernError(doubt.get("errmsg", ""), doubt.get("code"), doubt)
        return [statements[failure["index"]] for failure in failures]

    async def sums(self, query: UsageQuery, since: datetime, until: datetime) -> UsageAnswer:
        """What was asked for, from the hour that begins at `since` on. Raises TemporarilyUnavailable."""
        where = {"$match": _filter(query, since, until)}
        async with outage_is_unavailability():
            with pymongo.timeout(SUM_WITHIN):
                total = await self._mongo[self.name].aggregate([where, *_summed({"$literal": ""})]).to_list(None)
                found = await self._mongo[self.name].aggregate([where, *_page(query)]).to_list(None)
        rows, more = found[: query.limit], len(found) > query.limit
        return UsageAnswer.model_validate(
            {
                "from": since,
                "to": until,
                "per": query.per,
                "total": _numbers(total[0]["numbers"] if total else ()),
                "clients": [_client(row["_id"], row["numbers"]) for row in rows],
                "next": rows[-1]["_id"] if more else None,
            }
        )


def _statement(source: str, number: int, key: UsageKey, added: Mapping[str, int]) -> Document:
    """Adds, unless this source's batch of this number, or a later one, was added before."""
    applied = f"applied.{source}"
    whose = {name: value for name, value in key._asdict().items() if value is not None}
    return {
        "q": {"_id": key.row, applied: {"$not": {"$gte": number}}},
        "u": {
            "$inc": {f"counts.{name}": count for name, count in added.items()},
            "$set": {applied: number},
            "$setOnInsert": whose,
        },
        "upsert": True,
    }


def _filter(query: UsageQuery, since: datetime, until: datetime) -> Document:
    whose = query.model_dump(include={"api_id", "client_id"}, exclude_none=True)
    return {"hour": {"$gte": since, "$lt": until}, **whose}


def _summed(row: Any) -> Sequence[Document]:
    """The sums of the numbers of each row."""
    return [
        {"$project": {"row": row, "number": {"$objectToArray": "$counts"}}},
        {"$unwind": "$number"},
        {"$group": {"_id": {"row": "$row", "name": "$number.k"}, "sum": {"$sum": "$number.v"}}},
        {"$group": {"_id": "$_id.row", "numbers": {"$push": {"k": "$_id.name", "v": "$sum"}}}},
    ]


def _page(query: UsageQuery) -> Sequence[Document]:
    """The rows of the page, and one more if there is one."""
    page: Sequence[Document] = [
        {"$match": {"_id": {"$gt": query.after}}},
        {"$sort": {"_id": ASCENDING}},
        {"$limit": query.limit + 1},
    ]
    if query.per is UsagePeriod.HOUR:
        return [*page, {"$project": {"numbers": {"$objectToArray": "$counts"}}}]
    return [*_summed(_ROWS[query.per]), *page]


def _numbers(found: Iterable[Document]) -> dict[str, Any]:
    """As UsageCounts."""
    numbers: Counter[str] = Counter({number["k"]: number["v"] for number in found})
    reasons = {name.removeprefix(REFUSED): numbers[name] for name in sorted(numbers) if name.startswith(REFUSED)}
    plain = {name: numbers[name] for name in UsageCounts.model_fields if name in numbers}
    return {**plain, "refused": sum(reasons.values()), "reasons": reasons}


def _client(row: str, found: Iterable[Document]) -> ClientUsage:
    moment, api_id, client_id = row.split(".", 2)
    at = datetime.fromisoformat(moment).replace(tzinfo=UTC) if moment else None
    return ClientUsage.model_validate(
        {"at": at, "api_id": api_id or None, "client_id": client_id or None, **_numbers(found)}
    )
