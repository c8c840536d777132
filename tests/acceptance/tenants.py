"""An API provider's side of a test: an API, a client app and a user of its own, made through the edge."""

import base64
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.acceptance.caller import Caller
from tests.builders import Answer, api_document, unique

CALLBACK = "https://app.example.test/callback"
EXTENSION = "x-tyk-api-gateway"
SCHEME = f"{EXTENSION}__server__authentication__securitySchemes__tykOAuth"


def basic(client_id: str, secret: str) -> dict[str, str]:
    """The header of RFC 7617."""
    return {"Authorization": f"Basic {base64.b64encode(f'{client_id}:{secret}'.encode()).decode()}"}


@dataclass(frozen=True)
class Pair:
    """An access token and, where there is one, the refresh token issued with it."""

    access: str
    refresh: str = ""


@dataclass
class Tenant:
    """One API with every grant, one confidential client, one user; requests go to the edge unless `by` says another."""

    edge: Caller
    operator: Caller
    api_id: str
    path: str
    """The listen path without its last slash."""
    client_id: str
    secret: str
    username: str
    password: str

    async def token(self, *, by: Caller | None = None, secret: str | None = None, **form: str) -> Answer:
        """POST /<listen-path>/oauth/token with the client's Basic credentials."""
        headers = basic(self.client_id, self.secret if secret is None else secret)
        return await (by or self.edge)("POST", f"{self.path}/oauth/token", data=form, headers=headers)

    async def client_credentials(self, **more: Any) -> Answer:
        """An access token of the client's own."""
        return await self.token(grant_type="client_credentials", **more)

    async def pair(self) -> Pair:
        """A new grant of the user's, by password."""
        return issued(await self.token(grant_type="password", username=self.username, password=self.password))

    async def code(self) -> str:
        """A code for the user, as the identity server gets it."""
        form = {"response_type": "code", "client_id": self.client_id, "redirect_uri": CALLBACK, "subject": "alice"}
        answer = await self.operator("POST", f"/api/apis/oauth/{self.api_id}/authorize-client", data=form)
        assert answer.status == 200, answer.raw
        return str(answer.body["code"])

    async def exchanged(self, code: str) -> Answer:
        """The answer to the code."""
        return await self.token(grant_type="authorization_code", code=code, redirect_uri=CALLBACK)

    async def refreshed(self, refresh_token: str, **more: Any) -> Answer:
        """The answer to the refresh token."""
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token, **more)

    async def verified(self, access_token: str) -> Answer:
        """What a forward-auth question about a call with this token is answered."""
        headers = {"X-Forwarded-Uri": f"{self.path}/things/1", "Authorization": f"Bearer {access_token}"}
        return await self.edge("GET", "/verify", headers=headers)

    async def listed(self) -> Answer:
        """The client's live tokens, as an operator sees them."""
        return await self.operator("GET", f"/api/apis/oauth/{self.api_id}/{self.client_id}/tokens")


def issued(answer: Answer) -> Pair:
    """The tokens of a successful answer."""
    assert answer.status == 200, answer.raw
    return Pair(answer.body["access_token"], answer.body.get("refresh_token", ""))


async def import_api(operator: Caller, document: dict[str, Any]) -> str:
    """The id of the API that this definition makes."""
    answer = await operator("POST", "/api/apis", json=document)
    assert answer.status == 200, answer.raw
    return str(answer.body["ID"])


async def register_client(operator: Caller, api_id: str, **fields: Any) -> tuple[str, str]:
    """Id and secret of a new client of the API."""
    answer = await operator("POST", f"/api/apis/oauth/{api_id}", json={"redirect_uri": CALLBACK, **fields})
    assert answer.status == 200, answer.raw
    client_id, secret = answer.body["client_id"], answer.body["secret"]
    operator.secrets.add_basic(client_id, secret)
    return client_id, secret


async def new_tenant(edge: Caller, operator: Caller, **changes: Any) -> Tenant:
    """Everything new; the changes are to the API's definition (see `api_document`)."""
    document = api_document(**changes)
    api_id = await import_api(operator, document)
    client_id, secret = await register_client(operator, api_id)
    username, password = unique("user"), secrets.token_urlsafe(16)
    answer = await operator("POST", f"/api/apis/keys/basic/{username}", json={"password": password})
    assert answer.status == 200, answer.raw
    path = document[EXTENSION]["server"]["listenPath"]["value"].rstrip("/")
    return Tenant(edge, operator, api_id, path, client_id, secret, username, password)


NewTenant = Callable[..., Awaitable[Tenant]]
"""Makes a tenant with these changes to its API's definition."""
