"""Operators: the users of the management API, and their permissions."""

import enum
from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest, Contract, Moment, Name, NewName, PublicId, Record, Response


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
    """POST /api/operators, and PUT /api/operators/{operator_id}, which replaces both fields."""

    name: Annotated[NewName, Field(min_length=1)]
    permissions: Annotated[tuple[Permission, ...], Field(min_length=1)]


class OperatorView(Response):
    """An operator in responses; `key` only in the response that created the operator."""

    operator_id: str
    name: str
    permissions: tuple[Permission, ...]
    created_at: Moment
    updated_at: Moment
    key: str | None = None


class OperatorList(Response):
    """GET /api/operators."""

    operators: list[OperatorView]
    pages: int
    """Number of pages with 100 records each; 101 means more than 100."""
    next: str | None = None
    """Cursor of the next page, to pass as `after`; absent on the last page."""
