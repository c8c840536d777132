"""Usage numbers by API, client and hour. They are added in batches, each of which counts exactly once.

A batch is added to four kinds of documents: per hour and per day, for each client app on each API; and per hour and per
day, the sums over all client apps, for each API and for everything. So a query adds up the hours of at most two days
and the days between them, however many client apps there are.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pymongo
from pymongo import ASCENDING, IndexModel

from contracts.usage import ClientUsage, UsageCounts, UsageOverTimeQuery, UsagePeriod, UsageQuery, UsageReport
from libs.store.failures import DUPLICATE_KEY, raise_write_concern_error, write_error
from libs.store.mongo import DURABLE, Document, Mongo, outage_is_unavailability

KEPT = timedelta(days=90)
"""How long the numbers of an hour are kept."""
REFUSED = "refused_"
"""Prefix of the names of refusal numbers; the reason follows."""
SUM_WITHIN = 25.0
"""Seconds that a query may take; the sums of 90 days need longer than other operations may."""
HOURS, DAYS, SUMS = "usage_hours", "usage_days", "usage_sums"
BEFORE_DAYS = "usage"
"""The collection of an earlier version, which had hours only; `add_days` migrates it."""
_STATEMENTS = 500
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


class UsageKey(NamedTuple):
    """An hour, and the API and client app whose numbers they are; None for what belongs to none."""

    hour: datetime
    api_id: str | None
    client_id: str | None

    @property
    def who(self) -> str:
        """API and client as one text, by which rows are sorted."""
        return f"{self.api_id or ''}.{self.client_id or ''}"

    @property
    def row(self) -> str:
        """The document id; sorts by hour, API and client."""
        return f"{_hour_text(self.hour)}.{self.who}"


Counts = Mapping[UsageKey, Mapping[str, int]]
"""For each key, how much to add to which number."""


def hour_of(moment: datetime) -> datetime:
    """The beginning of the hour that the moment is in, in UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_of(moment: datetime) -> datetime:
    """The beginning of the day that the moment is in, in UTC."""
    return hour_of(moment).replace(hour=0)


def new_source() -> str:
    """A unique name for a source of batches; not a secret.

    A source numbers its batches and adds them one after the other. A process that does not know whether its last batch
    was added continues as a new source.
    """
    return os.urandom(8).hex()


def _hour_text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H")


def _day_text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


class Addition(NamedTuple):
    """One document that a batch adds to."""

    collection: str
    key: str
    fields: Document
    """The document's fields other than its numbers, for when it is created."""


def additions(key: UsageKey) -> Iterable[Addition]:
    """The documents to which the numbers of this key are added."""
    named = {name: value for name, value in (("api_id", key.api_id), ("client_id", key.client_id)) if value is not None}
    whose = {"who": key.who, **named}
    day = day_of(key.hour)
    yield Addition(HOURS, key.row, {"at": key.hour, **whose})
    yield Addition(DAYS, f"{_day_text(day)}.{key.who}", {"at": day, **whose})
    # The empty id stands for all APIs; no API has it.
    for scope in {"", key.api_id or ""}:
        yield Addition(SUMS, _sum_key("h", scope, key.hour), {"at": key.hour})
        yield Addition(SUMS, _sum_key("d", scope, day), {"at": day})


def _sum_key(kind: str, scope: str, moment: datetime) -> str:
    return f"{kind}.{scope}.{_hour_text(moment) if kind == 'h' else _day_text(moment)}"


class Usage:
    """The usage numbers and their sums."""

    name = HOURS
    indexes = (
        IndexModel([("at", ASCENDING), ("who", ASCENDING)], name="time"),
        IndexModel([("api_id", ASCENDING), ("at", ASCENDING), ("who", ASCENDING)], name="api"),
        IndexModel([("client_id", ASCENDING), ("at", ASCENDING), ("who", ASCENDING)], name="client"),
    )

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        # A day is kept until its last hour is gone.
        for name, indexes, kept in (
            (HOURS, self.indexes, KEPT),
            (DAYS, self.indexes, KEPT + _DAY),
            (SUMS, (), KEPT + _DAY),
        ):
            purge = IndexModel("at", name="purge", expireAfterSeconds=int(kept.total_seconds()))
            mongo.want(name, (*indexes, purge))

    async def add(self, source: str, number: int, counts: Counts) -> None:
        """Add the batch once, however often this is called with it. Raises TemporarilyUnavailable: call it again.

        A source adds its batches one after the other, with increasing numbers, and the next only after this returned.
        """
        async with outage_is_unavailability():
            await self.apply(source, number, counts)

    async def apply(self, source: str, number: int, counts: Counts) -> None:
        """As `add`, but raises the driver's errors."""
        await self._apply(lambda _: source, number, counts)

    async def _apply(self, source_at: Callable[[Addition], str], number: int, counts: Counts) -> None:
        sums: dict[tuple[str, str], tuple[Addition, Counter[str]]] = {}
        for key, added in counts.items():
            for addition in additions(key):
                _, numbers = sums.setdefault(addition[:2], (addition, Counter()))
                numbers.update(added)
        for collection in (HOURS, DAYS, SUMS):
            statements = [
                _statement(source_at(addition), number, addition, numbers)
                for addition, numbers in sums.values()
                if addition.collection == collection
            ]
            for start in range(0, len(statements), _STATEMENTS):
                # The query excludes a document that has this batch already, so that the upsert tries to insert it and
                # fails with a duplicate key: nothing to do. But another process may also have just created the
                # document: then this batch is still to be added. Repeating without upsert is right in both cases.
                taken = await self._write(collection, statements[start : start + _STATEMENTS])
                await self._write(collection, [{**statement, "upsert": False} for statement in taken])

    async def _write(self, collection: str, statements: Sequence[Document]) -> Sequence[Document]:
        """The statements that failed with a duplicate key."""
        if not statements:
            return []
        reply = await self._mongo.grouped(collection).database.command(
            "update", collection, updates=list(statements), ordered=False, writeConcern=DURABLE
        )
        failures = reply.get("writeErrors", ())
        for failure in failures:
            if failure["code"] != DUPLICATE_KEY:
                raise write_error(failure)
        raise_write_concern_error(reply)
        return [statements[failure["index"]] for failure in failures]

    async def add_days(self) -> int:
        """Migrate numbers of the earlier version to days and sums, hour by hour; how many hours. Safe to run again.

        Raises TemporarilyUnavailable: run it again. No process of the earlier version may be running.
        """
        hours = 0
        async with outage_is_unavailability():
            before = self._mongo[BEFORE_DAYS]
            while (first := await before.find_one({}, sort=[("_id", ASCENDING)])) is not None:
                text = _hour_text(first["hour"])
                of_hour = {"_id": {"$gte": f"{text}.", "$lt": f"{text}/"}}
                counts = {
                    UsageKey(found["hour"], found.get("api_id"), found.get("client_id")): found["counts"]
                    async for found in before.find(of_hour)
                }
                # Each hour is a source of its own, so a repetition adds nothing; the old numbers are deleted
                # afterwards.
                await self._apply(lambda _, text=text: f"before_{text}", 1, counts)  # type: ignore[misc]
                await before.delete_many(of_hour)
                hours += 1
        return hours

    async def sums(self, query: UsageQuery, since: datetime, until: datetime) -> UsageReport:
        """The report for the query, from the hour that begins at `since`. Raises TemporarilyUnavailable."""
        async with outage_is_unavailability():
            with pymongo.timeout(SUM_WITHIN):
                span = Span.of(since, until)
                found = await self._totals(query, span)
                rows = await self._rows(query, span, _Buckets.of(found))
        shown, more = rows[: query.limit], len(rows) > query.limit
        total = sum((Counter(document["counts"]) for document in found), Counter[str]())
        return UsageReport.model_validate(
            {
                "from": since,
                "to": until,
                "per": query.per,
                "total": _numbers(total),
                "clients": [_client(row) for row in shown],
                "next": shown[-1].key if more else None,
            }
        )

    async def over_time(self, query: UsageOverTimeQuery, since: datetime, until: datetime) -> UsageReport:
        """The usage of all clients together, one row for each hour or day. Raises TemporarilyUnavailable."""
        kind, step, rounded = ("h", _HOUR, hour_of) if query.per is UsagePeriod.HOUR else ("d", _DAY, day_of)
        scope, begin, end = query.api_id or "", rounded(since), rounded(until)
        end = end if end == until else end + step  # a period that has begun counts
        bounds = {"$gte": _sum_key(kind, scope, begin), "$lt": _sum_key(kind, scope, end)}
        rows: list[Document] = []
        total = Counter[str]()
        async with outage_is_unavailability():
            with pymongo.timeout(SUM_WITHIN):
                cursor = self._mongo[SUMS].find({"_id": bounds}, {"at": 1, "counts": 1})
                async for found in cursor.sort("_id", ASCENDING):
                    counts = Counter[str](found["counts"])
                    total.update(counts)
                    rows.append({"at": found["at"], "api_id": query.api_id, "client_id": None, **_numbers(counts)})
        return UsageReport.model_validate(
            {"from": begin, "to": until, "per": query.per, "total": _numbers(total), "clients": rows, "next": None}
        )

    async def _totals(self, query: UsageQuery, span: "Span") -> Sequence[Document]:
        """The documents that add up to the total: hours at both ends, and the days between them."""
        fields = {"at": 1, "counts": 1}
        if query.client_id is not None:
            found = []
            for name, kind, ranges in ((DAYS, "d", span.days), (HOURS, "h", span.hours)):
                for begin, end in ranges:
                    wanted, index = _wanted(query, {"$gte": begin, "$lt": end})
                    cursor = self._mongo.indexed(name).find(wanted, fields, hint=index)
                    found += [{**document, "kind": kind} async for document in cursor]
            return found
        scope, found = query.api_id or "", []
        for kind, ranges in (("d", span.days), ("h", span.hours)):
            for begin, end in ranges:
                bounds = {"$gte": _sum_key(kind, scope, begin), "$lt": _sum_key(kind, scope, end)}
                cursor = self._mongo[SUMS].find({"_id": bounds}, fields)
                found += [{**document, "kind": kind} async for document in cursor]
        return found

    async def _rows(self, query: UsageQuery, span: "Span", buckets: "_Buckets") -> Sequence["_Row"]:
        """The rows of the page, plus one if there are more."""
        moment, behind = _after(query.after)
        most = query.limit + 1
        if query.per is UsagePeriod.TOTAL:
            return await self._merged(query, buckets, "", behind, most)
        if query.per is UsagePeriod.HOUR:
            return await self._in_order(query, HOURS, _hour_text, (span.since, span.until), moment, behind, most)
        rows: list[_Row] = []
        for begin, end, whole in span.by_day:
            if len(rows) >= most or (moment is not None and end <= moment):
                continue
            if whole:
                rows += await self._in_order(query, DAYS, _day_text, (begin, end), moment, behind, most - len(rows))
            else:
                day = day_of(begin)
                own = behind if moment == day else None
                hours = buckets.between(begin, end)
                rows += await self._merged(query, hours, _day_text(day), own, most - len(rows))
        return rows

    async def _in_order(
        self,
        query: UsageQuery,
        collection: str,
        text: Callable[[datetime], str],
        between: tuple[datetime, datetime],
        moment: datetime | None,
        behind: str | None,
        most: int,
    ) -> list["_Row"]:
        """Documents that are rows themselves, sorted by time and owner, after the row at `moment` and `behind`."""
        begin, end = between
        parts: list[tuple[Document, str | None]] = [({"$gte": begin, "$lt": end}, None)]
        if moment is not None and begin <= moment < end:
            parts = [({"$eq": moment}, behind), ({"$gt": moment, "$lt": end}, None)]
        rows: list[_Row] = []
        for at, after in parts:
            if most > len(rows):
                wanted, index = _wanted(query, at, after)
                cursor = self._mongo.indexed(collection).find(wanted, _ROW, hint=index)
                async for found in cursor.sort([("at", ASCENDING), ("who", ASCENDING)]).limit(most - len(rows)):
                    rows.append(_Row(text(found["at"]), found["who"], Counter(found["counts"])))
        return rows

    async def _merged(
        self, query: UsageQuery, buckets: "_Buckets", text: str, behind: str | None, most: int
    ) -> list["_Row"]:
        """The sums over these hours and days for each owner, sorted by owner, after `behind`.

        Reads only documents that are part of a returned row, because the index ranges are merged in order.
        """
        streams = [
            self._ranges(query, name, moments, behind, most)
            for name, moments in ((DAYS, buckets.days), (HOURS, buckets.hours))
            if moments
        ]
        rows: list[_Row] = []
        async for who, counts in _merge(streams):
            if rows and rows[-1].who == who:
                rows[-1].counts.update(counts)
            elif len(rows) == most:
                break
            else:
                rows.append(_Row(text, who, Counter(counts)))
        return rows

    async def _ranges(
        self, query: UsageQuery, collection: str, moments: Sequence[datetime], behind: str | None, most: int
    ) -> AsyncIterator[tuple[str, Mapping[str, int]]]:
        wanted, index = _wanted(query, {"$in": list(moments)}, behind)
        cursor = self._mongo.indexed(collection).find(wanted, _ROW, hint=index, batch_size=3 * most)
        async for found in cursor.sort("who", ASCENDING).limit(most * len(moments)):
            yield found["who"], found["counts"]


@dataclass(frozen=True, slots=True)
class Span:
    """A span of whole hours, divided into whole days and the remaining hours at both ends."""

    since: datetime
    until: datetime

    @classmethod
    def of(cls, since: datetime, until: datetime) -> "Span":
        """The hours that begin at `since` or later and before `until`."""
        since, last = hour_of(since), hour_of(until)
        return cls(since, last if last == until else last + _HOUR)

    @property
    def days(self) -> Sequence[tuple[datetime, datetime]]:
        return [(begin, end) for begin, end, whole in self.by_day if whole]

    @property
    def hours(self) -> Sequence[tuple[datetime, datetime]]:
        return [(begin, end) for begin, end, whole in self.by_day if not whole]

    @property
    def by_day(self) -> Sequence[tuple[datetime, datetime, bool]]:
        """The parts in order: hours of the first day, whole days (True), hours of the last day; without empty ones."""
        first = day_of(self.since) + (_DAY if self.since != day_of(self.since) else timedelta(0))
        last = day_of(self.until)
        if first > last:
            return [(self.since, self.until, False)]
        parts = [(self.since, first, False), (first, last, True), (last, self.until, False)]
        return [part for part in parts if part[0] < part[1]]


@dataclass(frozen=True, slots=True)
class _Buckets:
    """The days and hours for which there are numbers."""

    days: Sequence[datetime]
    hours: Sequence[datetime]

    @classmethod
    def of(cls, found: Sequence[Document]) -> "_Buckets":
        moments = {kind: sorted({each["at"] for each in found if each["kind"] == kind}) for kind in "dh"}
        return cls(moments["d"], moments["h"])

    def between(self, begin: datetime, end: datetime) -> "_Buckets":
        """Only the hours, and of them those in this time."""
        return _Buckets((), [hour for hour in self.hours if begin <= hour < end])


class _Row(NamedTuple):
    """The numbers of one owner in one period."""

    period: str
    """The hour or the day; empty for the whole time."""
    who: str
    counts: Counter[str]

    @property
    def key(self) -> str:
        return f"{self.period}.{self.who}"


_ROW = {"_id": 0, "at": 1, "who": 1, "counts": 1}


async def _merge(
    streams: Sequence[AsyncIterator[tuple[str, Mapping[str, int]]]],
) -> AsyncIterator[tuple[str, Mapping[str, int]]]:
    """Merge streams that are each sorted by owner."""
    heads = [(head, stream) for stream in streams if (head := await anext(stream, None)) is not None]
    while heads:
        head, stream = min(heads, key=lambda each: each[0][0])
        yield head
        heads.remove((head, stream))
        if (following := await anext(stream, None)) is not None:
            heads.append((following, stream))


def _statement(source: str, number: int, addition: Addition, added: Mapping[str, int]) -> Document:
    """The update that adds numbers, unless this batch of the source, or a later one, was added before."""
    applied = f"applied.{source}"
    return {
        "q": {"_id": addition.key, applied: {"$not": {"$gte": number}}},
        "u": {
            "$inc": {f"counts.{name}": count for name, count in added.items()},
            "$set": {applied: number},
            "$setOnInsert": addition.fields,
        },
        "upsert": True,
    }


def _wanted(query: UsageQuery, at: Document, behind: str | None = None) -> tuple[Document, str]:
    """The query for documents of these times, and the index to use."""
    wanted: Document = {"at": at}
    who: Document = {} if behind is None else {"$gt": behind}
    index = "time"
    if query.client_id is not None:
        wanted["client_id"], index = query.client_id, "client"
        if query.api_id is not None:
            who["$eq"] = f"{query.api_id}.{query.client_id}"
    elif query.api_id is not None:
        wanted["api_id"], index = query.api_id, "api"
    return ({**wanted, "who": who} if who else wanted), index


def _after(row: str) -> tuple[datetime | None, str | None]:
    """The period and the owner of the last row of the previous page; None for the first page."""
    if not row:
        return None, None
    period, _, who = row.partition(".")
    return (datetime.fromisoformat(period).replace(tzinfo=UTC) if period else None), who


def _numbers(numbers: Counter[str]) -> dict[str, Any]:
    """The numbers as fields of UsageCounts."""
    reasons = {name.removeprefix(REFUSED): numbers[name] for name in sorted(numbers) if name.startswith(REFUSED)}
    plain = {name: numbers[name] for name in UsageCounts.model_fields if name in numbers}
    return {**plain, "refused": sum(reasons.values()), "reasons": reasons}


def _client(row: _Row) -> ClientUsage:
    at = datetime.fromisoformat(row.period).replace(tzinfo=UTC) if row.period else None
    api_id, _, client_id = row.who.partition(".")
    return ClientUsage.model_validate(
        {"at": at, "api_id": api_id or None, "client_id": client_id or None, **_numbers(row.counts)}
    )
