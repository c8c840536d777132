"""Authorization server metadata (RFC 8414). Each API is an issuer of its own."""

from contracts.base import Response


class ServerMetadata(Response):
    """The metadata of one API. The last four fields only if it offers the authorization code grant."""

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    introspection_endpoint: str
    scopes_supported: tuple[str, ...] | None = None
    """The scopes that the API's definition declares; absent if it declares none."""
    grant_types_supported: tuple[str, ...]
    response_types_supported: tuple[str, ...] = ()
    token_endpoint_auth_methods_supported: tuple[str, ...]
    revocation_endpoint_auth_methods_supported: tuple[str, ...]
    introspection_endpoint_auth_methods_supported: tuple[str, ...]
    authorization_endpoint: str | None = None
    response_modes_supported: tuple[str, ...] | None = None
    code_challenge_methods_supported: tuple[str, ...] | None = None
    authorization_response_iss_parameter_supported: bool | None = None
