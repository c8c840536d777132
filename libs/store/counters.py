"""The rate limiter's shared counters: one document per scope, which all gateways use.

A gateway reserves a lease of calls, uses it without asking, and settles it: it reports the calls that it made and
returns the rest (ADR 9). All times are MongoDB's, so gateways with wrong clocks agree.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from math import ceil

import structlog
from pymongo import IndexModel

from contracts.limits import Limits, LimitStatus
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.batcher import Batcher
from libs.store.failures import DUPLICATE_KEY, is_outage, raise_write_concern_error, write_error
from libs.store.mongo import DURABLE, Document, Mongo, outage_is_unavailability, outcome_of_write

HOLD = 3.0
"""Seconds for which a lease may be used, counted from the request for it."""
GRACE = 60.0
"""Seconds after HOLD within which a lease may still be settled; then all of it counts as used."""
WANTED_FOR = 2.0
"""Seconds for which a reservation that got too little asks other gateways to return unused calls."""
LONGEST_KEPT = 20 * 365 * 86_400.0
"""Seconds for which a counter is kept after its last reservation, at most: for windows that end later or never."""
PURGED_LATER = 60.0
"""Seconds by which `purge_at` is moved at once, so that not every reservation has to change the TTL index."""
EDGE = 2
"""Milliseconds added to every time, because the server's clock is truncated to whole milliseconds."""
MOST = 2**53
"""Largest number of calls in an interval or window: up to here, doubles are exact."""
LONGEST_PER = 20 * 365 * 86_400.0
"""Largest rate interval, in seconds."""
_NEVER = 10**13

INDEXES = (
    IndexModel("purge_at", name="purge", expireAfterSeconds=0),
    IndexModel("wanted", name="wanted", partialFilterExpression={"wanted": {"$exists": True}}),
)


log = structlog.get_logger("store")


class Uncountable(Exception):
    """A counter cannot be written, although MongoDB is available; a fault of ours, not an outage."""


def has_rate(limits: Limits) -> bool:
    """Whether requests in any `per` seconds are limited (as in Tyk, 0 means no limit)."""
    return limits.rate > 0 and limits.per > 0


def has_quota(limits: Limits) -> bool:
    """Whether requests in a quota window are limited (as in Tyk, 0 means no limit)."""
    return limits.quota_max > 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request for a lease: for the calls that wait, or up to `size`, but then at most a quarter of what is left."""

    lease_id: str
    limits: Limits
    waiting: int
    size: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a lease. `used`: how many calls were made. `uses`: the calls that count against the rate, by time.

    Times are the server's, in Unix milliseconds. They may be too late, never too early: a call must not stop counting
    before its interval is over.
    """

    lease_id: str
    used: int
    unused: int
    uses: Mapping[int, int]

    @property
    def matters(self) -> bool:
        """Whether the counter shows more calls than were made until it gets this."""
        return bool(self.unused or self.uses or not self.used)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to a counter: settle leases, then reserve one."""

    scope: str
    settlements: Sequence[Settlement]
    reservation: Reservation | None = None


class Count:
    """A counter just after a reservation. Times are the server's, in Unix milliseconds."""

    def __init__(self, document: Document, reservation: Reservation) -> None:
        self._limits = reservation.limits
        self._held: Sequence[Document] = document["held"]
        self._used: Mapping[str, int] = document.get("used", {})
        self._quota: Document = document.get("quota", {})
        own = [entry for entry in self._held if entry["id"] == reservation.lease_id]
        self.given: int = own[0]["n"] if own else 0
        self.now: int = document["now"]
        self.began: int = own[0]["end"] - _ms(HOLD) - EDGE if own else self.now
        """When the lease was reserved."""

    @property
    def rate_left(self) -> int:
        """Calls that the rate still allows to be reserved now."""
        since = self.now - _per(self._limits)
        held: int = sum(entry["n"] for entry in self._held if entry["end"] > since and "per" in entry)
        rate: int = self._limits.rate
        used: int = sum(self._used.values())
        return rate - held - used

    @property
    def rate_frees_at(self) -> int:
        """When the first of the calls and leases that count against the rate stops counting."""
        ends = chain(map(int, self._used), (entry["end"] for entry in self._held if "per" in entry))
        since = self.now - _per(self._limits)
        return min((end for end in ends if end > since), default=since) + _per(self._limits)

    @property
    def quota_left(self) -> int:
        """Calls that may still be reserved in this quota window."""
        used: int = self._quota.get("used", 0)
        return self._limits.quota_max - used

    @property
    def renews_at(self) -> int | None:
        """When this quota window ends; None for never."""
        since: int | None = self._quota.get("since")
        return None if since is None or not self._limits.quota_renewal_rate else since + _renewal(self._limits)

    def others_hold(self, own: frozenset[str]) -> bool:
        """Whether other gateways hold leases of which they may return calls."""
        return any(entry["end"] > self.now and entry["id"] not in own for entry in self._held)


class Counters:
    """All counters. Exchanges that wait at the same time are batched.

    Each statement is idempotent by the id of its lease, so a batch with an unknown outcome is simply repeated.
    """

    name = "counters"

    def __init__(self, mongo: Mongo, now: Callable[[], object] = lambda: "$$NOW") -> None:
        """`now` returns the aggregation expression for the current time; tests replace it."""
        self._mongo = mongo
        self._now = now
        self._batcher: Batcher[Exchange, Count | None] = Batcher("counters", self._send)
        mongo.want(self.name, INDEXES)

    async def exchange(self, exchange: Exchange) -> Count | None:
        """Settle, then reserve. The counter after the reservation, or None if no lease was asked for.

        Raises TemporarilyUnavailable or Uncountable. The outcome is then unknown: assume that the lease was taken.
        """
        return await self._batcher.submit(exchange)

    async def _send(self, exchanges: Sequence[Exchange]) -> Sequence[Count | Exception | None]:
        try:
            return await outcome_of_write(lambda _: self._write(exchanges))
        except TemporarilyUnavailable:
            raise
        except Exception as fault:
            log.error("counters_not_written", error=type(fault).__name__, exc_info=fault)
            return [Uncountable() for _ in exchanges]

    async def _write(self, exchanges: Sequence[Exchange]) -> Sequence[Count | Exception | None]:
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
        """The exchanges of which a statement failed. Raises for an outage."""
        failed: set[int] = set()
        collection = self._mongo.grouped(self.name)
        while statements:
            # The plain command: statements are idempotent, so the driver's session and transaction number only cost.
            reply = await collection.database.command(
                "update",
                collection.name,
                updates=[statement for _, statement in statements],
                ordered=False,
                writeConcern=DURABLE,
            )
            raise_write_concern_error(reply)
            raced = []
            for entry in reply.get("writeErrors", ()):
                failure = write_error(entry)
                if is_outage(failure):
                    raise failure
                if entry["code"] == DUPLICATE_KEY:  # another gateway created the counter at the same moment
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
        found = await self._mongo.grouped(self.name).find({"_id": {"$in": wanted}}).to_list(None)
        return {document["_id"]: document for document in found}

    def _reserved(self, scope: str, reservation: Reservation) -> Document:
        limits = reservation.limits
        constants: Document = {
            "lease_id": reservation.lease_id,
            "waiting": reservation.waiting,
            "size": min(reservation.size, MOST),
            "rate": min(limits.rate, MOST),
            "per": _per(limits) if has_rate(limits) else 0,
            "quota_max": min(limits.quota_max, MOST),
            "renewal": _renewal(limits),
            "kept": min(_renewal(limits), _ms(LONGEST_KEPT)),
        }
        pipeline = [{"$set": {"now": {"$toLong": self._now()}}}, *_PIPELINES[has_rate(limits), has_quota(limits)]]
        return {"q": {"_id": scope}, "u": pipeline, "c": constants, "upsert": True}

    async def wanted(self, since: int) -> Mapping[str, int]:
        """The counters of which a gateway got too little while others held leases, and when; after `since`.

        Times are the server's, in Unix milliseconds. Raises TemporarilyUnavailable.
        """
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find({"wanted": {"$gt": since}}, {"wanted": 1})
            return {document["_id"]: document["wanted"] async for document in cursor}

    async def probe(self) -> None:
        """Return if a majority acknowledges writes. Raises TemporarilyUnavailable."""
        async with outage_is_unavailability():
            made = [{"$set": {"purge_at": {"$add": ["$$NOW", _ms(GRACE)]}}}]
            await self._mongo[self.name].update_one({"_id": ""}, made, upsert=True)

    async def limit_statuses(self, counted: Sequence[tuple[str, Limits]]) -> Sequence[LimitStatus]:
        """The status of each counter against the given limits; one find for all. Raises TemporarilyUnavailable."""
        fields = {"quota": 1, "at": {"$toLong": self._now()}}
        scopes = list({scope for scope, _ in counted})
        async with outage_is_unavailability():
            found = await self._mongo[self.name].find({"_id": {"$in": scopes}}, fields).to_list(None)
        counters = {document["_id"]: document for document in found}
        return [_limit_status(limits, counters.get(scope, {})) for scope, limits in counted]


def _count(counters: Mapping[str, Document], exchange: Exchange) -> Count | None:
    return None if exchange.reservation is None else Count(counters[exchange.scope], exchange.reservation)


def _ms(seconds: float) -> int:
    return ceil(seconds * 1000)


def _per(limits: Limits) -> int:
    return _ms(min(limits.per, LONGEST_PER))


def _renewal(limits: Limits) -> int:
    return min(limits.quota_renewal_rate * 1000, _NEVER) or _NEVER


def _limit_status(limits: Limits, counter: Document) -> LimitStatus:
    remaining, renews = limits.quota_max, 0
    quota = counter.get("quota")
    if has_quota(limits) and quota:
        ends = quota["since"] + _renewal(limits)
        if counter["at"] < ends:
            remaining = max(0, limits.quota_max - quota["used"])
            renews = ceil(ends / 1000) if limits.quota_renewal_rate else 0
    return LimitStatus(
        rate=limits.rate,
        per=limits.per,
        quota_max=limits.quota_max,
        quota_remaining=remaining,
        quota_renews=renews,
    )


def _settled(scope: str, settlement: Settlement) -> Document:
    """The update that ends a lease: its uses count at their times, and unused calls are free again. Idempotent."""
    fields: Document = {
        "held": {"$filter": {"input": "$held", "cond": {"$ne": ["$$this.id", "$$lease_id"]}}},
        # A lease that was reserved in an earlier quota window returns nothing to this one.
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
    own = {"$filter": {"input": "$held", "cond": {"$eq": ["$$this.id", "$$lease_id"]}}}
    return {
        "q": {"_id": scope, "held.id": settlement.lease_id},
        "u": [{"$set": {"ended": {"$first": own}}}, {"$set": fields}, {"$unset": "ended"}],
        "c": {"lease_id": settlement.lease_id, "calls": settlement.used},
    }


def _reserving(*, rated: bool, counted: bool) -> Sequence[Document]:
    """The pipeline that adds the lease, if any calls are left, and drops what no longer counts."""
    since = {"$subtract": ["$now", "$$per"]}
    held: Document = {
        "$filter": {
            "input": {"$ifNull": ["$held", []]},
            "cond": {"$gt": [{"$add": ["$$this.end", {"$max": ["$$this.per", "$$per"]}, _ms(GRACE)]}, "$now"]},
        }
    }
    tidy: Document = {"held": held}
    lefts: list[object] = []
    if rated:
        tidy["used"] = _later_than(since)
        lefts.append({"$subtract": ["$$rate", {"$add": [_used(), _held_later_than(since)]}]})
    over = {"$lte": [{"$add": ["$quota.since", "$$renewal"]}, "$now"]}  # also true if there is no window yet
    if counted:
        # A quota window begins with a call that waits, not with a lease that is reserved in advance.
        fresh = {"since": "$now", "used": 0}
        tidy["quota"] = {"$cond": [{"$and": [over, {"$gt": ["$$waiting", 0]}]}, fresh, {"$ifNull": ["$quota", {}]}]}
        lefts.append({"$cond": [over, 0, {"$subtract": ["$$quota_max", "$quota.used"]}]})
    share = {"$min": [{"$floor": {"$divide": ["$left", 4]}}, "$$size"]}
    given = {"$toLong": {"$min": ["$left", {"$max": ["$$waiting", share]}]}}
    entry: Document = {"id": "$$lease_id", "n": "$given", "end": {"$add": ["$now", _ms(HOLD) + EDGE]}}
    if rated:
        entry["per"] = "$$per"  # only calls of such leases count against the rate
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
        {"$set": {"given": {"$cond": [{"$in": ["$$lease_id", "$held.id"]}, 0, given]}}},
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
    """The uses after that time. Compared as text, which is right because all keys have the same length."""
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
    counts = {"$and": [{"$gt": ["$$this.end", since]}, {"$gt": ["$$this.per", 0]}]}
    return {"$sum": {"$map": {"input": "$held", "in": {"$cond": [counts, "$$this.n", 0]}}}}


def _wanted() -> Document:
    """Expression: set `wanted` when a reservation falls short while other leases are held; keep it while fresh."""
    falls_short = {"$and": [{"$lt": ["$given", "$$waiting"]}, {"$gt": [{"$max": "$held.end"}, "$now"]}]}
    fresh = {"$gt": ["$wanted", {"$subtract": ["$now", _ms(WANTED_FOR)]}]}
    return {"$cond": [falls_short, "$now", {"$cond": [fresh, "$wanted", "$$REMOVE"]}]}


def _put_off(needed: Document) -> Document:
    later = {"$add": [needed, _ms(PURGED_LATER)]}
    return {"$cond": [{"$gte": ["$purge_at", needed]}, "$purge_at", later]}


_PIPELINES = {
    (rated, counted): _reserving(rated=rated, counted=counted)
    for rated, counted in ((True, False), (False, True), (True, True))
}
