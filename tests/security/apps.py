"""Who takes part: APIs, their client apps and users, and what each of them asks. All of it goes through the edge, or to
the one process that is put in its place.
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
from tests.builders import Answer, api_document, unique
from tests.eventually import eventually
from tests.unit.tyk_definitions import changed

VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
"""The pair of RFC 7636, appendix B."""
PKCE = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
HEARD_WITHIN = 5.0
"""Seconds: what is trusted from memory is trusted no longer (TOKENWIRE_CACHE_TTL), even where the bus is away."""


@dataclass(frozen=True)
class App:
    """A client app; without a secret it is a public one."""

    edge: Caller
    operator: Caller
    api_id: str
    path: str
    """The listen path without its last slash."""
    client_id: str
    secret: str = ""

    def at(self, caller: Caller) -> "App":
        """The same app, whose requests go there."""
        return replace(self, edge=self.edge.at(caller.url))

    def over(self, stack: Stack, service: str, times: int) -> list["App"]:
        """The same app so many times, whose requests go to the processes of the service by turns."""
        places = [stack.service(name) for name in stack.instances_of(service)]
        return [self.at(places[number % len(places)]) for number in range(times)]

    @property
    def basic(self) -> dict[str, str]:
        """The header of its credentials; empty for a public one."""
        return {"Authorization": basic(self.client_id, self.secret)} if self.secret else {}

    @property
    def named(self) -> dict[str, str]:
        """What a public one says of itself in a body."""
        return {} if self.secret else {"client_id": self.client_id}

    async def post(self, endpoint: str, form: Any, **request: Any) -> Answer:
        """The answer to this form under the listen path, with nothing that the test has not said."""
        return await self.edge("POST", f"{self.path}/oauth/{endpoint}", data=form, **request)

    async def token(self, **form: str) -> Answer:
        """The answer to a token request of this app."""
        return await self.post("token", self.named | form, headers=self.basic)

    async def authorize(self, **changes: str) -> Answer:
        """Where the browser is sent that comes with an authorization request of this app."""
        return await self.edge("GET", f"{self.path}/oauth/authorize?{urlencode(self.request(**changes))}")

    def request(self, **changes: str) -> dict[str, str]:
        """An authorization request of this app; what is changed to nothing is left out."""
        asked = {"response_type": "code", "client_id": self.client_id, "redirect_uri": CALLBACK, "state": "a state"}
        return {name: value for name, value in (asked | self._pkce | changes).items() if value}

    @property
    def _pkce(self) -> dict[str, str]:
        return {} if self.secret else PKCE

    async def authorized(self, **changes: str) -> Answer:
        """The answer to the identity server, which has logged `alice` in."""
        form = {**self.request(), "subject": "alice", **changes}
        form = {name: value for name, value in form.items() if value}
        return await self.operator("POST", f"/api/apis/oauth/{self.api_id}/authorize-client", data=form)

    async def code(self, **changes: str) -> str:
        """A new code."""
        answer = await self.authorized(**changes)
        assert answer.status == 200, answer.raw
        return str(answer.body["code"])

    async def exchange(self, code: str, **changes: str) -> Answer:
        """The answer to a code; an empty parameter is a missing one (RFC 6749 §3.2)."""
        verifier = {} if self.secret else {"code_verifier": VERIFIER}
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK} | verifier | changes
        return await self.token(**form)

    async def pair(self, **changes: str) -> Pair:
        """The tokens of a new grant of `alice`."""
        return issued(await self.exchange(await self.code(**changes)))

    async def refresh(self, refresh_token: str, **more: str) -> Answer:
        """The answer to a refresh token."""
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token, **more)

    async def refreshed(self, refresh_token: str, **more: str) -> Pair:
        """The next tokens."""
        return issued(await self.refresh(refresh_token, **more))

    async def credentials(self, **more: str) -> Answer:
        """The answer to client credentials."""
        return await self.token(grant_type="client_credentials", **more)

    async def password(self, user: "User", **changes: str) -> Answer:
        """The answer to a user's name and password."""
        form = {"grant_type": "password", "username": user.username, "password": user.password}
        return await self.token(**form | changes)

    async def revoke(self, token: str, **more: str) -> Answer:
        """The answer of RFC 7009."""
        return await self.post("revoke", self.named | {"token": token, **more}, headers=self.basic)

    async def introspect(self, token: str, **more: str) -> Answer:
        """The answer of RFC 7662."""
        return await self.edge("POST", "/oauth/introspect", data={"token": token, **more}, headers=self.basic)

    async def call(self, token: str, query: str = "", **headers: str) -> Answer:
        """What the gateway says of a call of this app's API with the token."""
        asked = {"X-Forwarded-Uri": f"{self.path}/things{query}", **headers}
        if token:
            asked["Authorization"] = f"Bearer {token}"
        return await self.edge("GET", "/verify", headers=asked)

    async def opens(self, token: str) -> bool:
        """Whether the token opens the API."""
        return (await self.call(token)).status == 200

    async def listed(self) -> list[dict[str, Any]]:
        """The live access tokens of this app, as an operator sees them."""
        answer = await self.operator("GET", f"/api/apis/oauth/{self.api_id}/{self.client_id}/tokens")
        assert answer.status == 200, answer.raw
        return list(answer.body)

    async def metadata(self) -> dict[str, Any]:
        """What RFC 8414 says of this app's API."""
        answer = await self.edge("GET", f"/.well-known/oauth-authorization-server{self.path}")
        assert answer.status == 200, answer.raw
        return dict(answer.body)

    async def managed(self, method: str, path: str = "", **document: Any) -> Answer:
        """What an operator does to this app; it is done."""
        place = f"/api/apis/oauth/{self.api_id}/{self.client_id}{path}"
        answer = await self.operator(method, place, **({"json": document} if document else {}))
        assert answer.status == 200, answer.raw
        return answer


@dataclass(frozen=True)
class User:
    """A resource owner of the password grant."""

    operator: Caller
    username: str
    password: str

    @classmethod
    async def new(cls, stack: Stack, **fields: Any) -> Self:
        """Registered."""
        user = cls(stack.operator, unique("user"), secrets.token_urlsafe(16))
        await user.managed("POST", password=user.password, **fields)
        return user

    async def managed(self, method: str, **document: Any) -> Answer:
        """What an operator does to this user; it is done."""
        place = f"/api/apis/keys/basic/{self.username}"
        answer = await self.operator(method, place, **({"json": document} if document else {}))
        assert answer.status == 200, answer.raw
        return answer


@dataclass
class Api:
    """An API, and its definition."""

    stack: Stack
    document: dict[str, Any]

    @property
    def api_id(self) -> str:
        return str(self.document[EXTENSION]["info"]["id"])

    @property
    def path(self) -> str:
        """The listen path without its last slash."""
        return str(self.document[EXTENSION]["server"]["listenPath"]["value"]).rstrip("/")

    async def app(self, quiet: Caller | None = None, **registration: Any) -> App:
        """A new client app, with the usual redirect URI unless the registration says another.

        What a quiet caller hears is not looked for in the logs.
        """
        edge = quiet or self.stack.anybody
        operator = edge.with_key(self.stack.operator_key)
        registration = {"redirect_uri": CALLBACK, **registration}
        if "redirect_uris" in registration:
            del registration["redirect_uri"]
        answer = await operator("POST", f"/api/apis/oauth/{self.api_id}", json=registration)
        assert answer.status == 200, answer.raw
        client_id, secret = answer.body["client_id"], answer.body.get("secret") or ""
        if secret:
            edge.secrets.add_basic(client_id, secret)
        return App(edge, operator, self.api_id, self.path, client_id, secret)

    async def change(self, path: str, value: Any) -> None:
        """The definition says this at the path from now on; other processes hear of it soon."""
        self.document = changed(self.document, path.replace("__", "/"), value)
        answer = await self.stack.operator("PUT", f"/api/apis/{self.api_id}", json=self.document)
        assert answer.status == 200, answer.raw


async def new_api(stack: Stack, tokenwire: Mapping[str, Any] | None = None, **changes: Any) -> Api:
    """An API with every grant; the changes are to its definition (`api_document`), the mapping its `x-tokenwire`."""
    api = Api(stack, api_document(**changes, **({"x-tokenwire": dict(tokenwire)} if tokenwire else {})))
    answer = await stack.operator("POST", "/api/apis", json=api.document)
    assert answer.status == 200, answer.raw
    return api


# What is looked for


def refused(answer: Answer, error: str, status: int = 400) -> bool:
    """Whether the answer is this error of RFC 6749 §5.2, whole: status, headers, keys, and no token."""
    assert (answer.status, answer.body.get("error")) == (status, error), (answer.status, answer.raw)
    assert set(answer.body) == {"error", "error_description"}, answer.raw
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers.get("WWW-Authenticate", "").startswith("Basic ") is (error == "invalid_client")
    return True


async def introspected(stack: Stack, token: str) -> list[dict[str, Any]]:
    """What each gateway says of the token to an operator, who learns of every token."""
    places = [stack.operator.at(stack.urls[name]) for name in stack.instances_of("gateway")]
    return [(await place("POST", "/oauth/introspect", data={"token": token})).body for place in places]


async def is_over(stack: Stack, app: App, *access_tokens: str) -> bool:
    """Whether these tokens are over for every process that is asked.

    A process that remembers a token hears of its end over the bus, within milliseconds.
    """
    places = app.over(stack, "gateway", len(stack.instances_of("gateway")))

    async def over() -> bool:
        for token in access_tokens:
            assert all(each == {"active": False} for each in await introspected(stack, token))
            assert not any([await place.opens(token) for place in places])
        return True

    return await eventually(over, HEARD_WITHIN)


async def is_alive(stack: Stack, app: App, *access_tokens: str) -> bool:
    """Whether these tokens open the API at every gateway."""
    places = app.over(stack, "gateway", len(stack.instances_of("gateway")))
    return all([await place.opens(token) for place in places for token in access_tokens])


async def has_ended(stack: Stack, app: App, pair: Pair) -> bool:
    """Whether nothing of the pair's grant works any more, at any process."""
    for place in app.over(stack, "token", len(stack.instances_of("token"))):
        assert refused(await place.refresh(pair.refresh), "invalid_grant")
    return await is_over(stack, app, pair.access)


def basic(client_id: str, secret: str) -> str:
    """The Authorization header of RFC 6749 §2.3.1: each part form-encoded first (appendix B)."""
    return unencoded_basic(quote_plus(client_id), quote_plus(secret))


def unencoded_basic(client_id: str, secret: str) -> str:
    """The same without the form-encoding."""
    return "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()


def query_of(url: str) -> dict[str, str]:
    """The parameters of a URL; none is there twice."""
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


async def passed(seconds: float) -> None:
    """So much later: other processes have no clock but the real one."""
    await asyncio.sleep(seconds)


async def together(*requests: Any) -> Sequence[Any]:
    """What came of these, which were made at once."""
    return await asyncio.gather(*requests)
