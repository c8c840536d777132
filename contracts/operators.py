"""Operators: the users of the management API, and their permissions."""

import enum
from datetime import timedelta
from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest, Contract, Moment, Name, NewName, PublicId, Record, Response, Seconds

BOOTSTRAP_OPERATOR_ID = "bootstrap"
"""The operator whose key is a setting of the management service."""


class Permission(enum.StrEnum):
    """A permission of an operator. `admin` includes all others and is required to manage operators."""

    READ = "read"
    WRITE = "write"
    AUTHORIZE = "authorize"
    REVOKE = "revoke"
    ADMIN = "admin"


class Operator(Record):
    """An operator. Only the SHA-256 of the key is stored; keys are long and random, so they need no slow hash."""

    operator_id: PublicId
    name: Name
    permissions: tuple[Permission, ...]
    key_digest: str
    key_created_at: Moment | None = None
    """None: when the operator was created, or not known."""
    expires_at: Moment | None = None
    """From then on the key is refused; None: never."""
    previous: "PreviousKey | None" = None
    """The key before the last rotation, while it is still accepted."""


class PreviousKey(Contract):
    """A key that was replaced."""

    digest: str
    expires_at: Moment


class Actor(Contract):
    """The operator who made a change, and the request with which it was made."""

    operator_id: str
    name: str
    """The operator's name at that time."""
    address: str | None = None
    """Client address of the request; taken from `X-Forwarded-For` only if a trusted proxy set it."""
    request_id: str | None = None
    """`X-Request-Id` of the response, which is also in the log lines of the request."""


class OperatorRegistration(AdminRequest):
    """POST /api/operators, and PUT /api/operators/{operator_id}, which replaces name and permissions."""

    name: Annotated[NewName, Field(min_length=1)]
    permissions: Annotated[tuple[Permission, ...], Field(min_length=1)]
    expires_at: Moment | None = None
    """When the key expires; null: never. PUT without it leaves it as it is, so that no key lives longer by accident."""


class KeyRotation(AdminRequest):
    """POST /api/operators/{operator_id}/rotate: the old key works for `overlap` more seconds (0: not at all)."""

    overlap: Annotated[Seconds, Field(ge=timedelta(0), le=timedelta(days=90))] = timedelta(0)
    expires_at: Moment | None = None
    """When the new key expires; null: never. By default it lives as long as the old one was meant to."""


class OperatorView(Response):
    """An operator in responses; `key` only in the response that created or rotated it."""

    operator_id: str
    name: str
    permissions: tuple[Permission, ...]
    created_at: Moment
    updated_at: Moment
    key_created_at: Moment
    expires_at: Moment | None = None
    """When the key expires; absent: never."""
    previous_expires_at: Moment | None = None
    """Until when the key before the last rotation is accepted, too."""
    last_change_at: Moment | None = None
    """When the operator last changed something, according to the audit log; only for a single operator. Reads are not
    kept."""
    key: str | None = None


class OperatorList(Response):
    """GET /api/operators."""

    operators: list[OperatorView]
    pages: int
    """Number of pages with 100 records each; 101 means more than 100."""
    next: str | None = None
    """Cursor of the next page, to pass as `after`; absent on the last page."""
