"""A client app as its library is configured, and what happens around it: the user's login, the calls of the API."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import CALLBACK, EXTENSION, SCHEME, import_api
from tests.builders import api_document
from tests.eventually import eventually

SCOPE = "orders:read orders:write"
"""What a client may ask for."""
NARROW = "orders:read"
"""What it asks for."""
HEARD_WITHIN = 5.0
"""Seconds until the gateway has heard that a token is dead; it takes milliseconds."""
LOGIN_PAGE = "https://login.example.test/authorize"


@dataclass(frozen=True)
class RelyingParty:
    """One client of an API that asks every client for PKCE."""

    stack: Stack = field(repr=False)
    issuer: str
    api_id: str
    client_id: str
    secret: str = field(repr=False)
    """Empty for a public client."""
    redirect_uri: str = CALLBACK

    @property
    def authorize_url(self) -> str:
        return f"{self.issuer}/oauth/authorize"

    @property
    def token_url(self) -> str:
        return f"{self.issuer}/oauth/token"

    @property
    def revoke_url(self) -> str:
        return f"{self.issuer}/oauth/revoke"

    @property
    def introspect_url(self) -> str:
        return f"{self.stack.url}/oauth/introspect"

    async def logged_in(self, url: str) -> str:
        """Where the browser that was sent to this URL ends up, after its user has logged in and agreed."""
        assert url.startswith(self.stack.url)
        sent_on = await self.stack.anybody("GET", url.removeprefix(self.stack.url))
        assert sent_on.status == 307, sent_on.raw
        assert sent_on.headers["Location"].startswith(f"{LOGIN_PAGE}?"), sent_on.headers["Location"]
        request = dict(parse_qsl(urlsplit(sent_on.headers["Location"]).query))
        path = f"/api/apis/oauth/{self.api_id}/authorize-client"
        answer = await self.stack.operator("POST", path, data=request | {"subject": "alice"})
        assert answer.status == 200, answer.raw
        assert answer.body["redirect_to"].startswith(f"{CALLBACK}?")
        return str(answer.body["redirect_to"])

    async def opens(self, access_token: str) -> bool:
        """Whether a call of the API with this token is let through."""
        path = f"{urlsplit(self.issuer).path}/things/1"
        headers = {"X-Forwarded-Uri": path, "Authorization": f"Bearer {access_token}"}
        return (await self.stack.anybody("GET", "/verify", headers=headers)).status == 200

    async def shuts(self, access_token: str) -> bool:
        """Whether the token opens nothing any more, as soon as every instance has heard of it."""

        async def refused() -> bool:
            return not await self.opens(access_token)

        return await eventually(refused, HEARD_WITHIN)

    def issued(self, response: Mapping[str, Any], *, refreshable: bool) -> tuple[str, str]:
        """Access and refresh token of what the library made of a token response."""
        # In clear, for the search of the logs; a library may have a mapping of its own.
        self.stack.secrets.overhear(dict(response))
        assert str(response["token_type"]).lower() == "bearer"
        assert 0 < int(response["expires_in"]) <= 3600
        assert ("refresh_token" in response) is refreshable, list(response)
        return str(response["access_token"]), str(response.get("refresh_token") or "")

    def is_told_of(self, introspection: Mapping[str, Any]) -> bool:
        """Whether this is what RFC 7662 lets this client know of an active token of its own."""
        told = dict(introspection)
        assert told["active"] is True, told
        assert (told["client_id"], told["iss"], told["scope"]) == (self.client_id, self.issuer, NARROW), told
        assert isinstance(told["exp"], int)
        return True

    def told_to_node(self) -> str:
        """The same as JSON, for a client in another language."""
        told = {
            "url": self.stack.url,
            "issuer": self.issuer,
            "clientId": self.client_id,
            "clientSecret": self.secret,
            "redirectUri": self.redirect_uri,
            "scope": NARROW,
            "apiId": self.api_id,
            "operatorKey": self.stack.operator_key,
        }
        return json.dumps(told)


@asynccontextmanager
async def registered(stack: Stack, *, public: bool = False) -> AsyncIterator[RelyingParty]:
    """A new client of a new API."""
    document = api_document(**{"x-tokenwire": {"pkceRequired": True}, f"{SCHEME}__notifications": {}})
    api_id = await import_api(stack.operator, document)
    registration = {"redirect_uri": CALLBACK, "scope": SCOPE, "public": public}
    answer = await stack.operator("POST", f"/api/apis/oauth/{api_id}", json=registration)
    assert answer.status == 200, answer.raw
    client_id, secret = answer.body["client_id"], answer.body.get("secret") or ""
    if secret:
        stack.secrets.add_basic(client_id, secret)
    path = document[EXTENSION]["server"]["listenPath"]["value"].rstrip("/")
    yield RelyingParty(stack, stack.url + path, api_id, client_id, secret)
