"""Authorization server metadata (RFC 8414): one issuer an API."""

from contracts.base import Response


class ServerMetadata(Response):
    """What works on an API, and nothing else; the last five only where it offers the code grant."""

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    introspection_endpoint: str
    grant_types_supported: tuple[str, ...]
    response_types_supported: tuple[str, ...] = ()
    token_endpoint_auth_methods_supported: tuple[str, ...]
    revocation_endpoint_auth_methods_supported: tuple[str, ...]
    introspection_endpoint_auth_methods_supported: tuple[str, ...]
    authorization_endpoint: str | None = None
    response_modes_supported: tuple[str, ...] | None = None
    code_challenge_methods_supported: tuple[str, ...] | None = None
    authorization_response_iss_parameter_supported: bool | None = None
