"""Leases: calls that this gateway has reserved from a shared rate or quota counter and may admit without asking again.

One `ScopeLeases` per scope (what is counted together, such as a client's calls). It is a pure state machine: it does no
I/O and gets the time as an argument; `rate_limiter` exchanges leases with MongoDB (`libs.store.counters`) and waits.

A lease is valid for HOLD seconds. Whatever a gateway does or fails to do, leased and used calls together never exceed
the limit: a lease that is never settled, because its process died, counts as fully used (ADR 9).
"""

import asyncio
from collections.abc import Callable, Iterator
from math import ceil, inf
from typing import NamedTuple

from contracts.limits import Limits
from libs.store.counters import EDGE, HOLD, Count, Reservation, Settlement, has_quota, has_rate
from services.gateway.rate_limit_result import UNLIMITED, Exceeded, LimitKind, QuotaState, RateLimitResult

MAX_INTERVAL = 0.25
"""Seconds: the times of calls are recorded at least this precisely, unless that would take more than MAX_INTERVALS."""
MAX_INTERVALS = 256
INTERVALS_IN_PER = 64
MAX_GROWTH = 4
"""A lease is at most this many times larger than the one before it."""
PREFETCH_FROM = 4
"""A lease of at least this many calls is renewed when half of it is used; a smaller one when a call has to wait."""
REFUSE_FOR = 0.8
"""Seconds for which calls are refused without asking the counter again, if no other gateway holds a lease."""
REFUSE_FOR_IF_LEASED = 0.3
"""The same if others hold leases: they may give back calls soon."""
MIN_REFUSE_FOR = 0.005


def interval_of(limits: Limits) -> float:
    """Seconds to which the times of calls are rounded up: a call may count that much longer than `per`.

    Rounding bounds the size of the counter's document, which has one entry for each interval with calls.
    """
    if not has_rate(limits):
        return inf
    fine = min(MAX_INTERVAL, limits.per / INTERVALS_IN_PER)
    intervals = min(limits.rate, limits.per / fine)
    return fine if intervals <= MAX_INTERVALS else limits.per / MAX_INTERVALS


class Lease:
    """Calls that were reserved together: `left` of `size` may still be admitted before `until` (this process's clock).

    `sent` was read from this process's clock before the request was sent, so it is no later than `began`, the server's
    time of the reservation: this gateway stops using the lease before the server considers it expired.
    """

    __slots__ = (
        "_limits",
        "_recorded",
        "_recorded_calls",
        "began",
        "interval_ends",
        "lease_id",
        "left",
        "prefetch_at",
        "sent",
        "size",
        "until",
    )

    def __init__(self, lease_id: str, limits: Limits, size: int, began: int, sent: float, until: float) -> None:
        self._limits = limits
        self.lease_id = lease_id
        self.size = self.left = size
        self.prefetch_at = size // 2 if size >= PREFETCH_FROM else -1
        """With this many calls left the next lease is requested; -1: never."""
        self.began = began
        self.sent = sent
        self.until = until
        self.interval_ends = -inf if has_rate(limits) else inf
        """When the current interval ends; its calls are recorded as made at that time."""
        self._recorded_calls = 0
        self._recorded: list[tuple[float, int]] = []

    @property
    def used(self) -> int:
        """How many of its calls were admitted."""
        return self.size - self.left

    def start_interval(self, now: float) -> None:
        """Record the calls of the interval that is over, and start the next one."""
        self._record(self.interval_ends)
        self.interval_ends = now + interval_of(self._limits)

    def _record(self, moment: float) -> None:
        if self.used > self._recorded_calls:
            self._recorded.append((moment, self.used - self._recorded_calls))
            self._recorded_calls = self.used

    def settlement(self, now: float) -> Settlement:
        """What to report to the counter: calls used, with their times, and calls given back."""
        self._record(min(self.interval_ends, now))
        return Settlement(self.lease_id, self.used, self.left, dict(self._uses(now)))

    def _uses(self, now: float) -> Iterator[tuple[int, int]]:
        """Calls that still count against the rate, by time (server's, Unix milliseconds).

        Times are rounded up to a grid that all gateways share, so that their calls share entries in the counter.
        """
        if not has_rate(self._limits):
            return
        step = max(1, int(interval_of(self._limits) * 1000))
        uses: dict[int, int] = {}
        for moment, calls in self._recorded:
            if moment + self._limits.per >= now:
                exact = self.began + EDGE + (moment - self.sent) * 1000
                key = ceil(exact / step) * step
                uses[key] = uses.get(key, 0) + calls
        yield from uses.items()


_NONE = Lease("", Limits(), 0, 0, -inf, -inf)


QUOTA_ONLY = " quota"
"""At the end of a scope: its counter is that of the scope without it, and its calls count against no rate.

Both kinds of calls use up one quota, each from leases of its own.
"""


class Requested(NamedTuple):
    """The size of the last lease that was requested, and when."""

    size: int
    at: float


class ScopeLeases:
    """The leases of one scope in this gateway: the current one, a prefetched one, and calls that wait for the next."""

    __slots__ = (
        "_last",
        "_outside_current",
        "_requested",
        "_spare",
        "counter",
        "current",
        "exchanges",
        "limits",
        "prefetch",
        "quota_max",
        "refusal",
        "refused_until",
        "renews",
        "returns",
        "scope",
        "serving",
        "unreserved",
        "urgent",
        "waiters",
    )

    def __init__(self, scope: str, limits: Limits, now: float) -> None:
        self.scope = scope
        self.counter = scope.removesuffix(QUOTA_ONLY)
        """The shared counter from which it leases."""
        self.current = _NONE
        self._last = _NONE
        """The lease before the current one; its pace decides the size of the next."""
        self._spare: Lease | None = None
        """The prefetched lease."""
        self.returns: list[Settlement] = []
        """Settlements of leases that are over, to be sent with the next exchange."""
        self.waiters: list[asyncio.Future[RateLimitResult]] = []
        """Calls that wait for a lease, in order of arrival."""
        self.prefetch = False
        """True: request the next lease now, before a call has to wait for it."""
        self.urgent = False
        """True: send the settlements now, without waiting for the next reservation."""
        self.exchanges = 0
        self.serving: asyncio.Task[None] | None = None
        """The task that talks to the counter; at most one per scope."""
        self._requested = Requested(0, now)
        self._adopt(limits)

    def _adopt(self, limits: Limits) -> None:
        self.limits = limits
        self.quota_max = limits.quota_max if has_quota(limits) else 0
        self.unreserved = self.quota_max
        """Calls left in the quota that this gateway has not leased."""
        self._outside_current = self.unreserved
        """The same, with those of the prefetched lease: what remains when the current lease is used up."""
        self.renews = 0
        self.refusal: Exceeded | None = None
        self.refused_until = -inf

    def is_for(self, limits: Limits, now: float) -> bool:
        """Whether the leases are for these limits; if not (a policy changed), end them and adopt the new limits."""
        if limits == self.limits:
            self.limits = limits
            return True
        self.end(now)
        self._adopt(limits)
        return False

    def take(self, now: float) -> QuotaState | None:
        """Admit one call if a lease has any left; None if not. Called for every call that has limits."""
        current = self.current
        if not current.left or now >= current.until:
            if not self._advance(now):
                return None
            current = self.current
        if now >= current.interval_ends:
            current.start_interval(now)
        current.left = left = current.left - 1
        if left == current.prefetch_at and self._spare is None:
            self.prefetch = True
        return QuotaState(self.quota_max, self._outside_current + left, self.renews) if self.quota_max else UNLIMITED

    def _advance(self, now: float) -> bool:
        """End the current lease and use the prefetched one; whether it has calls left."""
        self._end_current(now)
        if self._spare is not None:
            self.current, self._spare = self._spare, None
            if now >= self.current.until:
                self._end_current(now)
        self._outside_current = self.unreserved
        return self.current.left > 0

    def _end_current(self, now: float) -> None:
        if self.current is not _NONE:
            self.unreserved += self.current.left
            self.returns.append(self.current.settlement(now))
            self._last, self.current = self.current, _NONE

    def end(self, now: float) -> None:
        """End all leases; what is left of them is given back with the next exchange."""
        self._end_current(now)
        if self._spare is not None:
            self.current, self._spare = self._spare, None
            self._end_current(now)
        self._outside_current = self.unreserved

    def held_before(self, moment: int) -> bool:
        """Whether this gateway holds, or has yet to give back, calls that it reserved before this time (server's)."""
        leases = (self.current, self._spare)
        pending = any(settlement.matters for settlement in self.returns)
        return pending or any(lease.began <= moment for lease in leases if lease and lease is not _NONE)

    @property
    def unused(self) -> int:
        """Calls that are leased or waiting to be given back, which the shared counter still counts as used."""
        spare = self._spare.left if self._spare else 0
        return self.current.left + spare + sum(settlement.unused for settlement in self.returns)

    @property
    def requested_at(self) -> float:
        """When it last requested a lease."""
        return self._requested.at

    def demand(self, lease_id: str, now: float) -> Reservation | None:
        """The next reservation, or None if no call waits and nothing is to be prefetched.

        Its size is what the pace of the last lease would use within HOLD seconds.
        """
        # A waiter is done if its call timed out or its caller disconnected: nothing must be reserved for it.
        self.waiters = [waiter for waiter in self.waiters if not waiter.done()]
        waiting, prefetch, self.prefetch = len(self.waiters), self.prefetch, False
        if not waiting and not prefetch:
            return None
        size = self._size(now)
        if waiting:
            self._advance(now)
        self._requested = Requested(max(size, waiting), now)
        return Reservation(lease_id, self.limits, waiting, size)

    def _size(self, now: float) -> int:
        before = self._requested
        if now - before.at >= HOLD:
            return 1
        last = self._last if self.current is _NONE else self.current
        pace = last.used / max(now - last.sent, 0.001)
        return max(1, min(before.size * MAX_GROWTH, ceil(pace * HOLD)))

    def receive(self, reservation: Reservation, count: Count, sent: float, now: float) -> None:
        """Use the lease that the counter granted, and decide about the waiting calls."""
        if count.given:
            self._put(self._lease(reservation, count, sent), now)
        if reservation.limits != self.limits:
            # The limits changed while the request was in flight, so this lease is not valid for the next calls.
            self.end(now)
            self.urgent = True
            return
        if self.quota_max:
            self.unreserved = count.quota_left + sum(settlement.unused for settlement in self.returns)
            self._outside_current = self.unreserved + (self._spare.left if self._spare else 0)
            self.renews = ceil(count.renews_at / 1000) if count.renews_at else 0
        if count.given < reservation.waiting:
            self._refuse(count, now)
        self._resolve_waiters(now)

    def _lease(self, reservation: Reservation, count: Count, sent: float) -> Lease:
        until = sent + HOLD
        if count.renews_at is not None and self.quota_max:
            # Calls of this window must not be admitted in the next one.
            until = min(until, sent + (count.renews_at - count.began - EDGE) / 1000)
        return Lease(reservation.lease_id, reservation.limits, count.given, count.began, sent, until)

    def _put(self, given: Lease, now: float) -> None:
        if self.current.left and now < self.current.until:
            self._spare = given
        else:
            self._end_current(now)
            self.current = given

    def _refuse(self, count: Count, now: float) -> None:
        """Refuse calls for a moment: nothing, or too little, was left in the counter."""
        own = frozenset(lease.lease_id for lease in (self.current, self._spare) if lease)
        others_hold = count.others_hold(own)
        by_rate = has_rate(self.limits) and (count.rate_left <= 0 or not self.quota_max)
        ends = count.rate_frees_at if by_rate else count.renews_at
        wait = (ends - count.now) / 1000 if ends is not None else inf
        if min(count.rate_left if has_rate(self.limits) else 1, count.quota_left if self.quota_max else 1) > 0:
            wait = 0.0  # another gateway gave calls back after this reservation, so the next one will get some
        retry_after = min(wait, 1.0) if others_hold else wait
        self.refusal = Exceeded(
            LimitKind.RATE if by_rate else LimitKind.QUOTA,
            None if retry_after == inf else max(1, ceil(retry_after)),
            QuotaState(self.quota_max, max(0, self.unreserved), self.renews) if self.quota_max else UNLIMITED,
        )
        self.refused_until = now + max(min(wait, REFUSE_FOR_IF_LEASED if others_hold else REFUSE_FOR), MIN_REFUSE_FOR)

    def _resolve_waiters(self, now: float) -> None:
        """Admit the waiting calls in order of arrival, and refuse the rest; without either they go on waiting."""
        waiters, self.waiters = self.waiters, []
        for position, waiter in enumerate(waiters):
            if waiter.done():
                continue
            outcome = self.take(now) or (self.refusal if now < self.refused_until else None)
            if outcome is None:
                self.waiters = waiters[position:]
                return
            waiter.set_result(outcome)

    def fail(self, outcome: Callable[[], RateLimitResult], doubtful: str | None, settlements: list[Settlement]) -> None:
        """Handle an exchange whose outcome is unknown.

        The settlements are sent again (they are idempotent), and the lease that may have been granted is given back.
        """
        self.returns = [*settlements, *self.returns]
        if doubtful is not None:
            self.returns.append(Settlement(doubtful, 0, 0, {}))
        self.prefetch = self.urgent = False
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(outcome())

    @property
    def is_idle(self) -> bool:
        """Whether this object can be deleted without losing anything."""
        return (
            self.serving is None
            and not self.waiters
            and self.current is _NONE
            and self._spare is None
            and not any(settlement.matters for settlement in self.returns)
        )

    @property
    def is_busy(self) -> bool:
        """Whether there is something to exchange with the counter now."""
        return bool(self.waiters or self.prefetch or (self.urgent and self.returns))
