"""GET /api/events/audit: the reconciliation report; the same for the last minutes as metrics."""

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from aiohttp import web
from pydantic import ValidationError

from contracts.operations import Parameters, ResponseSpec
from contracts.operators import Permission
from contracts.reconciliation import ReconciliationQuery, ReconciliationReport
from libs.access import OperatorAuthenticator
from libs.http.error_responses import BadRequest, first_fault
from libs.http.operations import add_operations, operator_operation
from libs.http.responses import NO_STORE, json_bytes
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.reconciliation_results import WINDOW, ReconciliationResults, window_of
from libs.supervision import Supervisor
from libs.telemetry import RECONCILED_AT, RECONCILIATION_BALANCED, RECONCILIATION_EVENTS, RECONCILIATION_NOTIFICATIONS
from services.reconciliation.reconciler import EARLIEST, Reconciler

DEFAULT_LENGTH = timedelta(days=1)
"""Default length of the reported time."""
TIMEOUT = 25.0
"""Seconds. Below the 30 seconds after which the edge gives up on a response."""
METRICS_WINDOW = timedelta(minutes=15)
"""The metrics cover the records created in the last 15 minutes."""
INTERVAL = 60.0
MIN_PAUSE_FACTOR = 20
"""The periodic comparison uses at most 1/20 of the time of one process, however long it takes."""

LOOK_BACK = 2.0
"""Seconds per round for older windows, whose records may have had events since. So all eight days are compared again
and again: every quarter of an hour if little happens, every day with a million records per day.
"""

log = structlog.get_logger("reconciliation")


class ReconciliationEndpoint:
    """Returns the report, and compares periodically. A process makes one comparison at a time."""

    def __init__(
        self,
        access: OperatorAuthenticator,
        reconciler: Reconciler,
        results: ReconciliationResults,
        now: Callable[[], datetime],
    ) -> None:
        self._access = access
        self._reconciler = reconciler
        self._results = results
        self._leader_id = secrets.token_hex(8)
        self._now = now
        self._turn = asyncio.Lock()

    def add_to(self, app: web.Application, supervisor: Supervisor) -> None:
        """Add the operation, and compare periodically while the application runs."""
        add_operations(app, self, self._access.require)
        supervisor.start_with(app, lambda: supervisor.start("reconciliation", self._watch_forever, essential=False))

    @operator_operation(
        "GET",
        "/api/events/audit",
        "reconcileEvents",
        Permission.READ,
        tag="Events",
        summary="Reconcile events",
        description="Compares the events that records committed with those that the bus delivered and with the webhook "
        "deliveries, for records created in the given time. Reports what is missing, duplicated or unexpected.",
        parameters=Parameters(model=ReconciliationQuery),
        response=ResponseSpec(description="The comparison.", models=(ReconciliationReport,)),
        errors=(400,),
    )
    async def show_report(self, request: web.Request) -> web.Response:
        """GET /api/events/audit?from=…&to=…"""
        since, until, live = self._query(request)
        found = await (self._compare_now(since, until) if live else self._report(since, until))
        return json_bytes(found.model_dump_json(by_alias=True).encode(), headers=NO_STORE)

    async def _report(self, since: datetime, until: datetime) -> ReconciliationReport:
        """Compare now if there are few records; otherwise add up the stored results of the windows."""
        if await self._reconciler.is_small(since, until):
            return await self._reconciler.compare(since, until)
        return await self._reconciler.stored_report(since, until)

    async def _compare_now(self, since: datetime, until: datetime) -> ReconciliationReport:
        """Compare all records now. Raises BadRequest if that takes too long."""
        try:
            async with asyncio.timeout(TIMEOUT), self._turn:
                return await self._reconciler.compare(since, until)
        except TimeoutError:
            raise BadRequest(
                "the comparison takes too long: omit `live`, or choose a shorter time between `from` and `to`"
            ) from None

    def _query(self, request: web.Request) -> tuple[datetime, datetime, bool]:
        now = self._now()
        try:
            query = ReconciliationQuery.model_validate(dict(request.query))
        except ValidationError as error:
            raise BadRequest(first_fault(error)) from None
        until = query.until or now
        since = query.since or until - DEFAULT_LENGTH
        if since < now - EARLIEST:
            raise BadRequest("from: events are compared for eight days only")
        if since >= until:
            raise BadRequest("from: must be before `to`")
        return since, until, query.live

    async def watch(self) -> None:
        """Update the metrics. One process, the leader, compares the latest windows, and as time allows older ones.

        The other processes show what the leader has stored. Raises TemporarilyUnavailable.
        """
        now = self._now()
        first, after = window_of(now - METRICS_WINDOW), window_of(now) + WINDOW
        if await self._results.lead(self._leader_id, now):
            async with self._turn:
                for number in range((after - first) // WINDOW):
                    await self._compare_window(first + number * WINDOW)
                await self._compare_earlier_windows(first)
        found = await self._reconciler.stored_report(first, after)
        if found.as_of is not None:
            set_metrics(found, found.as_of)

    async def _compare_earlier_windows(self, before: datetime) -> None:
        """For LOOK_BACK seconds, compare older windows: first those never compared, then the longest ago."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LOOK_BACK
        first = window_of(before - EARLIEST + METRICS_WINDOW) + WINDOW
        checked = await self._results.checked(first, before)
        windows = [before - (number + 1) * WINDOW for number in range((before - first) // WINDOW)]
        for window in sorted(windows, key=lambda each: checked.get(each, first - EARLIEST)):
            if loop.time() >= until:
                return
            await self._compare_window(window)

    async def _compare_window(self, window: datetime) -> None:
        found = await self._reconciler.compare_window(window)
        await self._results.lead(self._leader_id, self._now())
        if found.examples:
            examples = [example.model_dump() for example in found.examples]
            log.error("events_do_not_balance", window=window.isoformat(), examples=examples)

    async def _watch_forever(self) -> None:
        loop = asyncio.get_running_loop()
        pause = INTERVAL
        while True:
            await asyncio.sleep(pause)
            began = loop.time()
            try:
                await self.watch()
            except TemporarilyUnavailable as error:
                log.warning("reconciliation_postponed", error=error.detail)
            took = loop.time() - began
            pause = min(max(INTERVAL, MIN_PAUSE_FACTOR * took), METRICS_WINDOW.total_seconds())


def set_metrics(found: ReconciliationReport, now: datetime) -> None:
    """Set the metrics, and log an error if events are missing, phantom or doubled."""
    for collection, balance in found.collections.items():
        for state, count in balance.model_dump().items():
            RECONCILIATION_EVENTS.labels(collection, state).set(count)
    for state, count in found.notifications.model_dump().items():
        RECONCILIATION_NOTIFICATIONS.labels(state).set(count)
    RECONCILIATION_BALANCED.set(found.balanced)
    RECONCILED_AT.set(now.timestamp())
    if not found.balanced:
        log.error(
            "events_do_not_balance",
            examples=[example.model_dump() for example in found.examples],
            refused=found.refused.model_dump(),
        )
