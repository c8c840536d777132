"""The errors of the OAuth endpoints (RFC 6749 §4.1.2.1, §5.2). Only libs/http/error_responses.py renders them."""

from typing import ClassVar

from libs.deadlines import RETRY_AFTER


class OAuthError(Exception):
    """A refused request. `description` is sent to the client's developer; `detail` is logged and never sent."""

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
    """The body exceeds the size limit."""

    status = 413


class BodyTooSlow(OAuthError):
    """The body did not arrive in time."""

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
    """The client is authenticated and not allowed to use this grant type or this operation."""

    code = "unauthorized_client"


class UnsupportedGrantType(OAuthError):
    """The API does not offer this grant type."""

    code = "unsupported_grant_type"


class UnsupportedResponseType(OAuthError):
    """The API does not offer this response type."""

    code = "unsupported_response_type"


class InvalidScope(OAuthError):
    """The scope is malformed, or exceeds what the client may have."""

    code = "invalid_scope"


class AccessDenied(OAuthError):
    """The operator or identity server is not allowed to request this."""

    code = "access_denied"
    status = 403


class UnknownApi(OAuthError):
    """The path names no active API that has OAuth."""

    code = "invalid_request"
    status = 404


class TemporarilyUnavailable(OAuthError):
    """MongoDB is unavailable, and nothing is half-done: repeat the request after `retry_after` seconds."""

    code = "temporarily_unavailable"
    status = 503
    retry_after: ClassVar[int] = RETRY_AFTER


class TooManyRequests(OAuthError):
    """A rate limit is reached: repeat the request after `retry_after` seconds.

    RFC 6749 §5.2 has no error code for this at the token endpoint, so the one of the authorization endpoint
    (§4.1.2.1) is used, which clients know. `invalid_client` or `invalid_grant` would say that the credentials are
    wrong, and they were not checked.
    """

    code = "temporarily_unavailable"
    status = 429

    def __init__(self, description: str, *, detail: str = "", retry_after: int = 1) -> None:
        super().__init__(description, detail=detail)
        self.retry_after = retry_after


class TooManyAttempts(TooManyRequests):
    """Too many failed logins or client authentications: protection against brute force (libs/throttle.py)."""


class TooManyTokens(TooManyRequests):
    """The client has used up its limit of issued tokens for now."""


class CannotRedirect(Exception):
    """An authorization request whose client or redirect URI is not verified: the error is shown here.

    RFC 6749 §4.1.2.1: the server "MUST NOT automatically redirect the user-agent to the invalid redirection URI".
    """

    def __init__(self, error: OAuthError) -> None:
        super().__init__(error.description)
        self.error = error


class Redirected(Exception):
    """An authorization request with verified client and redirect URI: the browser takes the error to the client."""

    def __init__(self, error: OAuthError, redirect_uri: str, state: str | None, issuer: str) -> None:
        super().__init__(error.description)
        self.error = error
        self.redirect_uri = redirect_uri
        self.state = state
        self.issuer = issuer
