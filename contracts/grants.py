"""A grant — one authorization of one client on one API — and the bodies of the endpoints that change it."""

import enum
from typing import Annotated, Any, Literal

from pydantic import Field, RootModel, SecretStr

from contracts.apis import GrantType
from contracts.base import ClientId, Contract, Moment, PublicId, Request, Response, Scope
from contracts.errors import OAuthErrorBody
from contracts.limits import QuotaStanding, RateLimit


class GrantState(enum.StrEnum):
    """Where a grant is: a code issued, tokens live, or over."""

    PENDING = "pending"
    ACTIVE = "active"
    REVOKED = "revoked"


class RevocationReason(enum.StrEnum):
    """Why a token or a grant ended before its time."""

    CODE_REPLAY = "code_replay"
    REFRESH_REUSE = "refresh_reuse"
    CLIENT_REQUEST = "client_request"
    """RFC 7009."""
    OPERATOR = "operator"
    REVOKE_ALL = "revoke_all"
    CLIENT_DELETED = "client_deleted"
    API_DELETED = "api_deleted"


class Code(Contract):
    """The authorization code of a grant; it stays after its use, so that a replay is recognised."""

    digest: bytes
    expires_at: Moment
    used_at: Moment | None = None
    failures: int = 0
    """Wrong PKCE verifiers so far."""


class AccessToken(Contract):
    """The live access token of a grant."""

    digest: bytes
    scope: Scope | None = None
    issued_at: Moment
    expires_at: Moment
    revoked: bool = False


class RefreshToken(Contract):
    """The live refresh token of a grant."""

    digest: bytes
    expires_at: Moment


class UsedRefreshToken(Contract):
    """The refresh token used last, and its successor pair sealed under a key that only its holder can derive."""

    digest: bytes
    expires_at: Moment
    used_at: Moment
    successor: bytes | None = None
    """None where the API's `refresh_reuse` is strict."""


class Grant(Contract):
    """One authorization of one client on one API; one document, advanced by one atomic write at a time."""

    grant_id: str
    version: Annotated[int, Field(ge=1)] = 1
    """Counts the writes."""
    sequence: Annotated[int, Field(ge=0)] = 0
    """Counts the events; the newest one's `sequence`."""
    state: GrantState
    api_id: PublicId
    client_id: ClientId
    grant_type: GrantType
    subject: str | None = None
    """Who authorized it (RFC 7662 `sub`); None for client_credentials."""
    scope: Scope | None = None
    redirect_uri: str | None = None
    redirect_uri_requested: bool = False
    """True: the authorization request named it, so the token request must repeat it (RFC 6749 §4.1.3)."""
    code_challenge: str | None = None
    policy_ids: tuple[PublicId, ...] = ()
    """Policies of the resource owner; the client's own are read from the client at each use."""
    password_since: Moment | None = None
    """When the password that it was given for was set; None where it was given for none."""
    key_rules: dict[str, Any] | None = None
    generation: int = 0
    """0: the code; then the number of token pairs issued."""
    code: Code | None = None
    access: AccessToken | None = None
    refresh: RefreshToken | None = None
    used_refresh: UsedRefreshToken | None = None
    created_at: Moment
    expires_at: Moment
    """No refresh token outlives this."""
    ended_at: Moment | None = None
    ended_reason: RevocationReason | None = None
    last_event: str = ""
    """The id of the event that the newest version wrote; it proves whose write an ambiguous answer was about."""


class CodeRequest(Request):
    """POST …/authorize-client (RFC 6749 §4.1.1, RFC 7636 §4.3), asked by the identity server."""

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
    """What the identity server gets: where to send the browser."""

    code: str
    redirect_to: str
    state: str | None = None


class CodeRefusal(OAuthErrorBody):
    """Why there is no code; where client and redirect URI are proven, also where to send the browser with that."""

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
    """The answer to a client, which does not tell whether there was anything to revoke."""

    status: Literal["ok"] = "ok"
    message: str


class IssuedToken(Response):
    """A live access token as an operator sees it."""

    code: str
    """The token's public id; `…/revoke` accepts it as `token`."""
    expires: int
    """Unix seconds."""
    grant_id: str
    subject: str | None = None
    scope: str | None = None
    rate_limit: RateLimit | None = None
    """Absent, as the next, where nothing limits the grant so."""
    quota: QuotaStanding | None = None


class IssuedTokenList(RootModel[list[IssuedToken]]):
    """GET …/tokens."""


class Pagination(Response):
    """Tyk's page words."""

    page_num: int
    page_total: int
    page_size: int


class IssuedTokens(Response):
    """GET …/tokens?page=N."""

    Pagination: Pagination
    Tokens: list[IssuedToken]
