"""The first page: what happened, what waits, what was changed last."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

from aiohttp import web

from contracts.config_lint import LintReport
from contracts.operators import Permission
from contracts.reconciliation import ReconciliationReport
from contracts.summary import Summary
from libs.runtime import utc_now
from services.console.charts import client_shares, usage_charts
from services.console.record_places import page_of_entry, page_of_place
from services.console.service_calls import CallRefused
from services.console.service_health import look
from services.console.visits import Page, Visit, needs

LINT = "/api/config-lint"
SPANS = {"24h": (timedelta(days=1), "hour"), "30d": (timedelta(days=30), "day")}


async def overview(visit: Visit) -> web.StreamResponse:
    """GET /."""
    span = visit.query.get("span", "24h")
    length, per = SPANS.get(span, SPANS["24h"])
    since = (utc_now() - length).isoformat()
    summary, balance, services = await asyncio.gather(
        visit.api.get(Summary, "/api/analytics/summary", {"from": since, "per": per}),
        _balance(visit),
        look(visit.api.calls),
    )
    return visit.page(
        "overview.html",
        span=span if span in SPANS else "24h",
        total=summary.usage.total,
        charts=usage_charts(summary.usage, summary.usage.clients),
        clients=None if summary.clients is None else client_shares(summary.clients),
        changes=summary.changes,
        balance=balance,
        lag=_lag(balance),
        lint=summary.weaknesses,
        page_of=page_of_place,
        services=services,
        page_of_entry=page_of_entry,
    )


async def weaknesses(visit: Visit) -> web.StreamResponse:
    """GET /weaknesses: every finding of the configuration check."""
    lint = await visit.api.get(LintReport, LINT, {"limit": "500"})
    return visit.page("weaknesses.html", lint=lint, page_of=page_of_place)


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
