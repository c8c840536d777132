"""APIs, clients and users, and the requests they make. Every request goes through the edge, or to one process in its
place.
"""

import asyncio
import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

from tests.acceptance.caller import Caller
from tests.acceptance.stack import Stack
from tests.acceptance.tenants import CALLBACK, EXTENSION, Pair, issued
from tests.builders import Response, api_document, unique
from tests.eventually import eventually
from tests.unit.tyk_definitions import changed

VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
"""The example pair of RFC 7636 appendix B."""
PKCE = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
HEARD_WITHIN = 30.0
"""Seconds after which no process still trusts its cache (TOKENWIRE_CACHE_TTL), even without the bus."""


@dataclass(frozen=True)
class App:
    """A client; without a secret it is a public client."""

    edge: Caller
    operator: Caller
    api_id: str
    path: str
    """The listen path without its trailing slash."""
    client_id: str
    secret: str = ""

    def at(self, caller: Caller) -> "App":
        """The same client, with its requests going there."""
        return replace(self, edge=self.edge.at(caller.url))

    def over(self, stack: Stack, service: str, times: int) -> list["App"]:
        """This many copies of the client; their requests alternate between the processes of the service."""
        places = [stack.service(name) for name in stack.instances_of(service)]
        return [self.at(places[number % len(places)]) for number in range(times)]

    @property
    def basic(self) -> dict[str, str]:
        """The HTTP Basic header; empty for a public client."""
        return {"Authorization": basic(self.client_id, self.secret)} if self.secret else {}

    @property
    def named(self) -> dict[str, str]:
        """The client_id parameter of a public client; empty for others."""
        return {} if self.secret else {"client_id": self.client_id}

    async def post(self, endpoint: str, form: Any, **request: Any) -> Response:
        """POST this form under the listen path, with no headers or parameters added."""
        return await self.edge("POST", f"{self.path}/oauth/{endpoint}", data=form, **request)

    async def token(self, **form: str) -> Response:
        """Make a token request as this client."""
        return await self.post("token", self.named | form, headers=self.basic)

    async def authorize(self, **changes: str) -> Response:
        """Open the authorization endpoint as the browser; the redirect target or the error."""
        return await self.edge("GET", f"{self.path}/oauth/authorize?{urlencode(self.request(**changes))}")

    def request(self, **changes: str) -> dict[str, str]:
        """The parameters of an authorization request; those changed to None are left out."""
        asked = {"response_type": "code", "client_id": self.client_id, "redirect_uri": CALLBACK, "state": "a state"}
        return {name: value for name, value in (asked | self._pkce | changes).items() if value}

    @property
    def _pkce(self) -> dict[str, str]:
        return {} if self.secret else PKCE

    async def authorized(self, **changes: str) -> Response:
        """Request a code as the identity server would, for the logged-in user `alice`."""
        form = {**self.request(), "subject": "alice", **changes}
        form = {name: value for name, value in form.items() if value}
        return await self.operator("POST", f"/api/apis/oauth/{self.api_id}/authorize-client", data=form)

    async def code(self, **changes: str) -> str:
        """Return a new code."""
        response = await self.authorized(**changes)
        assert response.status == 200, response.raw
        return str(response.body["code"])

    async def exchange(self, code: str, **changes: str) -> Response:
        """Exchange the code. An empty parameter counts as missing (RFC 6749 §3.2)."""
        verifier = {} if self.secret else {"code_verifier": VERIFIER}
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK} | verifier | changes
        return await self.token(**form)

    async def pair(self, **changes: str) -> Pair:
        """Return the tokens of a new grant of `alice`."""
        return issued(await self.exchange(await self.code(**changes)))

    async def refresh(self, refresh_token: str, **more: str) -> Response:
        """Use the refresh token; return the response."""
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token, **more)

    async def refreshed(self, refresh_token: str, **more: str) -> Pair:
        """Use the refresh token; return the next tokens."""
        return issued(await self.refresh(refresh_token, **more))

    async def credentials(self, **more: str) -> Response:
        """Use the client_credentials grant."""
        return await self.token(grant_type="client_credentials", **more)

    async def password(self, user: "User", **changes: str) -> Response:
        """Use the password grant."""
        form = {"grant_type": "password", "username": user.username, "password": user.password}
        return await self.token(**form | changes)

    async def revoke(self, token: str, **more: str) -> Response:
        """Revoke the token (RFC 7009)."""
        return await self.post("revoke", self.named | {"token": token, **more}, headers=self.basic)

    async def introspect(self, token: str, **more: str) -> Response:
        """Introspect the token (RFC 7662)."""
        return await self.edge("POST", "/oauth/introspect", data={"token": token, **more}, headers=self.basic)

    async def call(self, token: str, query: str = "", **headers: str) -> Response:
        """Call this client's API through the gateway with the token."""
        asked = {"X-Forwarded-Uri": f"{self.path}/things{query}", **headers}
        if token:
            asked["Authorization"] = f"Bearer {token}"
        return await self.edge("GET", "/verify", headers=asked)

    async def opens(self, token: str) -> bool:
        """Whether the gateway admits the token."""
        return (await self.call(token)).status == 200

    async def listed(self) -> list[dict[str, Any]]:
        """The live access tokens of this client, as an operator sees them."""
        response = await self.operator("GET", f"/api/apis/oauth/{self.api_id}/{self.client_id}/tokens")
        assert response.status == 200, response.raw
        return list(response.body)

    async def metadata(self) -> dict[str, Any]:
        """The metadata of this client's API (RFC 8414)."""
        response = await self.edge("GET", f"/.well-known/oauth-authorization-server{self.path}")
        assert response.status == 200, response.raw
        return dict(response.body)

    async def managed(self, method: str, path: str = "", **document: Any) -> Response:
        """Change this client as an operator; must succeed."""
        place = f"/api/apis/oauth/{self.api_id}/{self.client_id}{path}"
        response = await self.operator(method, place, **({"json": document} if document else {}))
        assert response.status == 200, response.raw
        return response


@dataclass(frozen=True)
class User:
    """A resource owner for the password grant."""

    operator: Caller
    username: str
    password: str

    @classmethod
    async def new(cls, stack: Stack, **fields: Any) -> Self:
        """Register a user."""
        user = cls(stack.operator, unique("user"), secrets.token_urlsafe(16))
        await user.managed("POST", password=user.password, **fields)
        return user

    async def managed(self, method: str, **document: Any) -> Response:
        """Change this user as an operator; must succeed."""
        place = f"/api/apis/keys/basic/{self.username}"
        response = await self.operator(method, place, **({"json": document} if document else {}))
        assert response.status == 200, response.raw
        return response


@dataclass
class Api:
    """An API and its definition."""

    stack: Stack
    document: dict[str, Any]

    @property
    def api_id(self) -> str:
        return str(self.document[EXTENSION]["info"]["id"])

    @property
    def path(self) -> str:
        """The listen path without its trailing slash."""
        return str(self.document[EXTENSION]["server"]["listenPath"]["value"]).rstrip("/")

    async def app(self, quiet: Caller | None = None, **registration: Any) -> App:
        """Register a client, with the usual redirect URI unless another is given.

        With `quiet`, its secret is not added to those that the logs are scanned for.
        """
        edge = quiet or self.stack.anybody
        operator = edge.with_key(self.stack.operator_key)
        registration = {"redirect_uri": CALLBACK, **registration}
        if "redirect_uris" in registration:
            del registration["redirect_uri"]
        response = await operator("POST", f"/api/apis/oauth/{self.api_id}", json=registration)
        assert response.status == 200, response.raw
        client_id, secret = response.body["client_id"], response.body.get("secret") or ""
        if secret:
            edge.secrets.add_basic(client_id, secret)
        return App(edge, operator, self.api_id, self.path, client_id, secret)

    async def change(self, path: str, value: Any) -> None:
        """Change the definition at this path. Other processes hear of it shortly after."""
        self.document = changed(self.document, path.replace("__", "/"), value)
        response = await self.stack.operator("PUT", f"/api/apis/{self.api_id}", json=self.document)
        assert response.status == 200, response.raw


async def new_api(stack: Stack, tokenwire: Mapping[str, Any] | None = None, **changes: Any) -> Api:
    """Create an API with every grant type. `changes` apply to its definition (see `api_document`), the mapping to its
    `x-tokenwire`.
    """
    api = Api(stack, api_document(**changes, **({"x-tokenwire": dict(tokenwire)} if tokenwire else {})))
    response = await stack.operator("POST", "/api/apis", json=api.document)
    assert response.status == 200, response.raw
    return api


# Assertions


def refused(response: Response, error: str, status: int = 400) -> bool:
    """Whether the response is exactly this error of RFC 6749 §5.2: status, headers, keys, and no token."""
    assert (response.status, response.body.get("error")) == (status, error), (response.status, response.raw)
    assert set(response.body) == {"error", "error_description"}, response.raw
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers.get("WWW-Authenticate", "").startswith("Basic ") is (error == "invalid_client")
    return True


async def introspected(stack: Stack, token: str) -> list[dict[str, Any]]:
    """What each gateway's introspection says of the token, asked as an operator."""
    places = [stack.operator.at(stack.urls[name]) for name in stack.instances_of("gateway")]
    return [(await place("POST", "/oauth/introspect", data={"token": token})).body for place in places]


async def is_over(stack: Stack, app: App, *access_tokens: str) -> bool:
    """Whether every process refuses these tokens.

    A process with a cached token learns of the revocation over the bus, within milliseconds.
    """
    places = app.over(stack, "gateway", len(stack.instances_of("gateway")))

    async def over() -> bool:
        for token in access_tokens:
            assert all(each == {"active": False} for each in await introspected(stack, token))
            assert not any([await place.opens(token) for place in places])
        return True

    return await eventually(over, HEARD_WITHIN)


async def is_alive(stack: Stack, app: App, *access_tokens: str) -> bool:
    """Whether these tokens are accepted by every gateway."""
    places = app.over(stack, "gateway", len(stack.instances_of("gateway")))
    return all([await place.opens(token) for place in places for token in access_tokens])


async def has_ended(stack: Stack, app: App, pair: Pair) -> bool:
    """Whether no token of the pair's grant works any more at any process."""
    for place in app.over(stack, "token", len(stack.instances_of("token"))):
        assert refused(await place.refresh(pair.refresh), "invalid_grant")
    return await is_over(stack, app, pair.access)


def basic(client_id: str, secret: str) -> str:
    """The Authorization header of RFC 6749 §2.3.1: both parts form-encoded (appendix B)."""
    return unencoded_basic(quote_plus(client_id), quote_plus(secret))


def unencoded_basic(client_id: str, secret: str) -> str:
    """The same header without form-encoding."""
    return "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()


def query_of(url: str) -> dict[str, str]:
    """The parameters of a URL; a repeated one fails the test."""
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


async def passed(seconds: float) -> None:
    """Wait in real time, because other processes use the real clock."""
    await asyncio.sleep(seconds)


async def together(*requests: Any) -> Sequence[Any]:
    """Run these requests concurrently; return their results."""
    return await asyncio.gather(*requests)
