"""Counters that all gateways share: one document a scope, of which each reserves slices and says what it used."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from math import ceil

import structlog
from pymongo import IndexModel
from pymongo.errors import OperationFailure, WriteConcernError

from contracts.limits import Limits, Standing
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import BATCH_LIMIT, DURABLE, Document, Mongo, is_outage, outage_is_unavailability, settled

HOLD = 3.0
"""Seconds for which a slice may be used, from the moment at which it was asked for."""
GRACE = 60.0
"""Seconds after that within which it may still be settled; then it counts as used."""
WANTED_FOR = 2.0
"""Seconds for which a reservation that found nothing asks the others to give back."""
LONGEST_GRANT = 100 * 86_400.0
"""Seconds for which a count that never ends is kept after its last reservation."""
PURGED_LATER = 60.0
"""Seconds by which the purge is put off at once, so that not every reservation moves it in its index."""
EDGE = 2
"""Milliseconds that every moment is put off, because the server's clock shows whole ones."""
MOST = 2**53
"""Of calls in one interval or window: as many as are counted exactly."""
LONGEST_PER = 20 * 365 * 86_400.0
"""Seconds; no call is remembered longer."""
_NEVER = 10**13
_TAKEN = 11000

INDEXES = (
    IndexModel("purge_at", name="purge", expireAfterSeconds=0),
    IndexModel("wanted", name="wanted", partialFilterExpression={"wanted": {"$exists": True}}),
)


log = structlog.get_logger("store")


class Uncountable(Exception):
    """A counter cannot be written, although the database is there."""


def has_rate(limits: Limits) -> bool:
    """Whether there is a limit to the requests in any `per` seconds (as in Tyk, 0 is none)."""
    return limits.rate > 0 and limits.per > 0


def has_quota(limits: Limits) -> bool:
    """Whether there is a limit to the requests in one window (as in Tyk, 0 is none)."""
    return limits.quota_max > 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """A slice is asked for: for the calls that wait, or up to `size`, but then of a quarter of what is left at most."""

    slice_id: str
    limits: Limits
    waiting: int
    size: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a slice. `uses` are counted calls by the moment (server's, Unix milliseconds) they were made at.

    A moment may be later than it was, never earlier. `used` is how many calls there were in all.
    """

    slice_id: str
    used: int
    unused: int
    uses: Mapping[int, int]

    @property
    def matters(self) -> bool:
        """Whether the counter says too much until it hears of this."""
        return bool(self.unused or self.uses or not self.used)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Slices that end, and then one that is asked for, of one counter."""

    scope: str
    settlements: Sequence[Settlement]
    reservation: Reservation | None = None


class Count:
    """A counter just after a reservation; moments are the server's, in Unix milliseconds."""

    def __init__(self, document: Document, reservation: Reservation) -> None:
        self._limits = reservation.limits
        self._held: Sequence[Document] = document["held"]
        self._used: Mapping[str, int] = document.get("used", {})
        self._quota: Document = document.get("quota", {})
        own = [entry for entry in self._held if entry["id"] == reservation.slice_id]
        self.given: int = own[0]["n"] if own else 0
        self.now: int = document["now"]
        self.began: int = own[0]["end"] - _ms(HOLD) - EDGE if own else self.now
        """When the slice was reserved."""

    @property
    def rate_left(self) -> int:
        """Calls that may still be reserved now, as far as the rate goes."""
        since = self.now - _per(self._limits)
        held: int = sum(entry["n"] for entry in self._held if entry["end"] > since)
        rate: int = self._limits.rate
        used: int = sum(self._used.values())
        return rate - held - used

    @property
    def rate_frees_at(self) -> int:
        """When the first of the calls and slices that count against the rate ceases to."""
        ends = chain(map(int, self._used), (entry["end"] for entry in self._held))
        since = self.now - _per(self._limits)
        return min((end for end in ends if end > since), default=since) + _per(self._limits)

    @property
    def quota_left(self) -> int:
        """Calls that may still be reserved in this window."""
        used: int = self._quota.get("used", 0)
        return self._limits.quota_max - used

    @property
    def renews_at(self) -> int | None:
        """When this window ends; None: never."""
        since: int | None = self._quota.get("since")
        return None if since is None or not self._limits.quota_renewal_rate else since + _renewal(self._limits)

    def others_hold(self, own: frozenset[str]) -> bool:
        """Whether somebody else has slices that may be given back."""
        return any(entry["end"] > self.now and entry["id"] not in own for entry in self._held)


class Counters:
    """All counters. Exchanges that wait at the same time share round trips; one batch is in flight.

    Each statement is idempotent by the id of its slice, so a batch whose outcome is unknown is repeated as it is.
    """

    name = "counters"

    def __init__(self, mongo: Mongo, now: Callable[[], object] = lambda: "$$NOW") -> None:
        """`now` is the time as an expression of the server's."""
        self._mongo = mongo
        self._now = now
        self._waiting: list[tuple[Exchange, asyncio.Future[Count | None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        mongo.want(self.name, INDEXES)

    async def exchange(self, exchange: Exchange) -> Count | None:
        """Settle, then reserve; the counter after the reservation, if one was asked for.

        Raises TemporarilyUnavailable or Uncountable, with the outcome unknown: the slice counts as taken.
        """
        future: asyncio.Future[Count | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((exchange, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="counters")
        return await future

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_LIMIT], self._waiting[BATCH_LIMIT:]
                try:
                    await self._commit(batch)
                except TemporarilyUnavailable as outage:
                    # Who came meanwhile was not sent, and need not wait as long again for the same answer.
                    _refuse(batch + self._waiting, outage)
                    self._waiting = []
        finally:
            self._flusher = None

    async def _commit(self, batch: Sequence[tuple[Exchange, asyncio.Future[Count | None]]]) -> None:
        exchanges = [exchange for exchange, _ in batch]
        try:
            outcomes = await settled(lambda _: self._write(exchanges))
        except TemporarilyUnavailable:
            raise
        except Exception as fault:
            log.error("counters_not_written", error=type(fault).__name__, exc_info=fault)
            _refuse(batch, Uncountable())
            return
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def _write(self, exchanges: Sequence[Exchange]) -> Sequence[Count | Uncountable | None]:
        # Settlements first: what they give back can be reserved by the same batch.
        statements = [
            (number, _settled(exchange.scope, settlement))
            for number, exchange in enumerate(exchanges)
            for settlement in exchange.settlements
        ]
        statements += [
            (number, self._reserved(exchange.scope, exchange.reservation))
            for number, exchange in enumerate(exchanges)
            if exchange.reservation is not None
        ]
        failed = await self._update(statements)
        counters = await self._read(exchange.scope for exchange in exchanges if exchange.reservation is not None)
        return [
            Uncountable() if number in failed else _count(counters, exchange)
            for number, exchange in enumerate(exchanges)
        ]

    async def _update(self, statements: Sequence[tuple[int, Document]]) -> Set[int]:
        """Which exchanges have a statement that failed. Raises for an outage."""
        failed: set[int] = set()
        collection = self._mongo[self.name]
        while statements:
            # The plain command: statements are idempotent, so the driver's session and transaction number only cost.
            answer = await collection.database.command(
                "update",
                collection.name,
                updates=[statement for _, statement in statements],
                ordered=False,
                writeConcern=DURABLE,
            )
            if doubt := answer.get("writeConcernError"):
                raise WriteConcernError(doubt.get("errmsg", ""), doubt.get("code"), doubt)
            raced = []
            for entry in answer.get("writeErrors", ()):
                failure = OperationFailure(entry.get("errmsg", "write error"), entry["code"])
                if is_outage(failure):
                    raise failure
                if entry["code"] == _TAKEN:  # two made the same counter at once
                    raced.append(statements[entry["index"]])
                else:
                    failed.add(statements[entry["index"]][0])
                    log.error("counter_not_written", error=str(failure)[:200])
            statements = raced
        return failed

    async def _read(self, scopes: Iterable[str]) -> Mapping[str, Document]:
        wanted = list(scopes)
        if not wanted:
            return {}
        found = await self._mongo[self.name].find({"_id": {"$in": wanted}}).to_list(None)
        return {document["_id"]: document for document in found}

    def _reserved(self, scope: str, reservation: Reservation) -> Document:
        limits = reservation.limits
        constants: Document = {
            "slice_id": reservation.slice_id,
            "waiting": reservation.waiting,
            "size": min(reservation.size, MOST),
            "rate": min(limits.rate, MOST),
            "per": _per(limits) if has_rate(limits) else 0,
            "quota_max": min(limits.quota_max, MOST),
            "renewal": _renewal(limits),
            "kept": min(_renewal(limits), _ms(LONGEST_GRANT)),
        }
        pipeline = [{"$set": {"now": {"$toLong": self._now()}}}, *_PIPELINES[has_rate(limits), has_quota(limits)]]
        return {"q": {"_id": scope}, "u": pipeline, "c": constants, "upsert": True}

    async def wanted(self, since: int) -> Mapping[str, int]:
        """The counters of which somebody found nothing although others held slices, and when; from `since` on.

        Moments are the server's, in Unix milliseconds. Raises TemporarilyUnavailable.
        """
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find({"wanted": {"$gt": since}}, {"wanted": 1})
            return {document["_id"]: document["wanted"] async for document in cursor}

    async def probe(self) -> None:
        """Return if a majority takes writes. Raises TemporarilyUnavailable."""
        async with outage_is_unavailability():
            made = [{"$set": {"purge_at": {"$add": ["$$NOW", _ms(GRACE)]}}}]
            await self._mongo[self.name].update_one({"_id": ""}, made, upsert=True)

    async def standings(self, scopes: Mapping[str, Limits]) -> Mapping[str, Standing]:
        """How each of these stands against its limits; one find for all of them. Raises TemporarilyUnavailable."""
        fields = {"quota": 1, "at": {"$toLong": self._now()}}
        async with outage_is_unavailability():
            found = await self._mongo[self.name].find({"_id": {"$in": list(scopes)}}, fields).to_list(None)
        counters = {document["_id"]: document for document in found}
        return {scope: _standing(limits, counters.get(scope, {})) for scope, limits in scopes.items()}


def _refuse(batch: Sequence[tuple[Exchange, asyncio.Future[Count | None]]], fault: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(fault)


def _count(counters: Mapping[str, Document], exchange: Exchange) -> Count | None:
    return None if exchange.reservation is None else Count(counters[exchange.scope], exchange.reservation)


def _ms(seconds: float) -> int:
    return ceil(seconds * 1000)


def _per(limits: Limits) -> int:
    return _ms(min(limits.per, LONGEST_PER))


def _renewal(limits: Limits) -> int:
    return min(limits.quota_renewal_rate * 1000, _NEVER) or _NEVER


def _standing(limits: Limits, counter: Document) -> Standing:
    remaining, renews = limits.quota_max, 0
    quota = counter.get("quota")
    if has_quota(limits) and quota:
        ends = quota["since"] + _renewal(limits)
        if counter["at"] < ends:
            remaining = max(0, limits.quota_max - quota["used"])
            renews = ceil(ends / 1000) if limits.quota_renewal_rate else 0
    return Standing(
        rate=limits.rate,
        per=limits.per,
        quota_max=limits.quota_max,
        quota_remaining=remaining,
        quota_renews=renews,
    )


def _settled(scope: str, settlement: Settlement) -> Document:
    """The slice is gone, its uses are counted at their moments, and what was not used is free; once."""
    fields: Document = {
        "held": {"$filter": {"input": "$held", "cond": {"$ne": ["$$this.id", "$$slice_id"]}}},
        # A slice of an earlier window has nothing to give to this one.
        "quota": {
            "$cond": [
                {"$eq": [{"$ifNull": ["$ended.since", 0]}, {"$ifNull": ["$quota.since", -1]}]},
                {
                    "since": "$quota.since",
                    "used": {"$subtract": ["$quota.used", {"$subtract": ["$ended.n", "$$calls"]}]},
                },
                {"$ifNull": ["$quota", "$$REMOVE"]},
            ]
        },
    }
    for moment, calls in settlement.uses.items():
        fields[f"used.{moment}"] = {"$add": [{"$ifNull": [f"$used.{moment}", 0]}, calls]}
    own = {"$filter": {"input": "$held", "cond": {"$eq": ["$$this.id", "$$slice_id"]}}}
    return {
        "q": {"_id": scope, "held.id": settlement.slice_id},
        "u": [{"$set": {"ended": {"$first": own}}}, {"$set": fields}, {"$unset": "ended"}],
        "c": {"slice_id": settlement.slice_id, "calls": settlement.used},
    }


def _reserving(*, rated: bool, counted: bool) -> Sequence[Document]:
    """The counter with the slice, where there is anything left, and without what counts no more."""
    since = {"$subtract": ["$now", "$$per"]}
    held: Document = {
        "$filter": {
            "input": {"$ifNull": ["$held", []]},
            "cond": {"$gt": ["$$this.end", {"$subtract": [since, _ms(GRACE)]}]},
        }
    }
    tidy: Document = {"held": held}
    lefts: list[object] = []
    if rated:
        tidy["used"] = _later_than(since)
        lefts.append({"$subtract": ["$$rate", {"$add": [_used(), _held_later_than(since)]}]})
    over = {"$lte": [{"$add": ["$quota.since", "$$renewal"]}, "$now"]}  # also where there is none yet
    if counted:
        # A window begins with a call: not with a slice that is reserved ahead of need.
        fresh = {"since": "$now", "used": 0}
        tidy["quota"] = {"$cond": [{"$and": [over, {"$gt": ["$$waiting", 0]}]}, fresh, {"$ifNull": ["$quota", {}]}]}
        lefts.append({"$cond": [over, 0, {"$subtract": ["$$quota_max", "$quota.used"]}]})
    share = {"$min": [{"$floor": {"$divide": ["$left", 4]}}, "$$size"]}
    given = {"$toLong": {"$min": ["$left", {"$max": ["$$waiting", share]}]}}
    entry: Document = {"id": "$$slice_id", "n": "$given", "end": {"$add": ["$now", _ms(HOLD) + EDGE]}}
    kept: Document = {"$add": ["$now", "$$per", _ms(HOLD + GRACE)]}
    taken: Document = {}
    if counted:
        entry["since"] = "$quota.since"
        kept = {"$add": [kept, "$$kept"]}
        taken = {"quota.used": {"$add": ["$quota.used", "$given"]}}
    some = {"$gt": ["$given", 0]}
    return [
        {"$set": tidy},
        {"$set": {"left": {"$max": [0, {"$min": lefts}]}}},
        {"$set": {"given": {"$cond": [{"$in": ["$$slice_id", "$held.id"]}, 0, given]}}},
        {
            "$set": {
                "held": {"$cond": [some, {"$concatArrays": ["$held", [entry]]}, "$held"]},
                **taken,
                "wanted": _wanted(),
                "purge_at": _put_off({"$toDate": kept}),
            }
        },
        {"$unset": ["left", "given"]},
    ]


def _later_than(since: Document) -> Document:
    """The uses after that moment; their keys are all of the same length."""
    later = {
        "$filter": {
            "input": {"$objectToArray": {"$ifNull": ["$used", {}]}},
            "cond": {"$gt": ["$$this.k", "$$since"]},
        }
    }
    return {"$let": {"vars": {"since": {"$toString": since}}, "in": {"$arrayToObject": later}}}


def _used() -> Document:
    return {"$sum": {"$let": {"vars": {"uses": {"$objectToArray": "$used"}}, "in": "$$uses.v"}}}


def _held_later_than(since: Document) -> Document:
    return {"$sum": {"$map": {"input": "$held", "in": {"$cond": [{"$gt": ["$$this.end", since]}, "$$this.n", 0]}}}}


def _wanted() -> Document:
    """Now, where somebody waits in vain for what others may give back; an earlier call for it while it is fresh."""
    in_vain = {"$and": [{"$lt": ["$given", "$$waiting"]}, {"$gt": [{"$max": "$held.end"}, "$now"]}]}
    fresh = {"$gt": ["$wanted", {"$subtract": ["$now", _ms(WANTED_FOR)]}]}
    return {"$cond": [in_vain, "$now", {"$cond": [fresh, "$wanted", "$$REMOVE"]}]}


def _put_off(needed: Document) -> Document:
    later = {"$add": [needed, _ms(PURGED_LATER)]}
    return {"$cond": [{"$gte": ["$purge_at", needed]}, "$purge_at", later]}


_PIPELINES = {
    (rated, counted): _reserving(rated=rated, counted=counted)
    for rated, counted in ((True, False), (False, True), (True, True))
}
