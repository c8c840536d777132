"""GET /api/audit: the audit log, which says which operator changed which record, when and from where.

The entries are made from events (libs/audit_log.py), which are committed in the same write as the change they report.
"""

from dataclasses import dataclass

from aiohttp import web

from contracts.audit_log import AuditLogPage, AuditLogQuery
from contracts.operations import Parameters
from contracts.operators import Permission
from libs.http.error_responses import BadRequest
from libs.http.operations import operator_operation
from libs.http.pages import link_to_next
from libs.store.audit_log import AuditLog
from services.management.success_responses import document, list_of


@dataclass(frozen=True, slots=True)
class AuditLogEndpoint:
    """Needs only `read`, so that an auditor's key cannot change anything."""

    audit_log: AuditLog

    @operator_operation(
        "GET",
        "/api/audit",
        "listChanges",
        Permission.READ,
        tag="Operators",
        summary="List changes (audit log)",
        description="Which operator changed which record, when and from where, latest first. Entries are kept for "
        "400 days.",
        parameters=Parameters(model=AuditLogQuery),
        response=list_of(AuditLogPage),
        errors=(400,),
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /api/audit?operator=…&action=…&subject=…&from=…&to=…&limit=…&after=…"""
        if len(request.query) != len(set(request.query)):
            raise BadRequest("a parameter is repeated")
        entries, more = await self.audit_log.page(AuditLogQuery.model_validate(dict(request.query)))
        following = entries[-1].id if more else None
        return document(AuditLogPage(entries=list(entries), next=following), link_to_next(request, following))
