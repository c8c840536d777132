"""Headers with which a reverse proxy asks the gateway whether a call may pass (forward authentication)."""

from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest


class ForwardedCall(AdminRequest):
    """The headers in which a reverse proxy names the call that it asks about; one of the two URIs is needed,
    unless the question is the call itself.
    """

    forwarded_uri: Annotated[str | None, Field(alias="X-Forwarded-Uri")] = None
    """Path and query of the call (Traefik)."""
    original_uri: Annotated[str | None, Field(alias="X-Original-URI")] = None
    """Path and query of the call (nginx)."""
    forwarded_method: Annotated[str | None, Field(alias="X-Forwarded-Method")] = None
    """The call's method (Traefik); default: GET."""
    original_method: Annotated[str | None, Field(alias="X-Original-Method")] = None
    """The call's method (nginx)."""


class CallToVerify(ForwardedCall):
    """The same, and the headers in which the proxy says who sent the call, for APIs whose definition needs that."""

    forwarded_host: Annotated[str | None, Field(alias="X-Forwarded-Host")] = None
    """The host of the call, for APIs with a custom domain; default: the `Host` of this request."""
    forwarded_for: Annotated[str | None, Field(alias="X-Forwarded-For")] = None
    """The caller's address, for APIs with IP lists; used only if it comes from a trusted proxy."""
    original_content_length: Annotated[str | None, Field(alias="X-Original-Content-Length")] = None
    """Size of the call's body in bytes, for APIs that limit it; default: not checked."""
