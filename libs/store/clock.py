"""The time on which all processes agree, however their own clocks are set: MongoDB's."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

import structlog

from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import Mongo

AGREES = timedelta(seconds=1)
"""A clock that is no further off is taken as it is: clocks that are kept right differ by milliseconds."""
EVERY = 10.0
"""Seconds after which MongoDB is asked again."""
KNOWN_WITHIN = 1.0
"""Seconds for which `open` waits for the first answer."""
_MILLISECOND = timedelta(milliseconds=1)

log = structlog.get_logger("clock")


class SharedClock:
    """This process's clock, put right by MongoDB's where it is off by more than a second."""

    def __init__(self, mongo: Mongo, own: Callable[[], datetime]) -> None:
        self._mongo = mongo
        self._own = own
        self._ahead = timedelta(0)
        self._known = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None

    def __call__(self) -> datetime:
        """Now."""
        return self._own() + self._ahead if self._ahead else self._own()

    async def open(self) -> None:
        """MongoDB is asked from now on. Without an answer in time the own clock counts until there is one."""
        self._asking = asyncio.create_task(self._keep_asking(), name="clock")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._known.wait(), KNOWN_WITHIN)

    async def close(self) -> None:
        """Nobody is asked any more. Idempotent."""
        if self._asking:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
            self._asking = None

    async def _keep_asking(self) -> None:
        while True:
            with suppress(TemporarilyUnavailable):
                await self._ask()
            await asyncio.sleep(EVERY if self._known.is_set() else KNOWN_WITHIN)

    async def _ask(self) -> None:
        own, began = self._own(), time.monotonic()
        theirs = await self._mongo.time()
        took = timedelta(seconds=time.monotonic() - began)
        if took > AGREES:
            return  # when in all that time the answer was made, nobody knows
        ahead = theirs - (own + took / 2)
        self._put_right(ahead - ahead % _MILLISECOND if abs(ahead) > AGREES else timedelta(0))
        self._known.set()

    def _put_right(self, ahead: timedelta) -> None:
        if abs(ahead - self._ahead) > AGREES:
            log.warning("clock_differs_from_mongodb", seconds=ahead.total_seconds())
        self._ahead = ahead
