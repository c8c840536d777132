"""Limits failed logins: protection against brute force on client secrets, passwords and operator keys.

Failures are counted in MongoDB, exactly over all instances, in fixed windows. An attempt is paid for before its
outcome is known: it takes a slot of each counter that it counts against, and a counter has as many slots in a window as
its limit says. So parallel guesses cannot exceed the limit. A failed attempt keeps its slots until the window ends. A
successful login returns its own slots, but does not reset the counter (ADR 8).

A counter without failures that this process knows of costs nothing: a client that authenticates correctly neither reads
nor writes MongoDB for it. This process then learns of failures at other instances with its own first failure.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

import structlog

from libs.client_address import site
from libs.http.context import current
from libs.oauth.errors import TemporarilyUnavailable, TooManyAttempts
from libs.oauth.login_limits import FailureCounter, Limits, digest, known_place
from libs.store.attempts import Attempts, Outcome
from libs.supervision import spawn
from libs.telemetry import ATTEMPTS_FAILED, ATTEMPTS_REFUSED

MAX_SLOT_WAIT = 4.0
"""Seconds that an attempt waits for a slot while all of them are taken by attempts whose outcome is not known yet."""
SLOT_POLL = 0.05
"""Seconds between two tries to get a slot while waiting."""
RETURN_DELAY = 0.2
"""Seconds for which returned slots stay with this process for its next attempts, before MongoDB gets them back."""
KNOWN_FOR = timedelta(days=30)
"""How long a user is known at an address from which they logged in."""
REMEMBER_EVERY = timedelta(days=1)
"""A login at a known address extends that time, but writes no more often than this."""
MAX_COUNTERS = 10_000
"""Counters kept in memory, at most 2 KB each. The oldest is dropped first; MongoDB still has its count."""
MAX_KNOWN_PLACES = 10_000
"""Known addresses kept in memory, 250 bytes each."""
SWEEP_EVERY = 30.0
"""Seconds between two sweeps that drop counters of past windows."""

log = structlog.get_logger("throttle")


class Attempt:
    """One attempt to authenticate. It counts as failed unless `succeed` is called."""

    succeeded = False

    def succeed(self) -> None:
        """The credentials were right."""
        self.succeeded = True


class _CounterWindow:
    """One counter in one window, as this process knows it."""

    __slots__ = ("_attempts", "_changed", "_taking", "counter", "end", "failed", "free_slots", "full", "key")

    def __init__(self, counter: FailureCounter, window: int, attempts: Attempts) -> None:
        self.counter = counter
        self.key = counter.key(window)
        self.end = counter.limit.end(window)
        self.full = False
        """As many attempts have failed as the limit allows; nothing but the end of the window changes that."""
        self.free_slots = 0
        """Slots that this process has taken in MongoDB and does not use at the moment."""
        self.failed = 0
        """Failures that are not written to MongoDB yet."""
        self._attempts = attempts
        self._taking = asyncio.Lock()
        self._changed = asyncio.Event()

    async def take_slot(self, max_wait: float) -> bool:
        """Whether a slot was taken; False if as many attempts have failed as the limit allows.

        Raises TooManyAttempts if other attempts hold the last slots, and their outcome is not known in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max_wait
        async with self._taking:  # of all that wait, one asks MongoDB
            while not self.free_slots and not self.full:
                self._changed.clear()
                asked = await self._attempts.take(self.key, self.counter.limit.failures, self.end)
                if asked.granted:
                    self.free_slots += 1
                elif asked.failed + self.failed >= self.counter.limit.failures:
                    self.full = True
                    self._log_full()
                elif loop.time() >= deadline:
                    raise TooManyAttempts("too many attempts at once", retry_after=1)
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(SLOT_POLL):
                            await self._changed.wait()
            if not self.free_slots:
                return False
            self.free_slots -= 1
            return True

    def _log_full(self) -> None:
        client = {"client_id": self.counter.client_id} if self.counter.client_id is not None else {}
        log.warning("throttled", kind=self.counter.kind, client=current().address, until=str(self.end), **client)

    def return_slot(self) -> None:
        """An attempt succeeded, or had no outcome: its slot is free again."""
        self.free_slots += 1
        self._changed.set()

    def record_failure(self) -> None:
        """An attempt failed: its slot stays taken until the window ends."""
        self.failed += 1
        self._changed.set()

    def unwritten(self) -> Outcome:
        """What has to be written to MongoDB; from now on it counts as written."""
        outcome = Outcome(self.failed, self.free_slots)
        self.failed = self.free_slots = 0
        return outcome


class LoginThrottle:
    """Limits failed attempts by client, by user and by the address of the current request. One per process."""

    def __init__(self, attempts: Attempts, limits: Limits, now: Callable[[], datetime]) -> None:
        self._attempts = attempts
        self._limits = limits
        self._now = now
        self._windows: OrderedDict[tuple[bytes, int], _CounterWindow] = OrderedDict()
        """By the counter's subject and the number of the window."""
        self._known_places: OrderedDict[str, datetime] = OrderedDict()
        self._changed: dict[str, _CounterWindow] = {}
        """Counters with outcomes that are not written to MongoDB yet."""
        self._write_timer: asyncio.TimerHandle | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    # Which counters an attempt counts against

    def client_counters(self, client_id: str) -> Sequence[FailureCounter]:
        """For a client secret: this client from this address, and all clients from this address."""
        address = site(current().address)
        subject = digest("client", client_id, address)
        return (
            FailureCounter("client", subject, self._limits.client, client_id=client_id),
            self._address_counter("clients", address),
        )

    def user_counters(self, username: str) -> Sequence[FailureCounter]:
        """For a password: this user from this address, this user from anywhere, and all users from this address.

        The counter for "anywhere" does not apply where the user has logged in before. Otherwise an attacker could lock
        users out by guessing.
        """
        address = site(current().address)
        anywhere = digest("user_anywhere", username)
        exempt = known_place(username, address)
        return (
            FailureCounter("user", digest("user", username, address), self._limits.user),
            FailureCounter("user_anywhere", anywhere, self._limits.user_anywhere, exempt_place=exempt),
            self._address_counter("users", address),
        )

    def operator_counters(self) -> Sequence[FailureCounter]:
        """For an operator key: all keys from this address."""
        return (self._address_counter("operators", site(current().address)),)

    def _address_counter(self, kind: str, address: str) -> FailureCounter:
        return FailureCounter(kind, digest(kind, address), self._limits.address)

    # Checking and counting

    def __len__(self) -> int:
        """How many counters are kept in memory; at most MAX_COUNTERS."""
        return len(self._windows)

    @property
    def has_no_failures(self) -> bool:
        """Whether this process knows of no failure at all; then no counter needs to be computed or checked."""
        return not self._windows

    def is_clear(self, counters: Sequence[FailureCounter]) -> bool:
        """Whether this process knows of no failure in these counters' windows; a success then needs no `attempt`."""
        if not self._windows:
            return True
        now = self._now()
        return not any((counter.subject, counter.limit.window(now)) in self._windows for counter in counters)

    async def check(self, counters: Sequence[FailureCounter]) -> None:
        """Raise TooManyAttempts if this process knows that a limit is reached. Free if all counters are clear."""
        if self._windows:
            now = self._now()
            for counter in counters:
                window = self._windows.get((counter.subject, counter.limit.window(now)))
                if window and window.full and not await self._is_exempt(counter):
                    raise self._refusal(window)

    @asynccontextmanager
    async def attempt(self, counters: Sequence[FailureCounter]) -> AsyncIterator[Attempt]:
        """An attempt to authenticate, which counts as failed unless `succeed` is called on it.

        The counters stop being clear before the first await here: of many attempts that fail at the same time, all but
        the first are already seen by `is_clear`. Raises TooManyAttempts, with the seconds until the window ends.
        """
        windows = [self._window(counter) for counter in counters]
        await self.check(counters)
        taken = await self._take_slots(counters, windows)
        attempt = Attempt()
        try:
            yield attempt
        except TemporarilyUnavailable:
            # The credentials were not compared, so the attempt neither succeeded nor failed.
            self._return_slots(taken)
            raise
        except BaseException:
            # Cancelled requests too: a guess must not become free because its sender disconnects before the response.
            self._record_failure(taken)
            raise
        if attempt.succeeded:
            self._return_slots(taken)
            await self._remember(counters)
        else:
            self._record_failure(taken)

    async def close(self) -> None:
        """Write what is not written yet, if MongoDB takes it."""
        for timer in (self._write_timer, self._sweep_timer):
            if timer:
                timer.cancel()
        if self._writing:
            await asyncio.wait((self._writing,))
        await asyncio.wait((spawn("throttle", self._write_outcomes()),))

    async def _take_slots(
        self, counters: Sequence[FailureCounter], windows: Sequence[_CounterWindow]
    ) -> Sequence[_CounterWindow]:
        taken: list[_CounterWindow] = []
        try:
            # One after the other, the narrowest counter first: an attempt that waits for a slot holds none that the
            # attempts ahead of it still need, so that they cannot wait for each other.
            for counter, window in zip(counters, windows, strict=True):
                if await self._take_slot(counter, window):
                    taken.append(window)
        except BaseException:
            self._return_slots(taken)
            raise
        return taken

    async def _take_slot(self, counter: FailureCounter, window: _CounterWindow) -> bool:
        """Whether a slot was taken; False if the counter is full but does not apply. Raises TooManyAttempts."""
        taken = await window.take_slot(MAX_SLOT_WAIT)
        if not taken and not await self._is_exempt(counter):
            raise self._refusal(window)
        return taken

    def _refusal(self, window: _CounterWindow) -> TooManyAttempts:
        ATTEMPTS_REFUSED.labels(window.counter.kind).inc()
        seconds = math.ceil((window.end - self._now()).total_seconds())
        return TooManyAttempts("too many attempts have failed; try again later", retry_after=max(1, seconds))

    def _window(self, counter: FailureCounter) -> _CounterWindow:
        number = counter.limit.window(self._now())
        window = self._windows.get((counter.subject, number))
        if window is None:
            if len(self._windows) >= MAX_COUNTERS:
                self._windows.popitem(last=False)
            window = self._windows[counter.subject, number] = _CounterWindow(counter, number, self._attempts)
            if self._sweep_timer is None:
                self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_EVERY, self._sweep)
        return window

    def _sweep(self) -> None:
        now = self._now()
        for past in [key for key, window in self._windows.items() if window.end <= now]:
            del self._windows[past]
        again = asyncio.get_running_loop().call_later(SWEEP_EVERY, self._sweep) if self._windows else None
        self._sweep_timer = again

    # Writing outcomes to MongoDB

    def _return_slots(self, windows: Sequence[_CounterWindow]) -> None:
        for window in windows:
            window.return_slot()
            self._changed[window.key] = window
        if windows and self._write_timer is None:
            # Not at once: the next attempt of this process takes the slot over without asking MongoDB.
            self._write_timer = asyncio.get_running_loop().call_later(RETURN_DELAY, self._write_now)

    def _record_failure(self, windows: Sequence[_CounterWindow]) -> None:
        for window in windows:
            ATTEMPTS_FAILED.labels(window.counter.kind).inc()
            window.record_failure()
            self._changed[window.key] = window
        if windows:
            self._write_now()

    def _write_now(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None
        if self._writing is None or self._writing.done():
            self._writing = spawn("throttle", self._write_outcomes())

    async def _write_outcomes(self) -> None:
        while self._changed:
            windows, self._changed = self._changed, {}
            outcomes = {key: window.unwritten() for key, window in windows.items()}
            try:
                if changed := {key: outcome for key, outcome in outcomes.items() if any(outcome)}:
                    await self._attempts.write_outcomes(changed)
            except TemporarilyUnavailable as outage:
                # Not repeated, since it may have been written. If it was not, the slots stay taken until the window
                # ends: the limit is reached too early rather than exceeded.
                log.warning("attempts_not_written", reason=outage.detail)

    # Where a user has logged in before

    async def _is_exempt(self, counter: FailureCounter) -> bool:
        if counter.exempt_place is None:
            return False
        now = self._now()
        remembered = self._known_places.get(counter.exempt_place)
        if remembered is not None and now < remembered + KNOWN_FOR:
            return True
        return await self._attempts.remembers(counter.exempt_place, now)

    async def _remember(self, counters: Sequence[FailureCounter]) -> None:
        now = self._now()
        for place in [counter.exempt_place for counter in counters if counter.exempt_place]:
            remembered = self._known_places.get(place)
            if remembered is not None and now < remembered + REMEMBER_EVERY:
                continue
            await self._attempts.remember(place, now + KNOWN_FOR)
            self._known_places[place] = now
            self._known_places.move_to_end(place)
            if len(self._known_places) > MAX_KNOWN_PLACES:
                self._known_places.popitem(last=False)
