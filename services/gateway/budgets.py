"""What one gateway may admit by itself: slices of a shared counter, used without asking anybody."""

import asyncio
from collections.abc import Callable, Iterator
from math import ceil, inf
from typing import NamedTuple

from contracts.limits import Limits
from libs.store.counters import EDGE, HOLD, Count, Reservation, Settlement, has_quota, has_rate
from services.gateway.outcomes import UNLIMITED, Exceeded, Kind, Ticket

FINEST = 0.25
"""Seconds to which a call's moment is noted, at the coarsest, where that takes no more than MOST_MOMENTS of them."""
MOST_MOMENTS = 256
SHARES_OF_PER = 64
GROWTH = 4
"""A slice is at most so many times larger than the one before it."""
AHEAD_FROM = 4
"""Slices of so many calls are replaced when half of them are used; smaller ones, near the end, when somebody waits."""
AGAIN = 0.8
"""Seconds for which it is refused without asking, at most; less where somebody may give back."""
AGAIN_IF_HELD = 0.3
SOONEST_AGAIN = 0.005


def noted_to(limits: Limits) -> float:
    """Seconds to which the moments of calls are noted: a use is counted for as much longer than `per`."""
    if not has_rate(limits):
        return inf
    fine = min(FINEST, limits.per / SHARES_OF_PER)
    moments = min(limits.rate, limits.per / fine)
    return fine if moments <= MOST_MOMENTS else limits.per / MOST_MOMENTS


class Slice:
    """Calls reserved at one moment: `left` of `size` may be admitted before `until`, by this process's clock.

    The clock is read before the slice is asked for, so `sent` is no later than `began`, the server's time of it.
    """

    __slots__ = ("_counted", "_limits", "_noted", "began", "left", "low", "sent", "size", "slice_id", "turn", "until")

    def __init__(self, slice_id: str, limits: Limits, size: int, began: int, sent: float, until: float) -> None:
        self._limits = limits
        self.slice_id = slice_id
        self.size = self.left = size
        self.low = size // 2 if size >= AHEAD_FROM else -1
        self.began = began
        self.sent = sent
        self.until = until
        self.turn = -inf if has_rate(limits) else inf
        """When the interval ends to whose end calls are noted now."""
        self._counted = 0
        self._noted: list[tuple[float, int]] = []

    @property
    def used(self) -> int:
        """How many of its calls were admitted."""
        return self.size - self.left

    def note(self, now: float) -> None:
        """What was used before `now` was used by the end of the interval that is over; another begins."""
        self._close(self.turn)
        self.turn = now + noted_to(self._limits)

    def _close(self, moment: float) -> None:
        if self.used > self._counted:
            self._noted.append((moment, self.used - self._counted))
            self._counted = self.used

    def settlement(self, now: float) -> Settlement:
        """What became of it."""
        self._close(min(self.turn, now))
        return Settlement(self.slice_id, self.used, self.left, dict(self._uses(now)))

    def _uses(self, now: float) -> Iterator[tuple[int, int]]:
        """What still counts against the rate, by moments of a grid that all gateways share."""
        if not has_rate(self._limits):
            return
        step = max(1, int(noted_to(self._limits) * 1000))
        uses: dict[int, int] = {}
        for moment, calls in self._noted:
            if moment + self._limits.per >= now:
                exact = self.began + EDGE + (moment - self.sent) * 1000
                key = ceil(exact / step) * step
                uses[key] = uses.get(key, 0) + calls
        yield from uses.items()


_NONE = Slice("", Limits(), 0, 0, -inf, -inf)


class Grown(NamedTuple):
    """How large the last slice was to be, and when it was asked for."""

    size: int
    at: float


class Budget:
    """One scope of one gateway: the slice in use, a spare one, what is to be settled, and who waits."""

    __slots__ = (
        "_beyond",
        "_grown",
        "_last",
        "_spare",
        "ahead",
        "current",
        "exchanges",
        "limits",
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
        self.current = _NONE
        self._last = _NONE
        """The one in use before."""
        self._spare: Slice | None = None
        self.returns: list[Settlement] = []
        """Of slices that are over."""
        self.waiters: list[asyncio.Future[Ticket | Exceeded]] = []
        self.ahead = False
        """A slice is wanted before somebody waits for it."""
        self.urgent = False
        """What is to be settled is not to wait for the next reservation."""
        self.exchanges = 0
        self.serving: asyncio.Task[None] | None = None
        self._grown = Grown(0, now)
        self._adopt(limits)

    def _adopt(self, limits: Limits) -> None:
        self.limits = limits
        self.quota_max = limits.quota_max if has_quota(limits) else 0
        self.unreserved = self.quota_max
        """What is left of the quota beside this gateway's slices."""
        self._beyond = self.unreserved
        self.renews = 0
        self.refusal: Exceeded | None = None
        self.refused_until = -inf

    def is_for(self, limits: Limits, now: float) -> bool:
        """Whether its slices are of these limits; where they are not, they are over, and the next ones will be."""
        if limits == self.limits:
            self.limits = limits
            return True
        self.end(now)
        self._adopt(limits)
        return False

    def take(self, now: float) -> Ticket | None:
        """Admitted, if a slice has a call left."""
        current = self.current
        if not current.left or now >= current.until:
            if not self._advance(now):
                return None
            current = self.current
        if now >= current.turn:
            current.note(now)
        current.left = left = current.left - 1
        if left == current.low and self._spare is None:
            self.ahead = True
        return Ticket(self.quota_max, self._beyond + left, self.renews) if self.quota_max else UNLIMITED

    def _advance(self, now: float) -> bool:
        """The spare slice takes the place of one that is over; whether there is anything to take from now."""
        self._end_current(now)
        if self._spare is not None:
            self.current, self._spare = self._spare, None
            if now >= self.current.until:
                self._end_current(now)
        self._beyond = self.unreserved
        return self.current.left > 0

    def _end_current(self, now: float) -> None:
        if self.current is not _NONE:
            self.unreserved += self.current.left
            self.returns.append(self.current.settlement(now))
            self._last, self.current = self.current, _NONE

    def end(self, now: float) -> None:
        """Every slice is over, and given back with the next exchange."""
        self._end_current(now)
        if self._spare is not None:
            self.current, self._spare = self._spare, None
            self._end_current(now)
        self._beyond = self.unreserved

    def held_before(self, moment: int) -> bool:
        """Whether it has, or has not given back yet, what was reserved before that moment of the server's."""
        slices = (self.current, self._spare)
        pending = any(settlement.matters for settlement in self.returns)
        return pending or any(held.began <= moment for held in slices if held and held is not _NONE)

    @property
    def unused(self) -> int:
        """Calls that were reserved and not used, as far as the counter knows no better."""
        spare = self._spare.left if self._spare else 0
        return self.current.left + spare + sum(settlement.unused for settlement in self.returns)

    @property
    def asked_at(self) -> float:
        """When it last asked for a slice."""
        return self._grown.at

    def demand(self, slice_id: str, now: float) -> Reservation | None:
        """What to reserve: for those who wait, or for as long as a slice lasts at the pace of the last one."""
        self.waiters = [waiter for waiter in self.waiters if not waiter.done()]
        waiting, ahead, self.ahead = len(self.waiters), self.ahead, False
        if not waiting and not ahead:
            return None
        size = self._size(now)
        if waiting:
            self._advance(now)
        self._grown = Grown(max(size, waiting), now)
        return Reservation(slice_id, self.limits, waiting, size)

    def _size(self, now: float) -> int:
        before = self._grown
        if now - before.at >= HOLD:
            return 1
        last = self._last if self.current is _NONE else self.current
        pace = last.used / max(now - last.sent, 0.001)
        return max(1, min(before.size * GROWTH, ceil(pace * HOLD)))

    def receive(self, reservation: Reservation, count: Count, sent: float, now: float) -> None:
        """The slice that was given is there for those who wait, and for who comes; the others are refused."""
        if count.given:
            self._put(self._slice(reservation, count, sent), now)
        if reservation.limits != self.limits:
            # Others hold since it was asked for.
            self.end(now)
            self.urgent = True
            return
        if self.quota_max:
            self.unreserved = count.quota_left + sum(settlement.unused for settlement in self.returns)
            self._beyond = self.unreserved + (self._spare.left if self._spare else 0)
            self.renews = ceil(count.renews_at / 1000) if count.renews_at else 0
        if count.given < reservation.waiting:
            self._refuse(count, now)
        self._hand_out(now)

    def _slice(self, reservation: Reservation, count: Count, sent: float) -> Slice:
        until = sent + HOLD
        if count.renews_at is not None and self.quota_max:
            until = min(until, sent + (count.renews_at - count.began - EDGE) / 1000)
        return Slice(reservation.slice_id, reservation.limits, count.given, count.began, sent, until)

    def _put(self, given: Slice, now: float) -> None:
        if self.current.left and now < self.current.until:
            self._spare = given
        else:
            self._end_current(now)
            self.current = given

    def _refuse(self, count: Count, now: float) -> None:
        own = frozenset(held.slice_id for held in (self.current, self._spare) if held)
        held = count.others_hold(own)
        rated = has_rate(self.limits) and (count.rate_left <= 0 or not self.quota_max)
        ends = count.rate_frees_at if rated else count.renews_at
        wait = (ends - count.now) / 1000 if ends is not None else inf
        if min(count.rate_left if has_rate(self.limits) else 1, count.quota_left if self.quota_max else 1) > 0:
            wait = 0.0  # given back a moment after
        after = min(wait, 1.0) if held else wait
        self.refusal = Exceeded(
            Kind.RATE if rated else Kind.QUOTA,
            None if after == inf else max(1, ceil(after)),
            Ticket(self.quota_max, max(0, self.unreserved), self.renews) if self.quota_max else UNLIMITED,
        )
        self.refused_until = now + max(min(wait, AGAIN_IF_HELD if held else AGAIN), SOONEST_AGAIN)

    def _hand_out(self, now: float) -> None:
        """Those who wait get what there is, in turn."""
        waiters, self.waiters = self.waiters, []
        for position, waiter in enumerate(waiters):
            if waiter.done():
                continue
            outcome = self.take(now) or (self.refusal if now < self.refused_until else None)
            if outcome is None:
                self.waiters = waiters[position:]
                return
            waiter.set_result(outcome)

    def fail(
        self, outcome: Callable[[], Ticket | Exceeded], doubtful: str | None, settlements: list[Settlement]
    ) -> None:
        """Nobody knows what became of an exchange: what it was to settle waits, and its slice is to be given back."""
        self.returns = [*settlements, *self.returns]
        if doubtful is not None:
            self.returns.append(Settlement(doubtful, 0, 0, {}))
        self.ahead = self.urgent = False
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(outcome())

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost with it."""
        return (
            self.serving is None
            and not self.waiters
            and self.current is _NONE
            and self._spare is None
            and not any(settlement.matters for settlement in self.returns)
        )

    @property
    def is_busy(self) -> bool:
        """Whether something is to be exchanged now."""
        return bool(self.waiters or self.ahead or (self.urgent and self.returns))
