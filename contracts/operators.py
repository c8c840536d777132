"""Operators: who may use the management API, and for what."""

import enum
from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest, Contract, Moment, Name, PublicId, Record, Response


class Permission(enum.StrEnum):
    """What an operator key opens. `admin` includes all others and is the only one that manages operators."""

    READ = "read"
    WRITE = "write"
    AUTHORIZE = "authorize"
    REVOKE = "revoke"
    ADMIN = "admin"


class Operator(Record):
    """The holder of an operator key; only the key's SHA-256 is kept (the key is generated and long)."""

    operator_id: PublicId
    name: Name
    permissions: tuple[Permission, ...]
    key_digest: str


class Actor(Contract):
    """The operator who made a change, and the request that made it."""

    operator_id: str
    name: str
    """As it was then."""
    address: str | None = None
    """Where the request came from, as far as the services can know it."""
    request_id: str | None = None
    """`X-Request-Id` of the answer, and of the lines in the logs."""


class OperatorRegistration(AdminRequest):
    """POST /api/operators, and PUT /api/operators/{operator_id}, which replaces both."""

    name: Annotated[Name, Field(min_length=1)]
    permissions: Annotated[tuple[Permission, ...], Field(min_length=1)]


class OperatorView(Response):
    """An operator as the API shows it; `key` only in the answer that created it."""

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
