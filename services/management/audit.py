"""GET /api/events/audit: the balance sheet of events; and the same, of the last minutes, as metrics."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import structlog
from aiohttp import web
from pydantic import ValidationError

from contracts.audit import AuditAnswer, AuditQuery
from contracts.operators import Permission
from libs.access import Access
from libs.http.errors import BadRequest, first_fault
from libs.oauth.errors import TemporarilyUnavailable
from libs.runtime import both_slashes
from libs.telemetry import AUDIT_BALANCED, AUDIT_EVENTS, AUDIT_NOTIFICATIONS, AUDITED_AT
from services.management.answers import as_it_is
from services.management.balance import EARLIEST, Auditor

USUAL = timedelta(days=1)
"""How far back it goes where nobody says."""
ANSWER_WITHIN = 25.0
"""Seconds; whoever is in front waits for no more than 30."""
WATCHED = timedelta(minutes=15)
"""The metrics are about the records of this time."""
WATCH_EVERY = 60.0
WATCH_SHARE = 20
"""The metrics take one part in so many of the time, at most."""

log = structlog.get_logger("management")


class Audit:
    """For operators with `read`; one audit at a time in a process."""

    def __init__(self, access: Access, auditor: Auditor, now: Callable[[], datetime]) -> None:
        self._access = access
        self._auditor = auditor
        self._now = now
        self._turn = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Routes, with and without trailing slash, and the metrics while the application runs."""
        both_slashes(app, "GET", "/api/events/audit", self.answer)
        app.cleanup_ctx.append(self._watching)

    async def answer(self, request: web.Request) -> web.Response:
        """GET /api/events/audit?from=…&to=…"""
        await self._access.require(request, Permission.READ)
        since, until = self._bounds(request)
        try:
            async with asyncio.timeout(ANSWER_WITHIN), self._turn:
                found = await self._auditor.audit(since, until)
        except TimeoutError:
            raise BadRequest(
                "this is too much for one answer: a shorter time from `from` to `to` is expected"
            ) from None
        return as_it_is(found.model_dump_json(by_alias=True).encode())

    def _bounds(self, request: web.Request) -> tuple[datetime, datetime]:
        now = self._now()
        try:
            query = AuditQuery.model_validate(dict(request.query))
        except ValidationError as error:
            raise BadRequest(first_fault(error)) from None
        until = query.until or now
        since = query.since or until - USUAL
        if since < now - EARLIEST:
            raise BadRequest("from: nothing older than eight days can be audited")
        if since >= until:
            raise BadRequest("from: a moment before `to` is expected")
        return since, until

    async def watch(self) -> None:
        """The metrics say how it is now. Raises TemporarilyUnavailable."""
        now = self._now()
        async with self._turn:
            show(await self._auditor.audit(now - WATCHED, now), now)

    async def _watching(self, _: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch_forever(), name="audit")
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _watch_forever(self) -> None:
        loop = asyncio.get_running_loop()
        pause = WATCH_EVERY
        while True:
            await asyncio.sleep(pause)
            began = loop.time()
            try:
                await self.watch()
            except TemporarilyUnavailable as error:
                log.warning("events_not_audited", error=error.detail)
            took = loop.time() - began
            pause = min(max(WATCH_EVERY, WATCH_SHARE * took), WATCHED.total_seconds())


def show(found: AuditAnswer, now: datetime) -> None:
    """As metrics, and where it does not balance as a log line."""
    for collection, balance in found.collections.items():
        for state, count in balance.model_dump().items():
            AUDIT_EVENTS.labels(collection, state).set(count)
    for state, count in found.notifications.model_dump().items():
        AUDIT_NOTIFICATIONS.labels(state).set(count)
    AUDIT_BALANCED.set(found.balanced)
    AUDITED_AT.set(now.timestamp())
    if not found.balanced:
        log.error("events_do_not_balance", examples=[example.model_dump() for example in found.examples])
