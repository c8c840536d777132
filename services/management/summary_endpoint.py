"""GET /api/analytics/summary: usage over time, the latest changes and the worst weaknesses, in one response."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiohttp import web

from contracts.audit_log import AuditLogQuery
from contracts.config_lint import LintReport
from contracts.operations import Parameters, ResponseSpec
from contracts.operators import Permission
from contracts.summary import Summary
from contracts.usage import UsageOverTimeQuery, UsagePeriod, UsageQuery
from libs.http.operations import operator_of, operator_operation
from libs.store.audit_log import AuditLog
from libs.store.usage import Usage, hour_of
from services.management.analytics import span, usage_query
from services.management.config_lint import ConfigLintEndpoint
from services.management.success_responses import shown

CHANGES = 8
FINDINGS = 5
CLIENTS = 10
"""Client apps whose usage is listed. The busiest of many could not be found without reading the usage of all."""
LINT_WITHIN = 2.0
"""Seconds for which the response waits for the check of the records."""
LINT_AGE = timedelta(minutes=15)
"""How old the findings may be, so that the response seldom waits for them."""


@dataclass(frozen=True, slots=True)
class SummaryEndpoint:
    """What an operator looks at first. Reads what the endpoints of its parts read, and counts nothing itself."""

    usage: Usage
    audit_log: AuditLog
    lint: ConfigLintEndpoint
    now: Callable[[], datetime]

    @operator_operation(
        "GET",
        "/api/analytics/summary",
        "getSummary",
        Permission.READ,
        tag="Analytics",
        summary="Get what happened lately",
        description="Usage over time, and of each client app if they are few, the latest changes of the audit log and, "
        "with the permission `admin`, the most severe weaknesses of the records: what the console shows first.",
        parameters=Parameters(model=UsageOverTimeQuery),
        response=ResponseSpec(description="The summary.", models=(Summary,)),
        errors=(400,),
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /api/analytics/summary?api_id=…&from=…&to=…&per=…"""
        query = usage_query(request, UsageOverTimeQuery)
        since, until = span(query.since, query.until, self.now())
        each = UsageQuery(api_id=query.api_id, per=UsagePeriod.TOTAL, limit=CLIENTS)
        usage, clients, (changes, _), weaknesses = await asyncio.gather(
            self.usage.over_time(query, hour_of(since), until),
            self.usage.sums(each, hour_of(since), until),
            self.audit_log.page(AuditLogQuery(limit=CHANGES)),
            self._weaknesses(request),
        )
        return shown(
            {
                "usage": usage.model_dump(mode="json", by_alias=True),
                **({"clients": [row.model_dump(mode="json") for row in clients.clients]} if not clients.next else {}),
                "changes": [entry.model_dump(mode="json", exclude_none=True) for entry in changes],
                **({"weaknesses": weaknesses.model_dump(mode="json")} if weaknesses else {}),
            }
        )

    async def _weaknesses(self, request: web.Request) -> LintReport | None:
        if Permission.ADMIN not in operator_of(request).permissions:  # findings tell of operators, too
            return None
        try:
            async with asyncio.timeout(LINT_WITHIN):
                return await self.lint.report(FINDINGS, LINT_AGE)
        except TimeoutError:
            return None
