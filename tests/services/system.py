"""The services that issue, revoke and check tokens, in one process, with clients for their tests."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast
from urllib.parse import parse_qsl, quote_plus, urlsplit

import orjson
from aiohttp import web
from aiohttp.test_utils import TestClient
from yarl import URL

from contracts.apis import Api
from contracts.clients import Client
from contracts.grants import Grant
from contracts.operators import Permission
from contracts.resource_owners import ResourceOwner
from libs.bus.local import LocalBus
from libs.bus.port import Bus, Delivery, Exchange, Subscription
from libs.encryption import Opener
from libs.oauth.token_formats import TokenFormat
from libs.runtime import Deps, new_application, new_deps, utc_now
from libs.settings import Settings
from services.authorization import app as authorization
from services.authorization.settings import AuthorizationSettings
from services.gateway import app as gateway
from services.gateway.settings import GatewaySettings
from services.management import app as management
from services.management.settings import ManagementSettings
from services.notifier import app as notifier_app
from services.notifier.settings import NotifierSettings
from services.reconciliation import app as reconciliation
from services.revocation import app as revocation
from services.revocation.settings import RevocationSettings
from services.token import app as token
from services.token.settings import TokenSettings
from tests.builders import (
    CALLBACK,
    KEYS,
    NOTIFIER_KEY,
    NOTIFIER_PUBLIC_KEY,
    Caller,
    Response,
    Served,
    api_document,
    make_api,
    make_client,
    make_operator,
    make_resource_owner,
    running,
    settings,
)
from tests.deployment.edge import Edge
from tests.deployment.wiring import EVERY_SERVICE
from tests.services.management import Heard

PASSWORD = "correct horse battery staple"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
"""The example pair of RFC 7636 appendix B."""


class Clock:
    """A clock that stands still until a test advances it."""

    def __init__(self) -> None:
        self._now = utc_now()

    def __call__(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Advance the clock by this much."""
        self._now += timedelta(seconds=seconds)


class Notified:
    """Stands in for the notifier on the bus: decrypted notifications by event id."""

    def __init__(self, bus: Bus | None) -> None:
        self.bodies: dict[str, dict[str, str]] = {}
        if bus is not None:
            bus.subscribe(Subscription("notifier", Exchange.NOTIFY, ("notify",), self._hear))

    async def _hear(self, delivery: Delivery) -> None:
        command = orjson.loads(delivery.message.body)
        opened = Opener([NOTIFIER_KEY]).open(base64.b64decode(command["sealed"]))
        self.bodies[command["event"]["id"]] = orjson.loads(opened)


@dataclass(frozen=True)
class System:
    """The running services, with a clock that the test controls."""

    deps: Deps
    clock: Clock
    call: Caller
    operator: Caller
    """Has every permission."""
    heard: Heard
    notified: Notified

    async def party(self, document: dict[str, Any] | None = None, **client: Any) -> "Party":
        """Create an API and a client of it."""
        return await self.client_of(await make_api(self.deps, document), **client)

    async def client_of(self, api: Api, **client: Any) -> "Party":
        """Create a client of this API."""
        registered, secret = await make_client(self.deps, api, **client)
        return Party(self, api, registered, secret)

    async def user(self, **fields: Any) -> ResourceOwner:
        """Create a resource owner with the password PASSWORD."""
        return await make_resource_owner(self.deps, PASSWORD, **fields)

    def knows(self, party: "Party") -> "Party":
        """The same client, talking to this instance."""
        return replace(party, system=self)

    async def verify(self, uri: str, **headers: str) -> Response:
        """The gateway's response to a check of a GET of this URI."""
        return await self.call("GET", "/verify", headers={"X-Forwarded-Uri": uri, **headers})

    async def grant_of(self, value: str) -> Grant:
        """The stored grant of a code or token."""
        token_format: TokenFormat = self.deps.token_format
        presented = token_format.read_any(value)
        assert presented is not None, value
        grant = await self.deps.store.grants.read(presented.grant_id)
        assert grant is not None
        return grant


@dataclass(frozen=True)
class Party:
    """A client, with the requests of the client, its identity server and its API's callers."""

    system: System
    api: Api
    client: Client
    secret: str

    @property
    def id(self) -> str:
        """The client id."""
        return self.client.client_id

    @property
    def basic(self) -> dict[str, str]:
        """The HTTP Basic header; empty for a public client."""
        return {"Authorization": basic(self.id, self.secret)} if self.secret else {}

    @property
    def named(self) -> dict[str, str]:
        """The client_id parameter of a public client; empty for a confidential one."""
        return {} if self.secret else {"client_id": self.id}

    def at(self, path: str) -> str:
        """A path under the listen path."""
        return self.api.listen_path + path

    async def token(self, form: dict[str, str], **headers: str) -> Response:
        """Make a token request as the authenticated client."""
        return await self.system.call(
            "POST", self.at("oauth/token"), data=self.named | form, headers=self.basic | headers
        )

    async def authorize_client(self, **parameters: str) -> Response:
        """Request a code as the identity server; parameters not given have valid values."""
        form = {"response_type": "code", "client_id": self.id, "redirect_uri": CALLBACK, **parameters}
        form = {name: value for name, value in form.items() if value != ABSENT}
        path = f"/api/apis/oauth/{self.api.api_id}/authorize-client"
        return await self.system.operator("POST", path, data=form)

    async def code(self, **parameters: str) -> str:
        """Return a new code; for a public client with CHALLENGE."""
        pkce = {} if self.secret else {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
        response = await self.authorize_client(**pkce | parameters)
        assert response.status == 200, response.body
        return str(response.body["code"])

    async def exchange(self, code: str, **parameters: str) -> Response:
        """Exchange the code; parameters not given have valid values."""
        pkce = {} if self.secret else {"code_verifier": VERIFIER}
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, **pkce, **parameters}
        return await self.token({name: value for name, value in form.items() if value != ABSENT})

    async def refresh(self, refresh_token: str, **parameters: str) -> Response:
        """Use the refresh token."""
        return await self.token({"grant_type": "refresh_token", "refresh_token": refresh_token, **parameters})

    async def password(self, username: str, password: str = PASSWORD, **parameters: str) -> Response:
        """Use the password grant."""
        return await self.token({"grant_type": "password", "username": username, "password": password, **parameters})

    async def tokens(self, **parameters: str) -> "Tokens":
        """Return the first tokens of a new code grant."""
        return tokens_of(await self.exchange(await self.code(**parameters)))

    async def refreshed(self, refresh_token: str, **parameters: str) -> "Tokens":
        """Use the refresh token; return the new tokens."""
        return tokens_of(await self.refresh(refresh_token, **parameters))

    async def verify(self, access_token: str) -> Response:
        """The gateway's response to a check of a call of this client's API with this token."""
        return await self.system.verify(self.at("things"), Authorization=f"Bearer {access_token}")

    async def revoke(self, token: str, **parameters: str) -> Response:
        """Revoke as the authenticated client."""
        form = self.named | {"token": token, **parameters}
        return await self.system.call("POST", self.at("oauth/revoke"), data=form, headers=self.basic)


ABSENT = "\0absent"
"""As a parameter value: leave the parameter out."""


@dataclass(frozen=True)
class Tokens:
    """An access token and a refresh token."""

    access: str
    refresh: str
    body: dict[str, Any]


def tokens_of(response: Response) -> Tokens:
    """The tokens in a successful response."""
    assert response.status == 200, response.body
    return Tokens(response.body["access_token"], response.body.get("refresh_token", ""), response.body)


def refused(response: Response, error: str, status: int = 400) -> bool:
    """Whether the response is exactly this error of RFC 6749 §5.2: status, headers, keys, and no token."""
    assert (response.status, response.body.get("error")) == (status, error), (response.status, response.body)
    assert set(response.body) == {"error", "error_description"}, response.body
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Pragma"] == "no-cache"
    challenged = error == "invalid_client"
    assert response.headers.get("WWW-Authenticate", "").startswith("Basic ") is challenged
    return True


def basic(client_id: str, secret: str) -> str:
    """The Authorization header of RFC 6749 §2.3.1: both parts form-encoded."""
    return unencoded_basic(quote_plus(client_id), quote_plus(secret))


def unencoded_basic(client_id: str, secret: str) -> str:
    """The same header without form-encoding."""
    return "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()


def query_of(url: str) -> dict[str, str]:
    """The parameters of a URL; a repeated one fails the test."""
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


async def raw(caller: Caller, request: bytes) -> bytes:
    """Send these bytes, which no HTTP client would, and return the response's bytes."""
    reader, writer = await asyncio.open_connection(caller.http.host, caller.http.port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


@asynccontextmanager
async def open_system(
    mongodb_url: str,
    database_name: str = "",
    bus: Bus | None = None,
    clock: Clock | None = None,
    *,
    without: str = "",
    wait: bool = True,
    notifier: bool = True,
    delivering: bool = False,
    **own: Any,
) -> AsyncIterator[System]:
    """Five services on one application, with an in-process bus unless one is given.

    Waits until ready, unless told not to. Without `notifier` nothing consumes the notification queue; with `delivering`
    the real notifier does, as a sixth service.
    """
    if WAY.get() == THROUGH_THE_EDGE:
        own = {"trusted_proxies": "127.0.0.0/8", "edge_forwards": True, **own}
    values = {"notifier_public_key": NOTIFIER_PUBLIC_KEY, "keys": KEYS, **own}
    database, clock = database_name or f"tokenwire_test_{secrets.token_hex(6)}", clock or Clock()

    def load(kind: type[Any]) -> Any:
        fields = {field: value for field, value in values.items() if field in kind.model_fields}
        return settings(kind, mongodb_url, database, **fields)

    deps = new_deps(load(Settings), "all", bus=bus or LocalBus(), now=clock)
    app = new_application(load(Settings), deps, own.get("oauth_error_status"))
    if delivering:
        private = {"notifier_private_keys": base64.b64encode(NOTIFIER_KEY).decode(), "allow_private_destinations": True}
        values |= private
        notifier_app.install(app, load(NotifierSettings), deps)
    for name, install in INSTALLED.items():
        if name != without:
            install(app, load, deps)
    heard, notified = Heard(deps), Notified(deps.bus if notifier and not delivering else None)
    async with running(app) if wait else TestClient(Served(app)) as caller:
        call = caller if isinstance(caller, Caller) else Caller(caller)
        key = await make_operator(deps, Permission.ADMIN)
        with _way_to(call, load(GatewaySettings)) as way:
            yield System(deps, clock, way, way.with_key(key), heard, notified)


BUILT_IN, THROUGH_THE_EDGE = "built-in", "edge"
WAY: ContextVar[str] = ContextVar("way", default=BUILT_IN)
"""How systems that are opened are called: directly, so that the built-in proxy forwards calls, or through nginx."""


class EdgeClient:
    """What tests need of aiohttp's TestClient, through an edge in front of the same application."""

    def __init__(self, direct: TestClient[web.Request, web.Application], edge: Edge) -> None:
        self.app, self.session = direct.app, direct.session
        self.edge, self.host, self.port = edge, "127.0.0.1", edge.port

    def make_url(self, path: str | URL) -> URL:
        """The URL of this path at the edge."""
        return URL(self.edge.url + str(path), encoded=isinstance(path, URL))

    def request(self, method: str, path: str | URL, **more: Any) -> Any:
        """As TestClient's."""
        return self.session.request(method, self.make_url(path), **more)


@contextmanager
def _way_to(direct: Caller, gateway_settings: GatewaySettings) -> Iterator[Caller]:
    if WAY.get() == BUILT_IN:
        yield direct
        return
    timeouts = gateway_settings.upstream_connect_timeout, gateway_settings.upstream_timeout
    with Edge({name: [direct.http.port or 0] for name in EVERY_SERVICE}, upstream_timeouts=timeouts) as edge:
        yield replace(direct, http=cast("TestClient[web.Request, web.Application]", EdgeClient(direct.http, edge)))


def _install_management(app: web.Application, load: Any, deps: Deps) -> None:
    """Install management as its process does, with reconciliation."""
    management.install(app, load(ManagementSettings), deps)
    reconciliation.install(app, deps)


INSTALLED: dict[str, Callable[[web.Application, Any, Deps], None]] = {
    "revocation": lambda app, load, deps: revocation.install(app, load(RevocationSettings), deps),
    "authorization": lambda app, load, deps: authorization.install(app, load(AuthorizationSettings), deps),
    "token": lambda app, load, deps: token.install(app, load(TokenSettings), deps),
    "management": _install_management,
    "gateway": lambda app, load, deps: gateway.install(app, load(GatewaySettings), deps),
}
"""In the order of `python -m services`."""


def document(**changes: Any) -> dict[str, Any]:
    """The OAS test definition with changes (see `api_document`); Tokenwire's own settings by name."""
    own = {name: value for name, value in changes.items() if name in OWN_SETTINGS}
    if own:
        own = {"anonymousGrants": True, **own}  # most tests have no user
    rest = {name: value for name, value in changes.items() if name not in OWN_SETTINGS}
    return api_document(**rest, **({"x-tokenwire": own} if own else {}))


OWN_SETTINGS = frozenset(
    {
        "accessTokenLifetime",
        "refreshTokenLifetime",
        "grantLifetime",
        "codeLifetime",
        "pkceRequired",
        "refreshReuse",
        "methodOverride",
        "scopes",
        "anonymousGrants",
        "sharedSecretHeader",
    }
)
SCHEME = "x-tyk-api-gateway__server__authentication__securitySchemes__tykOAuth__"
"""Path prefix of an OAuth setting (see `api_document`)."""


def auth_token(**settings: Any) -> dict[str, Any]:
    """The definition of an API that accepts other APIs' tokens (Auth Token); `settings` go to its scheme."""
    scheme = {"enabled": True, "header": {"enabled": True, "name": "Authorization"}, **settings}
    return document(
        components__securitySchemes__tykOAuth={"type": "apiKey", "in": "header", "name": "Authorization"},
        **{SCHEME.removesuffix("__"): scheme},
    )


def keyless() -> dict[str, Any]:
    """The definition of an API that needs no token."""
    return document(**{"x-tyk-api-gateway__server__authentication__enabled": False})
