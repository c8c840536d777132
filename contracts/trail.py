"""The audit trail: who changed which record, when and from where. It is made of the events that the changes wrote."""

from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest, Moment, Name, PublicId, Response
from contracts.operators import Actor, Permission


class TrailEntry(Response):
    """One change of a record of management, or one thing that an operator ended or sent again."""

    id: str
    """The id of the event, which was committed in the same write as the change."""
    at: Moment
    action: str
    """The type of the event without the vendor prefix, such as `client.secret_rotated`."""
    subject: str
    """The id of the record; `action` says of what kind it is."""
    version: int
    """The event's sequence: the version that the change gave to the record, counted without gaps."""
    source: str
    """The service that made the change."""
    actor: Actor | None = None
    """None: no operator did; the client itself ended its tokens, or the service made the operator of its settings."""
    changed: tuple[str, ...] | None = None
    """Names of the record's fields that have another value than before."""
    permissions: tuple[Permission, ...] | None = None
    """What an operator's key opens after the change."""
    reason: str | None = None
    api_id: str | None = None
    client_id: str | None = None
    traceparent: str | None = None
    """The trace of the request."""


class TrailQuery(AdminRequest):
    """The parameters of GET /api/audit."""

    operator: PublicId | None = None
    """Only what the operator of this id did."""
    action: Annotated[str | None, Field(pattern=r"^[a-z_]+\.([a-z_]+|\*)$")] = None
    """An action, or all of one kind: `client.deleted`, `client.*`."""
    subject: Name | None = None
    """Only changes of the record of this id."""
    since: Annotated[Moment | None, Field(alias="from")] = None
    """Changes of this moment and later."""
    until: Annotated[Moment | None, Field(alias="to")] = None
    """Changes before this moment."""
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    after: PublicId | None = None
    """`next` of the page before."""


class TrailPage(Response):
    """GET /api/audit."""

    entries: list[TrailEntry]
    next: str | None = None
    """Pass as `after` to go on; None at the end."""
