"""What can be wrong with an OAuth request (RFC 6749 §4.1.2.1, §5.2); rendered by libs/http only."""

from typing import ClassVar


class OAuthError(Exception):
    """A refusal. `description` is for the client's developer; `detail` is logged and never sent."""

    code: ClassVar[str] = "invalid_request"
    status: ClassVar[int] = 400

    def __init__(self, description: str, *, detail: str = "") -> None:
        super().__init__(description)
        self.description = description
        self.detail = detail


class InvalidRequest(OAuthError):
    """A parameter is missing, repeated or malformed."""

    code = "invalid_request"


class BodyTooLarge(InvalidRequest):
    """The body is over the limit."""

    status = 413


class BodyTooSlow(OAuthError):
    """The body did not come in time."""

    code = "invalid_request"
    status = 408


class InvalidClient(OAuthError):
    """Client authentication failed: unknown client, wrong secret, or none where one is needed."""

    code = "invalid_client"
    status = 401


class InvalidGrant(OAuthError):
    """The code, refresh token or password is not valid for this client."""

    code = "invalid_grant"


class UnauthorizedClient(OAuthError):
    """The client may not do this."""

    code = "unauthorized_client"


class UnsupportedGrantType(OAuthError):
    """The API does not offer this grant."""

    code = "unsupported_grant_type"


class UnsupportedResponseType(OAuthError):
    """The API does not offer this response type."""

    code = "unsupported_response_type"


class InvalidScope(OAuthError):
    """The scope is malformed, or more than may be granted."""

    code = "invalid_scope"


class AccessDenied(OAuthError):
    """The caller may not ask for this."""

    code = "access_denied"
    status = 403


class UnknownApi(OAuthError):
    """No active API with OAuth answers on this path."""

    code = "invalid_request"
    status = 404


class TemporarilyUnavailable(OAuthError):
    """A store is away; nothing half-done. Try again after `retry_after` seconds."""

    code = "temporarily_unavailable"
    status = 503
    retry_after: ClassVar[int] = 2


class TooManyAttempts(OAuthError):
    """Too many attempts to prove who one is have failed. Try again after `retry_after` seconds.

    RFC 6749 has no word for it at the token endpoint. This one it has for the authorization endpoint, and clients know
    it; `invalid_client` and `invalid_grant` would say that the credentials are wrong, which was not looked at.
    """

    code = "temporarily_unavailable"
    status = 429

    def __init__(self, description: str, *, detail: str = "", retry_after: int = 1) -> None:
        super().__init__(description, detail=detail)
        self.retry_after = retry_after


class CannotRedirect(Exception):
    """Client or redirect URI are not proven: whatever is wrong is answered here (RFC 6749 §4.1.2.1)."""

    def __init__(self, error: OAuthError) -> None:
        super().__init__(error.description)
        self.error = error


class Redirected(Exception):
    """Client and redirect URI are proven: the error goes to the client by way of the browser."""

    def __init__(self, error: OAuthError, redirect_uri: str, state: str | None, issuer: str) -> None:
        super().__init__(error.description)
        self.error = error
        self.redirect_uri = redirect_uri
        self.state = state
        self.issuer = issuer
