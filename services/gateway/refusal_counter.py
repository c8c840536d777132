"""Counts refused calls by grant: in memory at each refusal, in MongoDB once a second. Admitted calls cost nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import structlog
from aiohttp import web

from libs.oauth.errors import TemporarilyUnavailable
from libs.store.refused_calls import Refused, RefusedCalls
from libs.store.usage import new_source
from libs.supervision import Supervisor, error_fields
from libs.telemetry import USAGE_LOST

WRITE_EVERY = 1.0
"""Seconds between writes; a process that is killed loses the counts of this time."""
LAST_WRITE_TIMEOUT = 3.0
MAX_GRANTS = 10_000
"""Grants whose counts may wait to be written; refusals of further ones are not counted for their grants."""

log = structlog.get_logger("gateway")


class RefusalCounter:
    """One per process. A refusal is counted exactly once, even if a write has to be repeated."""

    def __init__(self, refused_calls: RefusedCalls, now: Callable[[], datetime]) -> None:
        self._refused_calls = refused_calls
        self._now = now
        self._source, self._number = new_source(), 0
        self._fresh: dict[str, Counter[str]] = {}
        self._batch: Refused | None = None
        """The batch that is being written; it is repeated unchanged until MongoDB confirms it."""

    def count(self, grant_id: str, reason: str) -> None:
        """Count a refused call with a token of this grant, which exists: the token was issued for it."""
        counts = self._fresh.get(grant_id)
        if counts is None:
            if len(self._fresh) >= MAX_GRANTS:
                USAGE_LOST.inc()
                return
            counts = self._fresh[grant_id] = Counter()
        counts[reason] += 1

    async def write(self) -> None:
        """Write all counts. Raises TemporarilyUnavailable; the counts are kept for the next attempt."""
        while self._batch or self._fresh:
            if not self._batch:
                self._number += 1
                self._batch, self._fresh = self._fresh, {}
            await self._refused_calls.add(self._source, self._number, self._batch, self._now())
            self._batch = None

    def add_to(self, app: web.Application, supervisor: Supervisor) -> None:
        """Write every second while the application runs, and once more when it stops."""

        async def running(_: web.Application) -> AsyncIterator[None]:
            task = supervisor.every("refusals", WRITE_EVERY, self._write_or_wait, essential=False)
            yield
            await task.stop()
            try:
                async with asyncio.timeout(LAST_WRITE_TIMEOUT):
                    await self.write()
            except Exception as error:  # noqa: BLE001 - the process stops, and the other parts must still be closed
                log.warning("refusals_lost", grants=len(self._fresh), **error_fields(error))

        app.cleanup_ctx.append(running)

    async def _write_or_wait(self) -> None:
        try:
            await self.write()
        except TemporarilyUnavailable as error:
            log.warning("refusals_not_written", error=error.detail)


REFUSALS = web.AppKey("refusals", RefusalCounter)
