"""The audit log: who changed which record, when and from where. Its entries are made from the changes' events."""

from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest, EventCursor, Moment, Name, PublicId, Response
from contracts.operators import Actor, Permission


class AuditLogEntry(Response):
    """One change of a managed record, or one token, grant or delivery that an operator revoked or sent again."""

    id: str
    """The id of the event that was committed in the same write as the change."""
    at: Moment
    action: str
    """Event type without the vendor prefix, for example `client.secret_rotated`."""
    subject: str
    """The id of the changed record; its kind is the first word of `action`."""
    version: int
    """The record's version after the change; counts without gaps."""
    source: str
    """The service that made the change."""
    actor: Actor | None = None
    """Absent if no operator made the change: the client revoked its own tokens, or a service created the operator of
    its settings."""
    changed: tuple[str, ...] | None = None
    """Names of the fields whose values changed."""
    permissions: tuple[Permission, ...] | None = None
    """Permissions of the operator after the change."""
    policy_ids: tuple[str, ...] | None = None
    """Policies of the client app or resource owner after the change."""
    reason: str | None = None
    api_id: str | None = None
    client_id: str | None = None
    traceparent: str | None = None
    """W3C trace context of the request."""


class AuditLogQuery(AdminRequest):
    """The parameters of GET /api/audit."""

    operator: PublicId | None = None
    """Only changes by the operator with this id."""
    action: Annotated[str | None, Field(pattern=r"^[a-z_]+\.([a-z_]+|\*)$")] = None
    """An action such as `client.deleted`, or all of one kind such as `client.*`."""
    subject: Name | None = None
    """Only changes of the record with this id."""
    since: Annotated[Moment | None, Field(alias="from")] = None
    """Changes at or after this time."""
    until: Annotated[Moment | None, Field(alias="to")] = None
    """Changes before this time."""
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    after: EventCursor | None = None
    """`next` of the previous page."""


class AuditLogPage(Response):
    """GET /api/audit."""

    entries: list[AuditLogEntry]
    next: str | None = None
    """Cursor of the next page, to pass as `after`; absent on the last page."""
