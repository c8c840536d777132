"""A client as its library is configured, with the user's login and calls of the API."""

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
"""The client's registered scope."""
NARROW = "orders:read"
"""The scope that it requests."""
HEARD_WITHIN = 30.0
"""Seconds until the gateway knows of a revocation; it takes milliseconds."""
LOGIN_PAGE = "https://login.example.test/authorize"


@dataclass(frozen=True)
class RelyingParty:
    """A client of an API that requires PKCE from all clients."""

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
        """The URL to which the browser is finally redirected, after login and consent."""
        assert url.startswith(self.stack.url)
        sent_on = await self.stack.anybody("GET", url.removeprefix(self.stack.url))
        assert sent_on.status == 307, sent_on.raw
        assert sent_on.headers["Location"].startswith(f"{LOGIN_PAGE}?"), sent_on.headers["Location"]
        request = dict(parse_qsl(urlsplit(sent_on.headers["Location"]).query))
        path = f"/api/apis/oauth/{self.api_id}/authorize-client"
        response = await self.stack.operator("POST", path, data=request | {"subject": "alice"})
        assert response.status == 200, response.raw
        assert response.body["redirect_to"].startswith(f"{CALLBACK}?")
        return str(response.body["redirect_to"])

    async def opens(self, access_token: str) -> bool:
        """Whether the gateway admits a call with this token."""
        path = f"{urlsplit(self.issuer).path}/things/1"
        headers = {"X-Forwarded-Uri": path, "Authorization": f"Bearer {access_token}"}
        return (await self.stack.anybody("GET", "/verify", headers=headers)).status == 200

    async def shuts(self, access_token: str) -> bool:
        """Wait until every gateway refuses the token."""

        async def refused() -> bool:
            return not await self.opens(access_token)

        return await eventually(refused, HEARD_WITHIN)

    def issued(self, response: Mapping[str, Any], *, refreshable: bool) -> tuple[str, str]:
        """Access and refresh token in the library's parsed response."""
        # In plain text, to search the logs for; a library may have a mapping type of its own.
        self.stack.secrets.overhear(dict(response))
        assert str(response["token_type"]).lower() == "bearer"
        assert 0 < int(response["expires_in"]) <= 3600
        assert ("refresh_token" in response) is refreshable, list(response)
        return str(response["access_token"]), str(response.get("refresh_token") or "")

    def is_told_of(self, introspection: Mapping[str, Any]) -> bool:
        """Whether this is what the client may learn about its own active token (RFC 7662)."""
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
    """Register a client of a new API."""
    document = api_document(
        **{"x-tokenwire": {"pkceRequired": True, "scopes": SCOPE.split()}, f"{SCHEME}__notifications": {}}
    )
    api_id = await import_api(stack.operator, document)
    registration = {"redirect_uri": CALLBACK, "scope": SCOPE, "public": public}
    response = await stack.operator("POST", f"/api/apis/oauth/{api_id}", json=registration)
    assert response.status == 200, response.raw
    client_id, secret = response.body["client_id"], response.body.get("secret") or ""
    if secret:
        stack.secrets.add_basic(client_id, secret)
    path = document[EXTENSION]["server"]["listenPath"]["value"].rstrip("/")
    yield RelyingParty(stack, stack.url + path, api_id, client_id, secret)
