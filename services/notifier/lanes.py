"""Who may send how much at once, so that no endpoint stands in the way of another."""

import resource
from collections.abc import Callable
from datetime import datetime, timedelta

from libs.telemetry import WEBHOOKS_UNDER_WAY
from services.notifier.breaker import Breaker

QUICK_MS = 250
"""Milliseconds in which a quick endpoint answers."""


def affordable(wanted: int) -> int:
    """As many attempts at once as wanted; half of the files this process may open at most."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(2, min(wanted, soft // 2))


class Lane:
    """One endpoint, which is one URL: what is under way to it, whether it answers, and what waits for it."""

    def __init__(self, url: str, breaker: Breaker) -> None:
        self.url = url
        self.breaker = breaker
        self.under_way = 0
        self.waiting: set[str] = set()
        """APIs with deliveries for this endpoint that are due in MongoDB, as far as is known here."""
        self.quick = True
        """Whether it answers in a moment, as far as is known here."""

    @property
    def forgettable(self) -> bool:
        """Whether nothing would be lost with it."""
        return not self.under_way and not self.waiting and self.breaker.healthy


class Lanes:
    """Every endpoint's share of the attempts that may be under way at once in this process.

    A lane has at most `per_endpoint`, and never more than a third of what is free beside it: endpoints that hang leave
    places for the others, dozens of them for dozens. And whoever has nothing under way may begin with one.
    """

    def __init__(self, total: int, per_endpoint: int, now: Callable[[], datetime]) -> None:
        self._total = total
        self._per_endpoint = per_endpoint
        self._now = now
        self._lanes: dict[str, Lane] = {}
        self.under_way = 0
        WEBHOOKS_UNDER_WAY.set_function(lambda: self.under_way)
        self.room_again: Callable[[Lane], None] = lambda _: None
        """Told of a lane that something waits for, when it may have a place again."""

    def of(self, url: str) -> Lane:
        """The lane of this endpoint."""
        lane = self._lanes.get(url)
        if lane is None:
            lane = self._lanes[url] = Lane(url, Breaker(self._per_endpoint))
        return lane

    def room(self, lane: Lane) -> int:
        """How many more attempts may begin now."""
        allowed = lane.breaker.limit(self._now()) - lane.under_way
        fair = (self._total - self.under_way - 3 * lane.under_way) // 4
        return max(0, min(allowed, fair if lane.under_way else max(1, fair)))

    def take(self, lane: Lane, wanted: int = 1) -> int:
        """Up to so many places, to be given back."""
        taken = min(wanted, self.room(lane))
        lane.under_way += taken
        self.under_way += taken
        return taken

    def give_back(self, lane: Lane, places: int = 1) -> None:
        """Places that are free again."""
        lane.under_way -= places
        self.under_way -= places
        if lane.waiting:
            self.room_again(lane)
        elif lane.forgettable:
            self._lanes.pop(lane.url, None)

    def note(self, lane: Lane, latency_ms: int, *, troubled: bool, wait: timedelta | None = None) -> None:
        """What an attempt says about the endpoint."""
        lane.quick = latency_ms < QUICK_MS
        if not troubled:
            lane.breaker.succeeded()
            return
        now = self._now()
        lane.breaker.failed(now)
        if wait is not None:
            lane.breaker.throttled(now, wait)
