"""A clock on which all processes agree, even if their machines' clocks are wrong: MongoDB's (ADR 11)."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial

import structlog

from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import Mongo
from libs.supervision import BackgroundTask, Supervisor

TOLERANCE = timedelta(seconds=1)
"""A smaller difference is ignored: synchronised clocks differ by milliseconds, and following MongoDB adds jitter."""
INTERVAL = 10.0
"""Seconds between two questions to MongoDB."""
FIRST_REPLY_WITHIN = 1.0
"""Seconds for which `open` waits for the first reply, and between two requests until there is one."""
_MILLISECOND = timedelta(milliseconds=1)

log = structlog.get_logger("clock")


steady_seconds: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds since an arbitrary moment. Goes on while the machine is suspended, and ignores changes of its clock."""


class SharedClock:
    """This process's clock, corrected to MongoDB's if it is off by more than TOLERANCE.

    The machine's clock is read only when MongoDB is asked. In between, time advances with the steady clock, so that
    setting the machine's clock has no effect.
    """

    def __init__(self, mongo: Mongo, own: Callable[[], datetime], steady: Callable[[], float] = steady_seconds) -> None:
        self._mongo = mongo
        self._own = own
        self._steady = steady
        self._ahead = timedelta(0)
        """By how much MongoDB's clock was ahead of this machine's when it was last asked."""
        self._read, self._read_at = own(), steady()
        """The corrected time at the last question, and the steady seconds then."""
        self._passed, self._now = -1, self._read
        """Milliseconds after `_read` when the time was last asked for, and the time then: it is asked for far more than
        a thousand times a second."""
        self._known = asyncio.Event()
        self._asking: BackgroundTask | None = None

    def __call__(self) -> datetime:
        """The current time in UTC, truncated to the millisecond, which is what MongoDB stores."""
        passed = int((self._steady() - self._read_at) * 1000)
        if passed != self._passed:
            self._passed, self._now = passed, self._read + timedelta(0, 0, passed * 1000)
        return self._now

    async def open(self, supervisor: Supervisor | None = None) -> None:
        """Start asking MongoDB. If it does not respond in time, this machine's clock is used until it does."""
        self._set(self._own(), self._steady())
        self._asking = (supervisor or Supervisor()).start("clock", self._poll, essential=False)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._known.wait(), FIRST_REPLY_WITHIN)

    async def close(self) -> None:
        """Stop asking MongoDB. Idempotent."""
        if self._asking:
            await self._asking.stop()
            self._asking = None

    def _set(self, read: datetime, at: float) -> None:
        self._read, self._read_at, self._passed = read, at, -1

    async def _poll(self) -> None:
        while True:
            with suppress(TemporarilyUnavailable):
                await self._ask()
            await asyncio.sleep(INTERVAL if self._known.is_set() else FIRST_REPLY_WITHIN)

    async def _ask(self) -> None:
        own, began = self._own(), self._steady()
        theirs = await self._mongo.time()
        ended = self._steady()
        took = timedelta(seconds=ended - began)
        if took > TOLERANCE:
            return  # the reply may be from any moment of that time, so it is too imprecise
        ahead = theirs - (own + took / 2)
        ahead = ahead - ahead % _MILLISECOND if abs(ahead) > TOLERANCE else timedelta(0)
        if abs(ahead - self._ahead) > TOLERANCE:
            log.warning("clock_differs_from_mongodb", seconds=ahead.total_seconds())
        self._ahead = ahead
        self._set(own + ahead, began)
        self._known.set()
