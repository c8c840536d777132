"""/api/apis/oauth/{api_id}[/{client_id}]: client apps are registered, listed, read, edited, rotated, deleted."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from aiohttp import web

from contracts.apis import Api
from contracts.clients import (
    Client,
    ClientDeletion,
    ClientEdit,
    ClientList,
    ClientRegistration,
    OAuthClient,
    SecretRotation,
)
from contracts.operators import Operator, Permission
from libs import client_secrets
from libs.access import Access, is_public, permits
from libs.events import Origin
from libs.http.errors import BadRequest, NotFound, Taken
from libs.oauth.errors import TemporarilyUnavailable
from libs.runtime import both_slashes
from libs.sealing import CannotOpen, KeyRing
from libs.store.mongo import Conflict
from libs.store.store import Store
from services.management.answers import document, enveloped, page_number
from services.management.documents import read_document, read_document_if_any
from services.management.races import settled
from services.management.references import require_policies
from services.management.registrations import changes_of, registered, rotated, view

# Other services answer under /api/apis/oauth/{client_id}/; in one process they are on the same router.
_CLIENT = "/api/apis/oauth/{api_id}/{client_id:(?!(?:tokens|revoke|revoke_all|authorize-client)/?$)[^{}/]+}"

log = structlog.get_logger("management")


@dataclass(frozen=True, slots=True)
class ClientEndpoints:
    """Client apps. A secret is shown to operators with `write`; where secrets are `show_once`, only when it is new."""

    access: Access
    store: Store
    keys: KeyRing
    origin: Callable[[], Origin]
    seal_secrets: bool

    def add_to(self, app: web.Application) -> None:
        """Routes, with and without trailing slash."""
        both_slashes(app, "POST", "/api/apis/oauth/{api_id}", self.register)
        both_slashes(app, "GET", "/api/apis/oauth/{api_id}", self.list)
        both_slashes(app, "GET", _CLIENT, self.get)
        both_slashes(app, "PUT", _CLIENT, self.edit)
        both_slashes(app, "DELETE", _CLIENT, self.delete)
        both_slashes(app, "PUT", f"{_CLIENT}/rotate", self.rotate)

    async def register(self, request: web.Request) -> web.Response:
        """POST /api/apis/oauth/{api_id}."""
        await self.access.require(request, Permission.WRITE)
        api = await self._api(request)
        registration = await read_document(request, ClientRegistration)
        _require_use(api, registration)
        at = self.origin()
        client, secret = self._new(registration, api, at)
        await require_policies(self.store.policies, client.policy_ids)
        try:
            client = await self.store.clients.register(client, at)
        except Conflict:
            raise Taken(f"the client id '{client.client_id}' is taken") from None
        await self._require_api_still(client)
        return document(view(client, secret))

    async def list(self, request: web.Request) -> web.Response:
        """GET /api/apis/oauth/{api_id}."""
        operator = await self.access.require(request, Permission.READ)
        api = await self._api(request)
        page = await self.store.clients.page_of_api(api.api_id, page_number(request))
        return document(ClientList(apps=[self._view(client, operator) for client in page.records], pages=page.pages))

    async def get(self, request: web.Request) -> web.Response:
        """GET /api/apis/oauth/{api_id}/{client_id}."""
        operator = await self.access.require(request, Permission.READ)
        return document(self._view(await self._client(request), operator))

    async def edit(self, request: web.Request) -> web.Response:
        """PUT /api/apis/oauth/{api_id}/{client_id}: what the body leaves out stays, null clears."""
        operator = await self.access.require(request, Permission.WRITE)
        await self._client(request)
        edit = await read_document(request, ClientEdit)

        async def attempt() -> Client | None:
            client = await self._client(request)
            changes = changes_of(edit, client)
            self._require_same_secret(edit, client)
            if "policy_ids" in changes:
                await require_policies(self.store.policies, client.model_copy(update=changes).policy_ids)
            return await self.store.clients.edit(client, changes, self.origin()) if changes else client

        return document(self._view(await settled(attempt), operator))

    async def rotate(self, request: web.Request) -> web.Response:
        """PUT /api/apis/oauth/{api_id}/{client_id}/rotate."""
        await self.access.require(request, Permission.WRITE)
        await self._client(request)
        rotation = await read_document_if_any(request, SecretRotation)
        secret = rotation.secret.get_secret_value() if rotation.secret else client_secrets.new_secret()

        async def attempt() -> Client | None:
            client = await self._client(request)
            if is_public(client):
                raise BadRequest("a public client has no secret")
            at = self.origin()
            new = client_secrets.digested(self.keys, client.client_id, secret, at.now, sealed=self.seal_secrets)
            return await self.store.clients.rotate(client, rotated(client.secrets, new, rotation, at.now), at)

        return document(view(await settled(attempt), secret))

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/apis/oauth/{api_id}/{client_id}; every grant of it is dead at once."""
        await self.access.require(request, Permission.WRITE)

        async def attempt() -> bool:
            client = await self._client(request)
            return await self.store.clients.delete(client, ClientDeletion.CLIENT_DELETED, self.origin())

        await settled(attempt)
        return enveloped("OAuth client deleted successfully.")

    def _new(self, registration: ClientRegistration, api: Api, at: Origin) -> tuple[Client, str | None]:
        client_id = registration.client_id or uuid.uuid4().hex
        if registration.public:
            if registration.secret:
                raise BadRequest("a public client has no secret")
            return registered(registration, api, client_id, None, at.now), None
        secret = registration.secret.get_secret_value() if registration.secret else client_secrets.new_secret()
        kept = client_secrets.digested(self.keys, client_id, secret, at.now, sealed=self.seal_secrets)
        return registered(registration, api, client_id, kept, at.now), secret

    async def _require_api_still(self, client: Client) -> None:
        """The client goes again if its API went meanwhile: the reaction to that may have looked before it was there."""
        try:
            if await self.store.apis.get(client.api_id) is not None:
                return
            await self.store.clients.delete(client, ClientDeletion.API_DELETED, self.origin())
        except TemporarilyUnavailable as error:
            log.warning("api_of_new_client_not_seen", client_id=client.client_id, error=error.detail)
            return
        raise NotFound("API reference not found.")

    async def _api(self, request: web.Request) -> Api:
        api = await self.store.apis.get(request.match_info["api_id"])
        if api is None:
            raise NotFound("API reference not found.")
        return api

    async def _client(self, request: web.Request) -> Client:
        client = await self.store.clients.get(request.match_info["client_id"])
        if client is None or client.api_id != request.match_info["api_id"]:
            raise NotFound("OAuth client not found")
        return client

    def _require_same_secret(self, edit: ClientEdit, client: Client) -> None:
        given = edit.secret.get_secret_value() if edit.secret else ""
        if given and not client_secrets.is_valid(self.keys, client, given, self.origin().now):
            raise BadRequest("secret: it is changed by PUT …/rotate, not here")

    def _view(self, client: Client, operator: Operator) -> OAuthClient:
        return view(client, self._secret(client) if permits(operator, Permission.WRITE) else None)

    def _secret(self, client: Client) -> str | None:
        try:
            return client_secrets.shown(self.keys, client)
        except CannotOpen as error:
            log.warning("client_secret_not_shown", client_id=client.client_id, reason=str(error))
            return None


def _require_use(api: Api, registration: ClientRegistration) -> None:
    """Raises BadRequest where the client could do nothing: neither get tokens here nor introspect them."""
    if api.oauth is None and not (registration.resource_server and api.auth_token):
        raise BadRequest("this API issues no tokens: OAuth is not enabled on it")
