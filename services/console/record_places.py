"""The page of the record that an entry of the audit log, or a finding, is about."""

import re

from contracts.audit_log import AuditLogEntry
from services.console.service_calls import segment

_FINDINGS = (
    (re.compile(r"client (.+) on API (\S+)"), "/apis/{1}/clients/{0}"),
    (re.compile(r"client (.+)"), "/clients/find?client_id={0}"),
    (re.compile(r"API (\S+).*"), "/apis/{0}"),
    (re.compile(r"policy (\S+).*"), "/policies/{0}"),
    (re.compile(r"operator (\S+) .*"), "/operators/{0}"),
    (re.compile(r"resource owner (.+)"), "/users/{0}"),
)
"""The page of the record that a finding names."""
_ENTRIES = {
    "api": "/apis/{0}",
    "policy": "/policies/{0}",
    "operator": "/operators/{0}",
    "resource_owner": "/users/{0}",
    "user": "/grants?subject={0}",
    "grant": "/grants/{0}",
    "token": "/grants/{0}",
    "notification": "/webhooks/{0}",
}
"""The page of the record that an entry is about, by the first word of its action."""


def page_of_place(place: str) -> str | None:
    """The path of the page of a finding's place, in the console; None if it has none."""
    for pattern, path in _FINDINGS:
        if found := pattern.fullmatch(place):
            return path.format(*map(segment, found.groups()))
    return None


def page_of_entry(entry: AuditLogEntry, *, admin: bool) -> str | None:
    """The path of the page of the record that was changed; None for one that was deleted, or that only admins see."""
    kind, _, change = entry.action.partition(".")
    if change == "deleted" or (kind == "operator" and not admin):
        return None
    if kind == "client":
        return f"/apis/{segment(entry.api_id)}/clients/{segment(entry.subject)}" if entry.api_id else None
    return _ENTRIES[kind].format(segment(entry.subject)) if kind in _ENTRIES else None
