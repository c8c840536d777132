"""An API as Tokenwire uses it: what the readers of Tyk OAS and Tyk Classic definitions produce."""

import enum
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, SecretStr, StringConstraints

from contracts.base import Contract, Name, PublicId, Record, Response, Seconds, Text

RESERVED_PATHS = frozenset({"api", "oauth", "verify", "healthz", "readyz", "metrics", "hello", ".well-known", "tyk"})
"""First path segments that belong to Tokenwire itself."""


class GrantType(enum.StrEnum):
    """The value of `grant_type` (RFC 6749 §4)."""

    AUTHORIZATION_CODE = "authorization_code"
    CLIENT_CREDENTIALS = "client_credentials"
    PASSWORD = "password"  # noqa: S105 - the grant's name
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the grant's name


def _own_listen_path(path: str) -> str:
    segments = path.strip("/").split("/")
    if segments[0] in RESERVED_PATHS:
        raise ValueError(f"/{segments[0]}/ is reserved")
    if any(segment in {"", ".", "..", "oauth"} for segment in segments):
        raise ValueError("a listen path has no empty, '.', '..' or 'oauth' segment")
    return f"/{'/'.join(segments)}/"


ListenPath = Annotated[
    str,
    StringConstraints(pattern=r"^/?[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*/?$", max_length=255),
    AfterValidator(_own_listen_path),
]
"""Where an API is reached: begins and ends with a slash, e.g. `/orders/`."""


class TokenLocation(Contract):
    """Where the protected API looks for the access token; None where it does not look."""

    header: Name | None = "Authorization"
    query: Name | None = None
    cookie: Name | None = None


class Versioning(Contract):
    """Where a call says which version of the API it is for."""

    location: Literal["header", "url-param", "url"]
    """A header, a parameter of the query, or the first segment after the listen path."""
    key: Name = ""
    """The name of the header or parameter."""
    default: Name = ""
    """What a call is for that does not say."""
    names: tuple[Name, ...] = ()
    """All versions; a first segment that is none of them is part of the path."""


class RequestHeader(Contract):
    """A header that the upstream gets; `$tyk_meta.<key>` in its value is the grant's metadata of that name."""

    name: Name
    value: Text = ""


ANY = "*"
"""In a list of a Cors: all."""


class Cors(Contract):
    """Which scripts of other origins may call the API, and what they may see of its answers."""

    allowed_origins: tuple[Text, ...] = ()
    """In lower case; `https://*.example.test` is every name below, ANY every origin. None named: none allowed."""
    allowed_methods: tuple[Name, ...] = ()
    allowed_headers: tuple[Name, ...] = ()
    exposed_headers: tuple[Name, ...] = ()
    allow_credentials: bool = False
    """Cookies and the like may come along; of no effect together with ANY origin."""
    max_age: int = 0
    """Seconds for which a browser need not ask again."""
    options_passthrough: bool = False
    """The upstream answers a browser that asks; of no effect on what Tokenwire itself answers."""


class Notifications(Contract):
    """Where the resource owner service hears of new tokens."""

    on_key_change_url: Text
    shared_secret: SecretStr = SecretStr("")


class RefreshReuse(enum.StrEnum):
    """What the immediately preceding refresh token gets, shortly after its use."""

    RECOVER = "recover"
    STRICT = "strict"


class OAuthSettings(Contract):
    """How this API issues tokens; lifetimes are whole seconds on the wire."""

    grant_types: tuple[GrantType, ...] = ()
    response_types: tuple[Literal["code"], ...] = ("code",)
    refresh_token: bool = False
    login_url: Text | None = None
    notifications: Notifications | None = None
    access_token_lifetime: Seconds = timedelta(hours=1)
    refresh_token_lifetime: Seconds = timedelta(days=14)
    grant_lifetime: Seconds = timedelta(days=90)
    code_lifetime: Seconds = timedelta(seconds=60)
    pkce_required: bool = False
    refresh_reuse: RefreshReuse = RefreshReuse.RECOVER


class DefinitionFormat(enum.StrEnum):
    """The two languages an API definition is written in."""

    OAS = "oas"
    CLASSIC = "classic"


class Api(Record):
    """One registered API."""

    api_id: PublicId
    name: Name
    org_id: Name = ""
    active: bool = True
    listen_path: ListenPath
    strip_listen_path: bool = True
    upstream_url: Text
    strip_authorization_data: bool = False
    token_location: TokenLocation = TokenLocation()
    versioning: Versioning | None = None
    """None: the API has no versions."""
    request_headers: tuple[RequestHeader, ...] = ()
    removed_request_headers: tuple[Name, ...] = ()
    cors: Cors | None = None
    """None: scripts of other origins read no answer."""
    oauth: OAuthSettings | None = None
    """None: this API issues no tokens."""
    auth_token: bool = False
    """True: accepts tokens that another API issued, where a policy grants both."""
    format: DefinitionFormat
    definition: SecretStr
    """The imported document as JSON text, exactly what a reader gets back; it holds the shared secret."""


class ApiList(Response):
    """GET /api/apis and /api/apis/oas: documents in Tyk's words."""

    apis: list[dict[str, Any]]
    pages: int
