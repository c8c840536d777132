"""The first page: what happened, what waits, what was changed last."""

import asyncio
import re
from collections.abc import Mapping
from datetime import timedelta

from aiohttp import web

from contracts.audit_log import AuditLogPage
from contracts.config_lint import LintReport
from contracts.operators import Permission
from contracts.reconciliation import ReconciliationReport
from contracts.usage import UsageReport
from libs.runtime import utc_now
from services.console.charts import usage_charts
from services.console.service_calls import CallRefused, segment
from services.console.service_health import look
from services.console.visits import Page, Visit, needs

LINT = "/api/config-lint"
LINT_WITHIN = 2.0
"""Seconds that the overview waits for the check of the configuration, which goes on without it."""
LINT_AGE = "900"
"""Seconds that the findings on the overview may be old, so that it seldom waits for them."""
SHOWN = 5
"""Findings on the overview."""
SPANS = {"24h": (timedelta(days=1), "hour"), "30d": (timedelta(days=30), "day")}


async def overview(visit: Visit) -> web.StreamResponse:
    """GET /."""
    span = visit.query.get("span", "24h")
    length, per = SPANS.get(span, SPANS["24h"])
    since = (utc_now() - length).isoformat()
    usage, changes, balance, lint, services = await asyncio.gather(
        visit.api.get(UsageReport, "/api/analytics/usage", {"from": since, "per": per}),
        visit.api.get(AuditLogPage, "/api/audit", {"limit": "8"}),
        _balance(visit),
        _weaknesses(visit, SHOWN),
        look(visit.api.calls),
    )
    return visit.page(
        "overview.html",
        span=span if span in SPANS else "24h",
        total=usage.total,
        charts=usage_charts(usage, usage.clients),
        changes=changes.entries,
        balance=balance,
        lag=_lag(balance),
        lint=lint,
        page_of=page_of,
        services=services,
    )


async def weaknesses(visit: Visit) -> web.StreamResponse:
    """GET /weaknesses: every finding of the configuration check."""
    lint = await visit.api.get(LintReport, LINT, {"limit": "500"})
    return visit.page("weaknesses.html", lint=lint, page_of=page_of)


async def _weaknesses(visit: Visit, limit: int) -> LintReport | None:
    """The most severe weak records; None for those who may not see them, and while the check takes longer."""
    if not visit.may(Permission.ADMIN):
        return None
    try:
        async with asyncio.timeout(LINT_WITHIN):
            return await visit.api.get(LintReport, LINT, {"limit": str(limit), "max_age": LINT_AGE})
    except (TimeoutError, CallRefused):
        return None


_PLACES = (
    (re.compile(r"client (.+) on API (\S+)"), "/apis/{1}/clients/{0}"),
    (re.compile(r"client (.+)"), "/clients/find?client_id={0}"),
    (re.compile(r"API (\S+).*"), "/apis/{0}"),
    (re.compile(r"policy (\S+).*"), "/policies/{0}"),
    (re.compile(r"operator (\S+) .*"), "/operators/{0}"),
    (re.compile(r"resource owner (.+)"), "/users/{0}"),
)
"""The page of the record that a finding names."""


def page_of(place: str) -> str | None:
    """The path of the page of this place, in the console; None if it has none."""
    for pattern, path in _PLACES:
        if found := pattern.fullmatch(place):
            return path.format(*map(segment, found.groups()))
    return None


def _lag(balance: ReconciliationReport | None) -> timedelta | None:
    """For how long the oldest unpublished event has waited, in whole seconds; None if all are published."""
    if balance is None or balance.unpublished.oldest is None:
        return None
    return timedelta(seconds=max(0, int((utc_now() - balance.unpublished.oldest).total_seconds())))


async def _balance(visit: Visit) -> ReconciliationReport | None:
    """Events and webhooks of the last day; None while the comparison cannot be made."""
    try:
        return await visit.api.get(ReconciliationReport, "/api/events/audit")
    except CallRefused as refused:
        if refused.status != 503:
            raise
        return None


PAGES: Mapping[str, Page] = {"GET /": overview, "GET /weaknesses": needs(Permission.ADMIN, weaknesses)}
