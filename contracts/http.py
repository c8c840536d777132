"""How an operation over HTTP is described: the words of the table in `contracts.operations`."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from contracts.operators import Permission

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
YAML = "application/yaml"
ANY_METHOD = "*"
"""The method of an operation that answers every method."""


class Service(enum.StrEnum):
    """Who answers."""

    AUTHORIZATION = "authorization"
    TOKEN = "token"  # noqa: S105 - the service's name
    REVOCATION = "revocation"
    NOTIFIER = "notifier"
    MANAGEMENT = "management"
    GATEWAY = "gateway"


class Caller(enum.Enum):
    """Who may ask."""

    ANYBODY = "anybody"
    CLIENT = "client"
    """A client app: HTTP Basic, or `client_id` and `client_secret` in the body (RFC 6749 §2.3.1)."""
    OPERATOR = "operator"
    """The holder of an operator key with the operation's permission."""
    CLIENT_OR_OPERATOR = "client or operator"
    """Either; an operator with the operation's permission."""
    TOKEN_HOLDER = "token holder"  # noqa: S105 - a role
    """Whoever brings the access token that the operation is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Query or header parameters: the fields of a model, by their aliases."""

    model: type[BaseModel]
    names: tuple[str, ...] = ()
    """Only these fields; none named: all."""
    required: tuple[str, ...] = ()
    place: str = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What an operation takes."""

    model: type[BaseModel] | None = None
    """None: an object whose fields are not ours."""
    media_types: tuple[str, ...] = (JSON,)
    fields: tuple[str, ...] = ()
    """Fields that must be there, although the model has defaults for them (its reader says better what is missing)."""
    optional: bool = False
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer."""

    about: str
    models: tuple[type[BaseModel], ...] = ()
    """One of these; none: an object whose fields are not ours, or text."""
    media_type: str | None = JSON
    """None: no body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers worth knowing, and what they say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path."""

    service: Service | None
    """None: every service answers this."""
    tag: str
    method: str
    path: str
    """As the router shows it; it answers with a slash at its end, too."""
    name: str
    """Unique, in camel case."""
    summary: str
    caller: Caller
    permission: Permission | None = None
    """What an operator needs."""
    parameters: Parameters | None = None
    body: Body | None = None
    answers: Mapping[int, Answer]
