"""The audit log: who changed what. The smallest page: copy it for a new one (CONTRIBUTING.md)."""

from collections.abc import Mapping

from aiohttp import web

from contracts.audit_log import AuditLogPage
from services.console.record_places import page_of_entry
from services.console.service_calls import CallRefused
from services.console.visits import Page, Visit

_FILTERS = ("operator", "action", "subject", "from", "to", "after")


async def list_changes(visit: Visit) -> web.StreamResponse:
    """GET /audit?operator=…&action=…&subject=…&from=…&to=…"""
    query = visit.filters(*_FILTERS)
    try:
        found, problem = await visit.api.get(AuditLogPage, "/api/audit", query), ""
    except CallRefused as refused:
        if refused.status != 400:
            raise
        found, problem = AuditLogPage(entries=[]), refused.message
    return visit.page(
        "audit_log.html",
        400 if problem else 200,
        rows=found.entries,
        next=found.next,
        filtering=any(query.values()),
        problem_text=problem,
        page_of_entry=page_of_entry,
    )


PAGES: Mapping[str, Page] = {"GET /audit": list_changes}
