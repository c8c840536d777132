"""The three formats of error bodies."""

from typing import Any, Literal

from contracts.base import Response


class OAuthErrorBody(Response):
    """RFC 6749 §5.2."""

    error: str
    error_description: str | None = None
    error_uri: str | None = None


class Envelope(Response):
    """The Dashboard API's format for errors, and for results that are not a record."""

    Status: Literal["OK", "Error"]
    Message: str
    Meta: Any = None
    ID: str | None = None
    """The public id of what was created or replaced."""


class GatewayErrorBody(Response):
    """The gateway's error format for calls that it refuses, as in Tyk."""

    error: str
