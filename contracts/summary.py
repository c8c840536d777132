"""What happened lately and what is weak, in one response: the first page of the console."""

from contracts.audit_log import AuditLogEntry
from contracts.base import Response
from contracts.config_lint import LintReport
from contracts.usage import ClientUsage, UsageReport


class Summary(Response):
    """GET /api/analytics/summary."""

    usage: UsageReport
    """As GET /api/analytics/usage returns it."""
    clients: list[ClientUsage] | None = None
    """The usage of each client app on each API in this time, to the hour. Absent if more than ten have any."""
    changes: list[AuditLogEntry]
    """The latest eight changes, latest first."""
    weaknesses: LintReport | None = None
    """The five most severe weaknesses of the records, as checked in the last quarter of an hour. Absent without the
    permission `admin`, and if the check takes more than two seconds; GET /api/config-lint waits for it."""
