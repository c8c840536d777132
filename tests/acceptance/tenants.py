"""The API provider's side of a test: an API, a client and a user, created through the edge."""

import base64
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.acceptance.caller import Caller
from tests.builders import Response, api_document, unique

CALLBACK = "https://app.example.test/callback"
EXTENSION = "x-tyk-api-gateway"
SCHEME = f"{EXTENSION}__server__authentication__securitySchemes__tykOAuth"


def basic(client_id: str, secret: str) -> dict[str, str]:
    """The HTTP Basic header (RFC 7617)."""
    return {"Authorization": f"Basic {base64.b64encode(f'{client_id}:{secret}'.encode()).decode()}"}


@dataclass(frozen=True)
class Pair:
    """An access token and its refresh token, if any."""

    access: str
    refresh: str = ""


@dataclass
class Tenant:
    """An API with every grant type, a confidential client and a user. Requests go to the edge, or to `by`."""

    edge: Caller
    operator: Caller
    api_id: str
    path: str
    """The listen path without its trailing slash."""
    client_id: str
    secret: str
    username: str
    password: str

    async def token(self, *, by: Caller | None = None, secret: str | None = None, **form: str) -> Response:
        """POST /<listen-path>/oauth/token with the client's Basic credentials."""
        headers = basic(self.client_id, self.secret if secret is None else secret)
        return await (by or self.edge)("POST", f"{self.path}/oauth/token", data=form, headers=headers)

    async def client_credentials(self, **more: Any) -> Response:
        """An access token from client_credentials."""
        return await self.token(grant_type="client_credentials", **more)

    async def pair(self) -> Pair:
        """A new grant by password."""
        return issued(await self.token(grant_type="password", username=self.username, password=self.password))

    async def code(self) -> str:
        """A code for the user, as the identity server gets it."""
        form = {"response_type": "code", "client_id": self.client_id, "redirect_uri": CALLBACK, "subject": "alice"}
        response = await self.operator("POST", f"/api/apis/oauth/{self.api_id}/authorize-client", data=form)
        assert response.status == 200, response.raw
        return str(response.body["code"])

    async def exchanged(self, code: str) -> Response:
        """Exchange the code."""
        return await self.token(grant_type="authorization_code", code=code, redirect_uri=CALLBACK)

    async def refreshed(self, refresh_token: str, **more: Any) -> Response:
        """Use the refresh token."""
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token, **more)

    async def verified(self, access_token: str) -> Response:
        """The gateway's response to a forward-auth check with this token."""
        headers = {"X-Forwarded-Uri": f"{self.path}/things/1", "Authorization": f"Bearer {access_token}"}
        return await self.edge("GET", "/verify", headers=headers)

    async def listed(self) -> Response:
        """The client's live tokens, as an operator sees them."""
        return await self.operator("GET", f"/api/apis/oauth/{self.api_id}/{self.client_id}/tokens")


def issued(response: Response) -> Pair:
    """The tokens of a successful response."""
    assert response.status == 200, response.raw
    return Pair(response.body["access_token"], response.body.get("refresh_token", ""))


async def import_api(operator: Caller, document: dict[str, Any]) -> str:
    """Import the definition; return the API's id."""
    response = await operator("POST", "/api/apis", json=document)
    assert response.status == 200, response.raw
    return str(response.body["ID"])


async def register_client(operator: Caller, api_id: str, **fields: Any) -> tuple[str, str]:
    """Register a client of the API; return id and secret."""
    response = await operator("POST", f"/api/apis/oauth/{api_id}", json={"redirect_uri": CALLBACK, **fields})
    assert response.status == 200, response.raw
    client_id, secret = response.body["client_id"], response.body["secret"]
    operator.secrets.add_basic(client_id, secret)
    return client_id, secret


async def new_tenant(edge: Caller, operator: Caller, **changes: Any) -> Tenant:
    """Create a tenant. `changes` apply to the API's definition (see `api_document`)."""
    document = api_document(**changes)
    api_id = await import_api(operator, document)
    client_id, secret = await register_client(operator, api_id)
    username, password = unique("user"), secrets.token_urlsafe(16)
    response = await operator("POST", f"/api/apis/keys/basic/{username}", json={"password": password})
    assert response.status == 200, response.raw
    path = document[EXTENSION]["server"]["listenPath"]["value"].rstrip("/")
    return Tenant(edge, operator, api_id, path, client_id, secret, username, password)


NewTenant = Callable[..., Awaitable[Tenant]]
"""Creates a tenant with these changes to its API's definition."""
