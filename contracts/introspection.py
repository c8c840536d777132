"""Token introspection (RFC 7662): the question, and the answer to whoever may know."""

import enum
from typing import Literal

from pydantic import SecretStr

from contracts.base import Request, Response


class TokenUse(enum.StrEnum):
    """What a token is good for."""

    ACCESS = "access"
    REFRESH = "refresh"
    """Never taken at a protected API."""


class IntrospectionRequest(Request):
    """RFC 7662 §2.1."""

    token: str = ""
    token_type_hint: str | None = None
    """No more than a hint: a token says itself what it is."""
    client_id: str | None = None
    client_secret: SecretStr | None = None
    secret: SecretStr | None = None


class Introspection(Response):
    """RFC 7662 §2.2: all of it where the token is active and the caller may know, else `active` alone."""

    active: bool
    token_use: TokenUse | None = None
    token_type: Literal["bearer"] | None = None
    client_id: str | None = None
    sub: str | None = None
    """Who authorized it; absent for client_credentials."""
    username: str | None = None
    """The same."""
    scope: str | None = None
    """Absent where it is not limited."""
    iss: str | None = None
    """The issuer of the API that issued it."""
    aud: tuple[str, ...] | None = None
    """The ids of the APIs that it opens, the issuing one first; absent for a refresh token, which opens none."""
    iat: int | None = None
    exp: int | None = None
    """Unix seconds, as `iat`."""
    jti: str | None = None
    """The access token's public id, under which it can be revoked."""
    grant_id: str | None = None
    """The same for every token of one grant."""
