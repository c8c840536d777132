"""The first page: what happened, what waits, what was changed last."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

from aiohttp import web

from contracts.audit_log import AuditLogPage
from contracts.reconciliation import ReconciliationReport
from contracts.usage import UsageReport
from libs.runtime import utc_now
from services.console.charts import usage_charts
from services.console.service_calls import CallRefused
from services.console.visits import Page, Visit

SPANS = {"24h": (timedelta(days=1), "hour"), "30d": (timedelta(days=30), "day")}


async def overview(visit: Visit) -> web.StreamResponse:
    """GET /."""
    span = visit.query.get("span", "24h")
    length, per = SPANS.get(span, SPANS["24h"])
    since = (utc_now() - length).isoformat()
    usage, changes, balance = await asyncio.gather(
        visit.api.get(UsageReport, "/api/analytics/usage", {"from": since, "per": per}),
        visit.api.get(AuditLogPage, "/api/audit", {"limit": "8"}),
        _balance(visit),
    )
    return visit.page(
        "overview.html",
        span=span if span in SPANS else "24h",
        total=usage.total,
        charts=usage_charts(usage, usage.clients),
        changes=changes.entries,
        balance=balance,
    )


async def _balance(visit: Visit) -> ReconciliationReport | None:
    """Events and webhooks of the last day; None while the comparison cannot be made."""
    try:
        return await visit.api.get(ReconciliationReport, "/api/events/audit")
    except CallRefused as refused:
        if refused.status != 503:
            raise
        return None


PAGES: Mapping[str, Page] = {"GET /": overview}
