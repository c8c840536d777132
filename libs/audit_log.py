"""Which events become entries of the audit log, and what an entry keeps of its event.

The entries are stored by libs/store/audit_log.py and served at `/api/audit` by services/management/audit_log.py.
"""

from typing import Any

import orjson
from pydantic import ValidationError

from contracts.audit_log import AuditLogEntry
from contracts.events import EVENTS, InAuditLog
from libs.bus.port import Drop

MANAGED = frozenset(event.stem.partition(".")[0] for event in EVENTS if event.in_audit_log is InAuditLog.ALWAYS)
"""Kinds of record whose events are always logged, whether an operator or the service itself made the change."""
BY_OPERATORS = frozenset(event.stem for event in EVENTS if event.in_audit_log is InAuditLog.BY_OPERATOR)
"""Events that are logged only if an operator caused them."""
_FROM_DATA = ("actor", "changed", "permissions", "policy_ids", "reason", "api_id", "client_id")


def audit_log_entry(event_type: str, body: bytes) -> AuditLogEntry | None:
    """The entry for this event; None if events like this are not logged. Raises Drop for a malformed event.

    `event_type` has no vendor prefix; `body` is the event as JSON.
    """
    managed = event_type.partition(".")[0] in MANAGED
    if not managed and event_type not in BY_OPERATORS:
        return None
    event: dict[str, Any] = orjson.loads(body)
    data = event["data"]
    if not managed and not data.get("actor"):
        return None
    try:
        return AuditLogEntry.model_validate(
            {
                **{name: data.get(name) for name in _FROM_DATA},
                "id": event["id"],
                "at": event["time"],
                "action": event_type,
                "subject": event["subject"],
                "version": int(event["sequence"]),
                "source": event.get("source"),
                "traceparent": event.get("traceparent"),
            }
        )
    except ValidationError as error:
        raise Drop("not an event that this service knows") from error
