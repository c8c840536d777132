"""The three bodies of a refusal."""

from typing import Any, Literal

from contracts.base import Response


class OAuthErrorBody(Response):
    """RFC 6749 §5.2."""

    error: str
    error_description: str | None = None
    error_uri: str | None = None


class Envelope(Response):
    """The Dashboard API's answer to everything that is not a document."""

    Status: Literal["OK", "Error"]
    Message: str
    Meta: Any = None
    ID: str | None = None
    """The public id of what was created or replaced."""


class GatewayErrorBody(Response):
    """What the protected API answers when the token is refused."""

    error: str
