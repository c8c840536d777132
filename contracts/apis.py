"""An API, as it is read from a Tyk OAS or Tyk Classic definition (libs/tyk)."""

import enum
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from contracts.base import AdminRequest, Contract, Moment, Name, PublicId, Record, Response, Seconds, Text
from contracts.guards import Guards, Unsupported

RESERVED_PATHS = frozenset(
    {"api", "console", "oauth", "verify", "healthz", "readyz", "metrics", "hello", ".well-known", ".edge", "tyk"}
)
"""First path segments that Tokenwire itself uses; no API may listen there, except below `/api/` (MANAGEMENT_PATHS), and
none may have one as its id."""
MANAGEMENT_PATHS = frozenset(
    {
        "analytics",
        "apis",
        "audit",
        "clients",
        "config-lint",
        "events",
        "grants",
        "notifications",
        "operators",
        "portal",
        "users",
    }
)
"""Segments after `/api/` that belong to the management API."""
OWN_PATHS_OF_AN_API = frozenset(
    {
        "/oauth/authorize",
        "/oauth/token",
        "/oauth/revoke",
        "/oauth/revoke_all",
        "/tyk/oauth/authorize-client",
        "/tyk/rate-limits",
    }
)
"""Paths below an API's listen path that Tokenwire itself serves; the gateway never forwards them upstream."""


class GrantType(enum.StrEnum):
    """A value of `grant_type` (RFC 6749 §4)."""

    AUTHORIZATION_CODE = "authorization_code"
    CLIENT_CREDENTIALS = "client_credentials"
    PASSWORD = "password"  # noqa: S105 - the grant's name
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the grant's name


def _own_listen_path(path: str) -> str:
    segments = path.strip("/").split("/")
    if segments == [""]:
        return "/"
    if segments[0] == "api" and (len(segments) == 1 or segments[1] in MANAGEMENT_PATHS):
        raise ValueError(f"/{'/'.join(segments[:2])}/ is reserved")
    if segments[0] in RESERVED_PATHS - {"api"}:
        raise ValueError(f"/{segments[0]}/ is reserved")
    if any(segment in {"", ".", "..", "oauth"} for segment in segments):
        raise ValueError("a listen path has no empty, '.', '..' or 'oauth' segment")
    return f"/{'/'.join(segments)}/"


ListenPath = Annotated[
    str,
    StringConstraints(pattern=r"^(?:/|/?[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*/?)$", max_length=255),
    AfterValidator(_own_listen_path),
]
"""Where an API is reached: begins and ends with a slash, e.g. `/orders/`. `/`: every path that no other API has."""


class TokenLocation(Contract):
    """Where the gateway looks for the access token of a call; None: not there."""

    header: Name | None = "Authorization"
    query: Name | None = None
    cookie: Name | None = None


class Versioning(Contract):
    """How a call selects a version of the API."""

    location: Literal["header", "url-param", "url"]
    """A header, a parameter of the query, or the first segment after the listen path."""
    key: Name = ""
    """The name of the header or parameter."""
    default: Name = ""
    """The version of a call that does not name one."""
    names: tuple[Name, ...] = ()
    """All versions. With location `url`, a first segment that is not a version is part of the path."""


class RequestHeader(Contract):
    """A header to add to upstream requests; `$tyk_meta.<key>` in its value is replaced by the grant's metadata."""

    name: Name
    value: Text = ""


ANY = "*"
"""In the lists of a Cors: everything."""


class Cors(Contract):
    """CORS: which scripts of other origins may call the API, and what they may read of its responses."""

    allowed_origins: tuple[Text, ...] = ()
    """In lower case; `https://*.example.test` matches every subdomain, ANY every origin. Empty: none."""
    allowed_methods: tuple[Name, ...] = ()
    allowed_headers: tuple[Name, ...] = ()
    exposed_headers: tuple[Name, ...] = ()
    allow_credentials: bool = False
    """Whether requests may carry credentials; ignored if every origin is allowed."""
    max_age: int = 0
    """Seconds for which a browser may cache the response to a preflight."""
    options_passthrough: bool = False
    """The upstream handles preflights of proxied calls; Tokenwire's own endpoints are not affected."""


class Notifications(Contract):
    """The webhook that is sent when tokens are issued or refreshed."""

    on_key_change_url: Text
    shared_secret: SecretStr = SecretStr("")
    shared_secret_header: bool = True
    """Whether webhooks carry Tyk's `X-Tyk-Shared-Secret`, and a signature made with that secret."""


class SigningSecret(Contract):
    """A key that signs the API's webhooks (Standard Webhooks 1.0.0)."""

    secret: SecretStr
    """`whsec_` and the base64 of the key."""
    created_at: Moment
    expires_at: Moment | None = None
    """When a replaced one stops signing; None: it signs until it is replaced."""


class RefreshReuse(enum.StrEnum):
    """What happens if the previous refresh token is used again after its response was sent: the same tokens are
    returned once more (RECOVER), or the grant is revoked (STRICT). Public clients are always strict.
    """

    RECOVER = "recover"
    STRICT = "strict"


class OAuthSettings(Contract):
    """How the API issues tokens. Lifetimes are serialized as whole seconds."""

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
    anonymous_grants: bool = True
    """Whether codes may be issued without a `subject`."""
    refresh_reuse: RefreshReuse = RefreshReuse.RECOVER
    scopes: tuple[str, ...] = ()
    """The scopes that the definition declares; only these are granted (RFC 6749 §3.3)."""


class DefinitionFormat(enum.StrEnum):
    """The two formats of Tyk API definitions."""

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
    """Empty: calls cannot be forwarded (for example to another API of a Tyk gateway); tokens and /verify work."""
    further_upstream_urls: tuple[Text, ...] = ()
    """Calls go to these and `upstream_url` in turn; one occurs as often as its weight."""
    strip_authorization_data: bool = False
    token_location: TokenLocation = TokenLocation()
    versioning: Versioning | None = None
    """None: the API has no versions."""
    request_headers: tuple[RequestHeader, ...] = ()
    removed_request_headers: tuple[Name, ...] = ()
    method_override: bool = False
    """Whether `X-HTTP-Method-Override`, `X-HTTP-Method` and `X-Method-Override` are passed upstream; the method that
    they name must then also be allowed for the caller."""
    cors: Cors | None = None
    """None: no CORS; browsers hide responses from scripts of other origins."""
    oauth: OAuthSettings | None = None
    """None: the API issues no tokens."""
    auth_token: bool = False
    """True: the API asks for a token, but issues none; it accepts those of other APIs if a policy grants both."""
    signing_secrets: tuple[SigningSecret, ...] = ()
    """What signs the API's webhooks, the newest first. Not part of the definition. None for an API of an early version:
    its webhooks are signed with the shared secret alone."""
    guards: Guards | None = None
    """What the definition requires of a call besides a token; None: nothing."""
    unsupported: tuple[Unsupported, ...] = ()
    """Protections in the definition that are not enforced, which the importing operator accepted."""
    format: DefinitionFormat
    definition: SecretStr
    """The imported definition as JSON text. Contains secrets, such as the webhook's shared secret."""


class NamedPart(Contract):
    """A part of a definition, and what it comes to."""

    path: str
    """Its path in the definition, for example `proxy.target_list[1]`."""
    reason: str


class ImportReport(Contract):
    """What an import makes of the parts of a definition that protect the API, or that are not used."""

    enforced: tuple[str, ...] = ()
    """Paths of the protections, besides the token, that the gateway enforces."""
    unused: tuple[NamedPart, ...] = ()
    """Parts without effect, such as misspelt ones and features that are not offered."""
    refused: tuple[NamedPart, ...] = ()
    """Protections that are not enforced. They refuse the import unless it has `accept_unsupported=true`, or the
    definition lists them in `acceptedUnsupported`."""


class ApiReport(Response):
    """What the stored definition of an API comes to, in the same words as its import."""

    api_id: str
    warnings: tuple[str, ...]
    """One sentence for each part that has no effect, or another one than in Tyk; begins with its path."""
    enforced: tuple[str, ...]
    """Paths of the protections, besides the token, that the gateway enforces."""
    unused: tuple[NamedPart, ...]
    """Parts without effect."""
    refused: tuple[NamedPart, ...]
    """Protections that are not enforced, which the importing operator accepted."""


class ApiList(Response):
    """GET /api/apis and /api/apis/oas: API definitions in Tyk's format."""

    apis: list[dict[str, Any]]
    pages: int
    """Number of pages with 100 records each; 101 means more than 100."""
    next: str | None = None
    """Cursor of the next page, to pass as `after`; absent on the last page."""


class SigningSecretRotation(AdminRequest):
    """POST /api/apis/{api_id}/signing-secret/rotate: the old secret signs, too, for `overlap` more seconds."""

    overlap: Annotated[Seconds, Field(ge=timedelta(0), le=timedelta(days=90))] = timedelta(days=1)


class SigningSecretView(Response):
    """The secret that signs an API's webhooks."""

    secret: str
    """`whsec_` and base64, for any library of Standard Webhooks."""
    created_at: Moment
    previous_expires_at: Moment | None = None
    """Until when webhooks have a second signature, made with the secret before."""


class ImportQuery(AdminRequest):
    """How an API is imported."""

    accept_unsupported: bool = False
    """True: import the definition although it contains protections of Tyk's that Tokenwire does not enforce."""
    dry_run: bool = False
    """True: answer as the import would, and write nothing."""


class ApiDeletion(Response):
    """GET /api/apis/{api_id}/deletion: what is left of an API that was deleted, or would end if it were."""

    api_id: str
    exists: bool
    """Whether there is an API with this id: not deleted, or created again since."""
    deleted_at: Moment | None = None
    """Absent if the API exists, or never did, or was deleted more than a hundred days ago."""
    client_apps: int
    """Client apps that are registered on it. All counts end at 10001."""
    grants: int
    """Grants that no revocation has ended, expired ones included."""
    deliveries: int
    """Webhook deliveries that are pending; those of a deleted API are discarded when they are due."""
