"""The parts of the declaration of an HTTP operation. Handlers carry their declarations (libs/http/operations.py)."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, Field

from contracts.base import ClientId, PublicId
from contracts.operators import Permission
from contracts.resource_owners import Username

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
YAML = "application/yaml"
ANY_METHOD = "*"
"""The method of an operation that accepts every method."""


class Service(enum.StrEnum):
    """The process that serves an operation; each has its own OpenAPI document."""

    AUTHORIZATION = "authorization"
    TOKEN = "token"  # noqa: S105 - the service's name
    REVOCATION = "revocation"
    NOTIFIER = "notifier"
    MANAGEMENT = "management"
    GATEWAY = "gateway"


class Caller(enum.Enum):
    """Who may call an operation, and so which credentials it takes."""

    ANYBODY = "anybody"
    CLIENT = "client"
    """A client app: HTTP Basic, or `client_id` and `client_secret` in the body (RFC 6749 §2.3.1)."""
    OPERATOR = "operator"
    """The holder of an operator key with the operation's permission."""
    CLIENT_OR_OPERATOR = "client or operator"
    """Either; an operator needs the operation's permission."""
    TOKEN_HOLDER = "token holder"  # noqa: S105 - a role
    """The holder of an access token of the API in question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Query or header parameters: the fields of a model, by their aliases."""

    model: type[BaseModel]
    names: tuple[str, ...] = ()
    """Only these fields of the model; empty: all."""
    required: tuple[str, ...] = ()
    location: str = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBody:
    """The body that an operation takes."""

    model: type[BaseModel] | None = None
    """None: a JSON object in a format that is not ours, such as an API definition."""
    media_types: tuple[str, ...] = (JSON,)
    fields: tuple[str, ...] = ()
    """Fields that are required although the model has defaults for them: the handler's error for a missing one is
    better than the model's."""
    optional: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSpec:
    """One response of an operation."""

    description: str
    models: tuple[type[BaseModel], ...] = ()
    """The body is one of these; empty: an object in a format that is not ours, or text."""
    media_type: str | None = JSON
    """None: no body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that clients use, with a description each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path."""

    method: str
    path: str
    """An OpenAPI path template. A request may add a slash at the end."""
    name: str
    """The OpenAPI `operationId`: unique over all services, in camel case."""
    tag: str
    summary: str
    description: str = ""
    caller: Caller
    permission: Permission | None = None
    """The permission that an operator needs."""
    parameters: Parameters | None = None
    body: RequestBody | None = None
    responses: Mapping[int, ResponseSpec]
    patterns: Mapping[str, str] = field(default_factory=dict)
    """Regular expressions of path parameters that match anything but one whole path segment."""
    supports_head: bool = False
    """HEAD is routed to the handler, too."""
    cross_origin: bool = False
    """Scripts of the origins that the API's definition names may call it; a preflight operation goes with it."""
    service: Service | None = None
    """Set where the operations of all services are collected; None: every service has this operation."""


PATH_PARAMETERS: Mapping[str, tuple[Any, str]] = {
    "api_ref": (
        Annotated[str, Field(min_length=1)],
        "The API: its listen path without the outer slashes (it may contain slashes), or its id.",
    ),
    "api_id": (PublicId, "The id of the API."),
    "client_id": (ClientId, "The id of the client app."),
    "policy_id": (PublicId, "The id of the policy."),
    "username": (Username, "The name of the resource owner."),
    "grant_id": (PublicId, "The id of the grant."),
    "subject": (
        Annotated[str, Field(min_length=1, max_length=256)],
        "The user, exactly as the identity server named it, percent-encoded: `/` as `%2F`, for example.",
    ),
    "operator_id": (PublicId, "The id of the operator."),
    "delivery_id": (PublicId, "The id of the delivery, which is the id of the event that it delivers."),
    "token": (Annotated[str, Field(min_length=1)], "The token. It is not logged."),
    "uri": (Annotated[str, Field(min_length=1)], "The path of the call to check, without its leading slash."),
}
"""Every path parameter: its type and its description."""
