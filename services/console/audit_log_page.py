"""The audit log: who changed what. The smallest page: copy it for a new one (CONTRIBUTING.md)."""

from collections.abc import Mapping

from aiohttp import web

from contracts.audit_log import AuditLogPage
from services.console.visits import Page, Visit

_FILTERS = ("operator", "action", "subject", "from", "to", "after")


async def list_changes(visit: Visit) -> web.StreamResponse:
    """GET /audit?operator=…&action=…&subject=…&from=…&to=…"""
    query = {name: visit.query.get(name, "") for name in _FILTERS}
    found = await visit.api.get(AuditLogPage, "/api/audit", query)
    return visit.page("audit_log.html", rows=found.entries, next=found.next, filtering=any(query.values()))


PAGES: Mapping[str, Page] = {"GET /audit": list_changes}
