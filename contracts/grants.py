"""Grants (one authorization of one client on one API) and the requests and responses of the OAuth endpoints."""

import enum
from typing import Annotated, Any, Literal

from pydantic import Field, RootModel, SecretStr

from contracts.apis import GrantType
from contracts.base import ClientId, Contract, Moment, PublicId, Record, Request, Response, Scope
from contracts.error_bodies import OAuthErrorBody
from contracts.limits import QuotaStatus, RateLimit


class GrantState(enum.StrEnum):
    """Code issued, tokens issued, or revoked."""

    PENDING = "pending"
    ACTIVE = "active"
    REVOKED = "revoked"


class RevocationReason(enum.StrEnum):
    """Why a token or a grant was revoked."""

    CODE_REPLAY = "code_replay"
    """The authorization code was used twice (RFC 6749 §4.1.2)."""
    REFRESH_REUSE = "refresh_reuse"
    """A refresh token was used twice (RFC 9700 §4.14.2)."""
    CLIENT_REQUEST = "client_request"
    """By the client itself (RFC 7009)."""
    OPERATOR = "operator"
    USER_REVOKED = "user_revoked"
    """An operator ended all grants of the user."""
    REVOKE_ALL = "revoke_all"
    CLIENT_DELETED = "client_deleted"
    API_DELETED = "api_deleted"


class Code(Contract):
    """The authorization code of a grant. It is kept after its use, so that a replay is recognised."""

    digest: bytes
    expires_at: Moment
    used_at: Moment | None = None
    failures: int = 0
    """Number of wrong PKCE verifiers presented with it."""


class AccessToken(Contract):
    """The current access token of a grant."""

    digest: bytes
    scope: Scope | None = None
    issued_at: Moment
    expires_at: Moment
    revoked: bool = False


class RefreshToken(Contract):
    """The current refresh token of a grant."""

    digest: bytes
    expires_at: Moment


class UsedRefreshToken(Contract):
    """The previous refresh token, which was exchanged for the current one."""

    digest: bytes
    expires_at: Moment
    used_at: Moment
    shared: bool = False
    """True: it was sent in two responses (`IssuedResponse.recovered`), so two parties may have it, and a second use
    proves it."""


class IssuedResponse(Contract):
    """The response that carries the newest token pair, in exchange for a code or refresh token."""

    id: str
    """New each time the pair is sent again after `recovered`: it tells which response `written_at` is about."""
    at: Moment
    """When the response was made."""
    box: bytes | None = None
    """The pair, encrypted with a key derived from the presented code or refresh token, which is not in the database."""
    recoverable: bool = False
    """Whether the box is kept after the response was sent, to recover a response that got lost."""
    recovered: bool = False
    """Whether the pair was sent a second time although the first response had been sent."""
    written_at: Moment | None = None
    """When the response was written to the client's connection; None: it is not known to have been."""


class Grant(Contract):
    """One authorization of one client on one API: one document, changed by one atomic write at a time."""

    grant_id: str
    version: Annotated[int, Field(ge=1)] = 1
    """Number of writes so far."""
    sequence: Annotated[int, Field(ge=0)] = 0
    """Number of events so far: the `sequence` of the newest one."""
    state: GrantState
    api_id: PublicId
    client_id: ClientId
    grant_type: GrantType
    subject: str | None = None
    """The resource owner (RFC 7662 `sub`); None for client_credentials."""
    scope: Scope | None = None
    redirect_uri: str | None = None
    redirect_uri_requested: bool = False
    """True: the authorization request had it, so the token request must repeat it (RFC 6749 §4.1.3)."""
    code_challenge: str | None = None
    password_since: Moment | None = None
    """When the password that the grant was issued for was set; None for other grant types."""
    key_rules: dict[str, Any] | None = None
    generation: int = 0
    """0 while there is only the code, then the number of token pairs issued."""
    code: Code | None = None
    access: AccessToken | None = None
    refresh: RefreshToken | None = None
    used_refresh: UsedRefreshToken | None = None
    response: IssuedResponse | None = None
    """The response with the newest pair; None if no code or refresh token was exchanged for it."""
    created_at: Moment
    expires_at: Moment
    """No token of the grant is valid after this."""
    ended_at: Moment | None = None
    ended_reason: RevocationReason | None = None
    last_event: str = ""
    """The id of the newest version's event. It tells whether a write with unknown outcome has succeeded."""


class UserRevocation(Record):
    """Until when the grants that one user authorized are revoked. Kept although nobody may have this user's record."""

    subject: str
    revoked_before: Moment


class CodeRequest(Request):
    """POST …/authorize-client, sent by the identity server (RFC 6749 §4.1.1, RFC 7636 §4.3)."""

    response_type: str = ""
    response_mode: str | None = None
    client_id: str = ""
    redirect_uri: str | None = None
    scope: str | None = None
    state: str | None = None
    code_challenge: str | None = None
    code_challenge_method: str | None = None
    subject: Annotated[str, Field(max_length=256)] | None = None
    key_rules: str | None = None


class CodeResponse(Response):
    """The code, and the URL to which the identity server redirects the browser."""

    code: str
    redirect_to: str
    state: str | None = None


class CodeRefusal(OAuthErrorBody):
    """The error; if client and redirect URI are verified, also the URL that takes it to the client."""

    redirect_to: str | None = None
    state: str | None = None


class TokenRequest(Request):
    """POST …/oauth/token (RFC 6749 §4.1.3, §4.3.2, §4.4.2, §6; RFC 7636 §4.5)."""

    grant_type: str = ""
    code: str = ""
    redirect_uri: str | None = None
    code_verifier: str | None = None
    refresh_token: str = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    scope: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    secret: SecretStr | None = None
    """Alias of `client_secret`, as the documented examples send it."""


class TokenResponse(Response):
    """RFC 6749 §5.1."""

    access_token: str
    expires_in: int
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the type's name
    refresh_token: str | None = None
    scope: str | None = None


class RevocationRequest(Request):
    """RFC 7009 §2.1."""

    token: str = ""
    token_type_hint: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    secret: SecretStr | None = None


class RevocationResponse(Response):
    """The response to a client. It does not tell whether there was a token to revoke."""

    status: Literal["ok"] = "ok"
    message: str


class IssuedToken(Response):
    """A valid access token in an operator's list."""

    code: str
    """The token's public id; `…/revoke` accepts it as `token`."""
    expires: int
    """Unix seconds."""
    grant_id: str
    api_id: str
    """The API that issued it."""
    subject: str | None = None
    scope: str | None = None
    rate_limit: RateLimit | None = None
    """Absent if the grant has no rate limit; likewise `quota`."""
    quota: QuotaStatus | None = None


class IssuedTokenList(RootModel[list[IssuedToken]]):
    """GET …/tokens."""


class Pagination(Response):
    """The paging fields of Tyk's API."""

    page_num: int
    page_total: int
    page_size: int


class IssuedTokens(Response):
    """GET …/tokens?page=N."""

    Pagination: Pagination
    Tokens: list[IssuedToken]
