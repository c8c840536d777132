"""Token introspection (RFC 7662): request and response."""

import enum
from typing import Literal

from pydantic import SecretStr

from contracts.base import Request, Response


class TokenUse(enum.StrEnum):
    """Kind of token."""

    ACCESS = "access"
    REFRESH = "refresh"
    """Never accepted by a protected API."""


class IntrospectionRequest(Request):
    """RFC 7662 §2.1."""

    token: str = ""
    token_type_hint: str | None = None
    """Ignored: the prefix of a token tells its kind."""
    client_id: str | None = None
    client_secret: SecretStr | None = None
    secret: SecretStr | None = None


class Introspection(Response):
    """RFC 7662 §2.2. Only `active` if the token is not active, or the caller may not know about it."""

    active: bool
    token_use: TokenUse | None = None
    token_type: Literal["bearer"] | None = None
    client_id: str | None = None
    sub: str | None = None
    """The user who authorized the client; absent for client_credentials."""
    username: str | None = None
    """Same as `sub`."""
    scope: str | None = None
    """Absent if the scope is not limited."""
    iss: str | None = None
    """Issuer of the token."""
    aud: tuple[str, ...] | None = None
    """Ids of the APIs that accept the token, the issuing one first; absent for a refresh token."""
    iat: int | None = None
    exp: int | None = None
    """Unix seconds, like `iat`."""
    jti: str | None = None
    """Public id of the access token; it can be revoked by this id."""
    grant_id: str | None = None
    """Same for all tokens of one grant."""
