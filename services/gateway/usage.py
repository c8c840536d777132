"""Counts what the gateway decides, by API and client: in memory with the call, in MongoDB once a second."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from aiohttp import web

from libs.oauth.errors import TemporarilyUnavailable
from libs.store.usage import REFUSED, Counts, Usage, UsageKey, hour_of, new_source
from libs.telemetry import USAGE_LOST, USAGE_WAITING

WRITE_EVERY = 1.0
"""Seconds: what a process that dies has not written yet."""
LAST_WRITE_WITHIN = 3.0
"""Seconds that the last write has before the process ends."""
MOST = 50_000
"""Numbers that may wait to be written, by hour, API, client and outcome."""

log = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class _Batch:
    number: int
    counts: Counts


class UsageCounter:
    """One a process. What is counted is in the usage documents once, however often it takes to write it.

    The hour is that of the write, which comes a second after the call; a few seconds while MongoDB is away.
    """

    def __init__(self, usage: Usage, now: Callable[[], datetime], most: int = MOST) -> None:
        self._usage = usage
        self._now = now
        self._most = most
        self._source = new_source()
        self._number = 0
        self._fresh: dict[tuple[str | None, str | None, str], int] = {}
        self._waiting: dict[UsageKey, Counter[str]] = {}
        self._batch: _Batch | None = None
        """What is being written, or was when MongoDB went away: as it is, until it is known to be there."""
        self._held = 0
        """How many numbers are in the two."""
        self._away = False

    def verified(self, api_id: str, client_id: str) -> None:
        """A call was admitted."""
        self._count((api_id, client_id, "verified"))

    def refused(self, api_id: str | None, client_id: str | None, reason: str) -> None:
        """A call was refused.

        `api_id` is that of an API there is, `client_id` that of a grant there is: neither as a caller says it, who
        could make any number of them. `reason` is a word of ours, such as `unknown_token`.
        """
        self._count((api_id, client_id, REFUSED + reason))

    def _count(self, what: tuple[str | None, str | None, str]) -> None:
        count = self._fresh.get(what)
        if count is not None:
            self._fresh[what] = count + 1
        elif len(self._fresh) + self._held < self._most:
            self._fresh[what] = 1
        else:
            USAGE_LOST.inc()

    async def write(self) -> None:
        """What was counted up to now is in MongoDB. Raises TemporarilyUnavailable, with nothing forgotten."""
        self._set_aside()
        while self._batch or self._waiting:
            if self._batch is None:
                self._number += 1
                self._batch, self._waiting = _Batch(self._number, self._waiting), {}
            await self._usage.add(self._source, self._number, self._batch.counts)
            self._batch = None
            self._measure()

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        """Written every second while the application runs, and at its end."""
        task = asyncio.create_task(self._write_forever(), name="usage")
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            async with asyncio.timeout(LAST_WRITE_WITHIN):
                await self.write()
        except (TemporarilyUnavailable, TimeoutError) as error:
            log.warning("usage_lost", error=type(error).__name__, numbers=self._held)

    async def _write_forever(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY)
            try:
                await self.write()
                self._away = False
            except TemporarilyUnavailable as error:
                if not self._away:
                    log.warning("usage_not_written", error=error.detail)
                self._away = True
            except Exception as error:
                log.error("usage_not_written", exc_info=error)

    def _set_aside(self) -> None:
        """What is fresh belongs to this hour."""
        fresh, self._fresh = self._fresh, {}
        hour = hour_of(self._now())
        for (api_id, client_id, name), count in fresh.items():
            self._waiting.setdefault(UsageKey(hour, api_id, client_id), Counter())[name] += count
        self._measure()

    def _measure(self) -> None:
        parts = (self._waiting, self._batch.counts if self._batch else {})
        self._held = sum(len(numbers) for part in parts for numbers in part.values())
        USAGE_WAITING.set(self._held)


USAGE = web.AppKey("usage", UsageCounter)
