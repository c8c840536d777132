"""Throttling: whoever fails too often to prove who it is must wait; exact over all instances, free for who never fails.

An attempt is paid for before its outcome is told: a slot of each of its tallies is taken in MongoDB, of which there are
as many in a window as the limit says. A failure has used its slots up; a success gives them back, and a slot that was
given back stays at hand for a moment, for the next attempt. A tally of which nothing failed here is *quiet*: a client
that proves itself then pays nothing, and nothing is read or written.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

import structlog

from libs.addresses import site
from libs.http.context import current
from libs.oauth.attempts import Limits, Place, Tally
from libs.oauth.errors import TemporarilyUnavailable, TooManyAttempts
from libs.store.attempts import Attempts, Outcome
from libs.telemetry import ATTEMPTS_FAILED, ATTEMPTS_REFUSED

PATIENCE = 4.0
"""Seconds for which an attempt waits where the last slots are taken by attempts whose outcome is open."""
ASK_AGAIN = 0.05
AT_HAND = 0.2
"""Seconds for which slots that were given back are kept for the next attempt of this process."""
KNOWN_FOR = timedelta(days=30)
"""How long a user is known where it has logged in."""
REMEMBERED_EVERY = timedelta(days=1)
MOST_GAUGES = 20_000
MOST_PLACES = 10_000
_SWEPT_FROM = 64

log = structlog.get_logger("throttle")


class Attempt:
    """A failure, until it is said to have succeeded."""

    succeeded = False

    def succeed(self) -> None:
        """Whoever it was has proven it."""
        self.succeeded = True


class _Gauge:
    """One tally in one window, as this process knows it."""

    def __init__(self, tally: Tally, window: int, attempts: Attempts) -> None:
        self.tally = tally
        self.key = tally.key(window)
        self.end = tally.limit.end(window)
        self.full = False
        self.at_hand = 0
        self.failed = 0
        """Not written yet."""
        self._attempts = attempts
        self._asking = asyncio.Lock()
        self._moved = asyncio.Event()

    async def take(self, patience: float) -> bool:
        """Whether there was a slot, taken now; False: as many have failed as may.

        Raises TooManyAttempts where the last slots are taken by attempts that are not decided in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        async with self._asking:  # one asks for all who wait
            while not self.at_hand and not self.full:
                self._moved.clear()
                asked = await self._attempts.take(self.key, self.tally.limit.failures, self.end)
                if asked.granted:
                    self.at_hand += 1
                elif asked.failed + self.failed >= self.tally.limit.failures:
                    self.full = True
                    self._say()
                elif loop.time() >= deadline:
                    raise TooManyAttempts("too many attempts at once", retry_after=1)
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(ASK_AGAIN):
                            await self._moved.wait()
            if not self.at_hand:
                return False
            self.at_hand -= 1
            return True

    def _say(self) -> None:
        # Not which user: what was typed as a user name may be a password.
        whose = {"client_id": self.tally.subject[0]} if self.tally.kind == "client" else {}
        log.warning("throttled", kind=self.tally.kind, client=current().address, until=str(self.end), **whose)

    def give_back(self) -> None:
        """A slot is there again."""
        self.at_hand += 1
        self._moved.set()

    def use_up(self) -> None:
        """A slot is gone."""
        self.failed += 1
        self._moved.set()

    def outcome(self) -> Outcome:
        """What is to be written, and is from now on no more."""
        outcome = Outcome(self.failed, self.at_hand)
        self.failed = self.at_hand = 0
        return outcome


class Throttle:
    """Counts attempts at the address of the current request. One a process."""

    def __init__(self, attempts: Attempts, limits: Limits, now: Callable[[], datetime]) -> None:
        self._attempts = attempts
        self._limits = limits
        self._now = now
        self._gauges: OrderedDict[tuple[Tally, int], _Gauge] = OrderedDict()
        self._sweep_at = _SWEPT_FROM
        self._places: OrderedDict[Place, datetime] = OrderedDict()
        self._unsettled: dict[str, _Gauge] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.Task[None] | None = None

    # What is counted

    def of_client(self, client_id: str) -> Sequence[Tally]:
        """A client's secret: of this client here, and of all clients here."""
        address = site(current().address)
        return (
            Tally("client", (client_id, address), self._limits.client),
            Tally("clients", (address,), self._limits.address),
        )

    def of_user(self, username: str) -> Sequence[Tally]:
        """A user's password: of this user here, of this user anywhere, and of all users here."""
        address = site(current().address)
        return (
            Tally("user", (username, address), self._limits.user),
            Tally("user_anywhere", (username,), self._limits.user_anywhere, unless=Place(username, address)),
            Tally("users", (address,), self._limits.address),
        )

    def of_operator(self) -> Sequence[Tally]:
        """An operator's key: of whoever is here."""
        return (Tally("operators", (site(current().address),), self._limits.address),)

    # How it is counted

    @property
    def is_calm(self) -> bool:
        """Whether nothing at all failed here lately; then every tally is quiet."""
        return not self._gauges

    def is_quiet(self, tallies: Sequence[Tally]) -> bool:
        """Whether nothing of this failed here in this window; then a success need not be an `attempt`."""
        if not self._gauges:
            return True
        now = self._now()
        return not any((tally, tally.limit.window(now)) in self._gauges for tally in tallies)

    async def require_room(self, tallies: Sequence[Tally]) -> None:
        """Return unless it is known here that too many have failed. Raises TooManyAttempts.

        It is not known here of a quiet tally, and then costs nothing.
        """
        if self._gauges:
            now = self._now()
            for tally in tallies:
                gauge = self._gauges.get((tally, tally.limit.window(now)))
                if gauge and gauge.full and not await self._is_exempt(tally):
                    raise self._refusal(gauge)

    @asynccontextmanager
    async def attempt(self, tallies: Sequence[Tally]) -> AsyncIterator[Attempt]:
        """An attempt that is counted as failed unless it says that it succeeded; what is inside may tell the outcome.

        From the call on, before anything is waited for, the tallies are no longer quiet. Raises TooManyAttempts.
        """
        gauges = [self._gauge(tally) for tally in tallies]
        await self.require_room(tallies)
        taken = await self._taken(gauges)
        attempt = Attempt()
        try:
            yield attempt
        except TemporarilyUnavailable:
            # There was no outcome.
            self._give_back(taken)
            raise
        except BaseException:
            self._use_up(taken)
            raise
        if attempt.succeeded:
            self._give_back(taken)
            await self._remember(tallies)
        else:
            self._use_up(taken)

    async def close(self) -> None:
        """Everything is counted that can be."""
        if self._timer:
            self._timer.cancel()
        if self._settling:
            await self._settling
        await self._settle()

    async def _taken(self, gauges: Sequence[_Gauge]) -> Sequence[_Gauge]:
        taken: list[_Gauge] = []
        try:
            # One after the other, the narrowest first: who waits for one holds none that those ahead still need.
            for gauge in gauges:
                if await self._slot(gauge):
                    taken.append(gauge)
        except BaseException:
            self._give_back(taken)
            raise
        return taken

    async def _slot(self, gauge: _Gauge) -> bool:
        """Whether a slot was taken; where the limit does not hold none is needed. Raises TooManyAttempts."""
        taken = await gauge.take(PATIENCE)
        if not taken and not await self._is_exempt(gauge.tally):
            raise self._refusal(gauge)
        return taken

    def _refusal(self, gauge: _Gauge) -> TooManyAttempts:
        ATTEMPTS_REFUSED.labels(gauge.tally.kind).inc()
        seconds = math.ceil((gauge.end - self._now()).total_seconds())
        return TooManyAttempts("too many attempts have failed; try again later", retry_after=max(1, seconds))

    def _gauge(self, tally: Tally) -> _Gauge:
        window = tally.limit.window(self._now())
        gauge = self._gauges.get((tally, window))
        if gauge is None:
            self._make_room()
            gauge = self._gauges[tally, window] = _Gauge(tally, window, self._attempts)
        return gauge

    def _make_room(self) -> None:
        if len(self._gauges) >= self._sweep_at:
            now = self._now()
            for ended in [known for known, gauge in self._gauges.items() if gauge.end <= now]:
                del self._gauges[ended]
            self._sweep_at = max(_SWEPT_FROM, 2 * len(self._gauges))
        if len(self._gauges) >= MOST_GAUGES:
            self._gauges.popitem(last=False)

    # What became of it

    def _give_back(self, gauges: Sequence[_Gauge]) -> None:
        for gauge in gauges:
            gauge.give_back()
            self._unsettled[gauge.key] = gauge
        if gauges and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(AT_HAND, self._settle_now)

    def _use_up(self, gauges: Sequence[_Gauge]) -> None:
        for gauge in gauges:
            ATTEMPTS_FAILED.labels(gauge.tally.kind).inc()
            gauge.use_up()
            self._unsettled[gauge.key] = gauge
        if gauges:
            self._settle_now()

    def _settle_now(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle(), name="throttle")

    async def _settle(self) -> None:
        while self._unsettled:
            gauges, self._unsettled = self._unsettled, {}
            outcomes = {key: gauge.outcome() for key, gauge in gauges.items()}
            try:
                if moved := {key: outcome for key, outcome in outcomes.items() if any(outcome)}:
                    await self._attempts.settle(moved)
            except TemporarilyUnavailable as outage:
                # Whether it was written is not known; what was taken stays taken until the window ends.
                log.warning("attempts_not_settled", reason=outage.detail)

    # Where a user is known

    async def _is_exempt(self, tally: Tally) -> bool:
        if tally.unless is None:
            return False
        now = self._now()
        remembered = self._places.get(tally.unless)
        if remembered is not None and now < remembered + KNOWN_FOR:
            return True
        return await self._attempts.remembers(tally.unless.key, now)

    async def _remember(self, tallies: Sequence[Tally]) -> None:
        now = self._now()
        for place in [tally.unless for tally in tallies if tally.unless]:
            remembered = self._places.get(place)
            if remembered is not None and now < remembered + REMEMBERED_EVERY:
                continue
            await self._attempts.remember(place.key, now + KNOWN_FOR)
            self._places[place] = now
            self._places.move_to_end(place)
            if len(self._places) > MOST_PLACES:
                self._places.popitem(last=False)
