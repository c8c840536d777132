"""Counts admitted and refused calls by API and client: in memory for each call, in MongoDB once a second."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from aiohttp import web

from libs.oauth.errors import TemporarilyUnavailable
from libs.store.usage import REFUSED, Counts, Usage, UsageKey, hour_of, new_source
from libs.supervision import Supervisor, error_fields
from libs.telemetry import USAGE_LOST, USAGE_WAITING

WRITE_EVERY = 1.0
"""Seconds between writes; a process that is killed loses the counts of this time."""
LAST_WRITE_TIMEOUT = 3.0
"""Seconds that the last write may take when the process stops."""
MAX_PENDING = 50_000
"""Counts (one for each hour, API, client and outcome) that may wait to be written; further ones are dropped."""

log = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class _Batch:
    number: int
    counts: Counts


class UsageCounter:
    """One per process. Every call is counted exactly once, even if a write has to be repeated.

    A call counts for the hour of the first attempt to write it: a second after the call, or a few seconds if MongoDB is
    unreachable.
    """

    def __init__(self, usage: Usage, now: Callable[[], datetime], max_pending: int = MAX_PENDING) -> None:
        self._usage = usage
        self._now = now
        self._max_pending = max_pending
        self._source = new_source()
        self._number = 0
        self._fresh: dict[tuple[str | None, str | None, str], int] = {}
        self._waiting: dict[UsageKey, Counter[str]] = {}
        self._batch: _Batch | None = None
        """The batch that is being written. It is repeated unchanged until MongoDB confirms it: with its number it is
        idempotent, and added counts would make it another batch."""
        self._pending = 0
        """Counts in the two above."""
        self._unreachable = False

    def verified(self, api_id: str, client_id: str) -> None:
        """Count an admitted call."""
        self._count((api_id, client_id, "verified"))

    def refused(self, api_id: str | None, client_id: str | None, reason: str) -> None:
        """Count a refused call.

        Both ids must be of existing records, not text from the request: a caller could otherwise create any number of
        counts. `reason` is the name of the refusal, such as `unknown_token`.
        """
        self._count((api_id, client_id, REFUSED + reason))

    def _count(self, what: tuple[str | None, str | None, str]) -> None:
        count = self._fresh.get(what)
        if count is not None:
            self._fresh[what] = count + 1
        elif len(self._fresh) + self._pending < self._max_pending:
            self._fresh[what] = 1
        else:
            USAGE_LOST.inc()

    async def write(self) -> None:
        """Write all counts to MongoDB. Raises TemporarilyUnavailable; the counts are kept for the next attempt."""
        self._set_aside()
        while self._batch or self._waiting:
            if self._batch is None:
                self._number += 1
                self._batch, self._waiting = _Batch(self._number, self._waiting), {}
            await self._usage.add(self._source, self._number, self._batch.counts)
            self._batch = None
            self._update_pending()

    def add_to(self, app: web.Application, supervisor: Supervisor) -> None:
        """Write every second while the application runs, and once more when it stops."""

        async def running(_: web.Application) -> AsyncIterator[None]:
            task = supervisor.every("usage", WRITE_EVERY, self._write_or_wait, essential=False)
            yield
            await task.stop()
            await self._write_last()

        app.cleanup_ctx.append(running)

    async def _write_or_wait(self) -> None:
        try:
            await self.write()
            self._unreachable = False
        except TemporarilyUnavailable as error:
            if not self._unreachable:
                log.warning("usage_not_written", error=error.detail)
            self._unreachable = True

    async def _write_last(self) -> None:
        try:
            async with asyncio.timeout(LAST_WRITE_TIMEOUT):
                await self.write()
        except Exception as error:  # noqa: BLE001 - the process stops, and the other parts must still be closed
            log.warning("usage_lost", numbers=self._pending, **error_fields(error))

    def _set_aside(self) -> None:
        """Assign the fresh counts to the current hour."""
        fresh, self._fresh = self._fresh, {}
        hour = hour_of(self._now())
        for (api_id, client_id, name), count in fresh.items():
            self._waiting.setdefault(UsageKey(hour, api_id, client_id), Counter())[name] += count
        self._update_pending()

    def _update_pending(self) -> None:
        parts = (self._waiting, self._batch.counts if self._batch else {})
        self._pending = sum(len(numbers) for part in parts for numbers in part.values())
        USAGE_WAITING.set(self._pending)


USAGE = web.AppKey("usage", UsageCounter)
