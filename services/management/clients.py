"""/api/apis/oauth/{api_id}[/{client_id}]: register, list, read, update and delete client apps, rotate their secrets."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from aiohttp import web
from pydantic import SecretStr

from contracts.apis import Api
from contracts.clients import (
    Client,
    ClientDeletion,
    ClientEdit,
    ClientList,
    ClientRegistration,
    ClientSecret,
    OAuthClient,
    SecretRotation,
)
from contracts.error_bodies import Envelope
from contracts.operations import Parameters, RequestBody, ResponseSpec
from contracts.operators import Operator, Permission
from contracts.pages import ClientQuery
from libs import client_secrets
from libs.access import permits
from libs.encryption import CannotDecrypt, KeyRing
from libs.event_encoding import EventContext
from libs.http.error_responses import BadRequest, ChangedByOthers, NotFound, Taken
from libs.http.operations import operator_of, operator_operation
from libs.oauth.client_auth import is_public
from libs.oauth.errors import TemporarilyUnavailable
from libs.oauth.registrations import registered_on, registrations_of, with_registration
from libs.store.mongo import Conflict
from libs.store.optimistic import retry_on_conflict
from libs.store.records import Page
from libs.store.store import Store
from services.management.client_mapping import changes_of, client_view, new_client, require_declared, rotated_secrets
from services.management.reference_checks import require_policies
from services.management.registration_retries import RegistrationRetries
from services.management.request_bodies import read_document, read_document_if_any
from services.management.success_responses import document, enveloped, list_of, listed

# Other services have operations below /api/apis/oauth/{client_id}/. In one process all are on the same router, so this
# pattern must not match theirs.
_CLIENT = "/api/apis/oauth/{api_id}/{client_id}"
_CLIENT_PATTERN = {"client_id": "(?!(?:tokens|revoke|revoke_all|authorize-client)/?$)[^/]+"}

_PAGE_OR_SEARCH = Parameters(model=ClientQuery)

MOST_REGISTRATIONS = 200
"""APIs of one client. Its tokens on all of them are listed with one query."""
MOST_BYTES = 8 * 1024 * 1024
"""Size of all registrations of a client, which are one document: half of what MongoDB can store."""

log = structlog.get_logger("management")


@dataclass(frozen=True, slots=True)
class ClientEndpoints:
    """Client apps. Operators with `write` see secrets: always if they are stored, otherwise only when they are new."""

    store: Store
    keys: KeyRing
    event_context: Callable[[], EventContext]
    retrievable_secrets: bool
    min_secret_length: int
    redirect_uri_separator: str
    """Separates the URIs in `redirect_uri`."""
    retries: RegistrationRetries

    @operator_operation(
        "POST",
        "/api/apis/oauth/{api_id}",
        "registerClient",
        Permission.WRITE,
        tag="Client apps",
        summary="Create a client",
        description="Registers a client app for the API. `client_id` and `secret` are generated if the body does not "
        "set them. A client can be registered on several APIs with the same id and secret; each registration has its "
        "own redirect URIs, policies and metadata. Repeating a request that got no response returns the same client "
        "instead of a second one.",
        body=RequestBody(model=ClientRegistration),
        response=ResponseSpec(
            description="Client created. The only response with the secret if secrets are shown once.",
            models=(OAuthClient,),
        ),
        errors=(404, 409),
    )
    async def register(self, request: web.Request) -> web.Response:
        """POST /api/apis/oauth/{api_id}."""
        operator = operator_of(request)
        api = await self._api(request)
        registration = await read_document(request, ClientRegistration)
        _require_use(api, registration)
        ctx = self.event_context()
        digest = self.retries.digest(operator, api.api_id, registration)
        generated = self.retries.client_id(digest)
        ids = (registration.client_id,) if registration.client_id else (generated, uuid.uuid4().hex)
        for client_id in ids:
            client, secret = self._new(registration, client_id, api, ctx)
            require_declared(client.scope, api)
            await require_policies(self.store.policies, client.policy_ids)
            client = client.model_copy(update={"registration": digest})
            # Never reuse the id of a deleted client: its old tokens would belong to the new one.
            if client_id != generated or not await self.store.clients.present([generated]):
                with suppress(Conflict):
                    return await self._registered(await self.store.clients.register(client, ctx), secret)
            if (first := await self.retries.find(client_id, api.api_id, digest, ctx)) is not None:
                return await self._repeated(first, secret if registration.secret else None)
        also = await retry_on_conflict(lambda: self._register_also(client, secret, ctx), exhausted=ChangedByOthers)
        return await self._registered(also, secret)

    async def _register_also(self, client: Client, secret: str | None, ctx: EventContext) -> Client | None:
        """Register a client of another API on this one as well. Raises Taken unless it is certainly the same client."""
        known = await self.store.clients.get(client.client_id)
        if known is None or registered_on(known, client.api_id) is not None:
            raise Taken(f"the client id '{client.client_id}' is taken")
        if is_public(known) != is_public(client) or not self._has_secret(known, secret, ctx.now):
            raise Taken(
                f"the client id '{client.client_id}' is registered on the API '{known.api_id}' with another secret; "
                "send that secret to register the client on this API, too, or choose another id"
            )
        if len(known.others) + 1 >= MOST_REGISTRATIONS:
            raise BadRequest(f"the client '{client.client_id}' is registered on {MOST_REGISTRATIONS} APIs already")
        _require_storable(with_registration(known, client))
        return await self.store.clients.register_also(known, client, ctx)

    async def _registered(self, client: Client, secret: str | None) -> web.Response:
        await self._require_api_still(client)
        return document(self._shown(client, secret), written=lambda: self.retries.written(client))

    async def _repeated(self, client: Client, given: str | None) -> web.Response:
        """The response for a retry. A generated secret that was only to be shown once is replaced by a new one."""
        secret = given or self._secret(client)
        if secret is None and not is_public(client):
            secret, ctx = client_secrets.new_secret(), self.event_context()
            new = self._protected(client.client_id, secret, ctx.now)
            rotated_client = await self.store.clients.rotate(client, (new,), ctx)
            if rotated_client is None:
                raise Taken(
                    f"the client '{client.client_id}' is being changed by others at the same time; read it again"
                )
            client = rotated_client
        log.info("registration_retried", client_id=client.client_id)
        return await self._registered(client, secret)

    @operator_operation(
        "GET",
        "/api/apis/oauth/{api_id}",
        "listClients",
        Permission.READ,
        tag="Client apps",
        summary="List an API's clients",
        description="`q` selects by what is known of them. Secrets are included only if they are stored and the "
        "operator has `write`.",
        parameters=_PAGE_OR_SEARCH,
        response=list_of(ClientList),
        errors=(400, 404),
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /api/apis/oauth/{api_id}."""
        operator = operator_of(request)
        api = await self._api(request)
        text = _searched(request)
        of_api = partial(self.store.clients.page_of_api, api.api_id)
        page = await listed(request, self._search(text, api.api_id) if text else of_api)
        apps = [self._view(client, operator) for client in page.records]
        return document(ClientList(apps=apps, pages=page.pages, next=page.next), page.headers)

    def _search(self, text: str, api_id: str | None) -> Callable[[int | None, str | None], Awaitable[Page[Client]]]:
        return lambda _, after: self.store.clients.search(text, api_id, after)

    @operator_operation(
        "GET",
        "/api/clients",
        "listAllClients",
        Permission.READ,
        tag="Client apps",
        summary="List the clients of all APIs",
        description="A page is of a hundred clients; each is listed once for every API on which it is registered. "
        "`q` selects by what is known of them. Secrets are included only if they are stored and the operator has "
        "`write`.",
        parameters=_PAGE_OR_SEARCH,
        response=list_of(ClientList),
        errors=(400,),
    )
    async def list_all(self, request: web.Request) -> web.Response:
        """GET /api/clients."""
        operator = operator_of(request)
        text = _searched(request)
        page = await listed(request, self._search(text, None) if text else self.store.clients.page)
        apps = [view for client in page.records for view in self._views(client, operator)]
        return document(ClientList(apps=apps, pages=page.pages, next=page.next), page.headers)

    @operator_operation(
        "GET",
        "/api/clients/{client_id}",
        "findClient",
        Permission.READ,
        tag="Client apps",
        summary="Get a client on all APIs",
        description="The client as each API sees on which it is registered, in the order of registration. Secrets are "
        "included only if they are stored and the operator has `write`.",
        response=ResponseSpec(description="The registrations of the client.", models=(ClientList,)),
        errors=(404,),
    )
    async def find(self, request: web.Request) -> web.Response:
        """GET /api/clients/{client_id}."""
        client = await self.store.clients.get(request.match_info["client_id"])
        if client is None:
            raise NotFound("OAuth client not found")
        return document(ClientList(apps=[*self._views(client, operator_of(request))], pages=1))

    @operator_operation(
        "GET",
        _CLIENT,
        "getClient",
        Permission.READ,
        tag="Client apps",
        summary="Get a client",
        description="The secret is included only if secrets are stored and the operator has `write`.",
        response=ResponseSpec(description="The client.", models=(OAuthClient,)),
        errors=(404,),
        patterns=_CLIENT_PATTERN,
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /api/apis/oauth/{api_id}/{client_id}."""
        operator = operator_of(request)
        return document(self._view(await self._client(request), operator))

    @operator_operation(
        "PUT",
        _CLIENT,
        "editClient",
        Permission.WRITE,
        tag="Client apps",
        summary="Update a client",
        description="Changes the fields that the body names; `null` clears a field, omitted fields keep their values. "
        "The secret is changed with rotateClientSecret.",
        body=RequestBody(model=ClientEdit),
        response=ResponseSpec(description="Client updated.", models=(OAuthClient,)),
        errors=(404, 409),
        patterns=_CLIENT_PATTERN,
    )
    async def edit(self, request: web.Request) -> web.Response:
        """PUT /api/apis/oauth/{api_id}/{client_id}; null clears a field."""
        operator = operator_of(request)
        await self._client(request)
        edit = await read_document(request, ClientEdit)

        async def attempt() -> Client | None:
            client = await self._client(request)
            changes = changes_of(edit, client, self.redirect_uri_separator)
            self._require_same_secret(edit, client)
            if "policy_ids" in changes:
                await require_policies(self.store.policies, client.model_copy(update=changes).policy_ids)
            if "scope" in changes:
                require_declared(client.model_copy(update=changes).scope, await self._api(request))
            _require_storable(client.model_copy(update=changes))
            return await self.store.clients.edit(client, changes, self.event_context()) if changes else client

        return document(self._view(await retry_on_conflict(attempt, exhausted=ChangedByOthers), operator))

    @operator_operation(
        "PUT",
        f"{_CLIENT}/rotate",
        "rotateClientSecret",
        Permission.WRITE,
        tag="Client apps",
        summary="Rotate a client's secret",
        description="Generates a new secret, or sets the given one, on all APIs on which the client is registered. The "
        "old secret stays valid for `overlap` seconds.",
        body=RequestBody(model=SecretRotation, optional=True),
        response=ResponseSpec(description="Secret rotated; the response contains the new one.", models=(OAuthClient,)),
        errors=(404, 409),
        patterns=_CLIENT_PATTERN,
    )
    async def rotate(self, request: web.Request) -> web.Response:
        """PUT /api/apis/oauth/{api_id}/{client_id}/rotate."""
        await self._client(request)
        rotation = await read_document_if_any(request, SecretRotation)
        secret = self._chosen(rotation.secret)

        async def attempt() -> Client | None:
            client = await self._client(request)
            if is_public(client):
                raise BadRequest("a public client has no secret")
            ctx = self.event_context()
            new = self._protected(client.client_id, secret, ctx.now)
            return await self.store.clients.rotate(client, rotated_secrets(client.secrets, new, rotation, ctx.now), ctx)

        return document(self._shown(await retry_on_conflict(attempt, exhausted=ChangedByOthers), secret))

    @operator_operation(
        "DELETE",
        _CLIENT,
        "deleteClient",
        Permission.WRITE,
        tag="Client apps",
        summary="Delete a client",
        description="Deletes the client app from this API. All its tokens of this API stop working at once.",
        response=ResponseSpec(description="Client deleted.", models=(Envelope,)),
        errors=(404, 409),
        patterns=_CLIENT_PATTERN,
    )
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/apis/oauth/{api_id}/{client_id}; revokes all its grants there at once."""

        async def attempt() -> bool:
            client = await self._client(request)
            return await self.store.clients.delete(client, ClientDeletion.CLIENT_DELETED, self.event_context())

        await retry_on_conflict(attempt, exhausted=ChangedByOthers)
        return enveloped("OAuth client deleted successfully.")

    def _has_secret(self, client: Client, secret: str | None, now: datetime) -> bool:
        return is_public(client) or client_secrets.is_valid(self.keys, client, secret or "", now)

    def _protected(self, client_id: str, secret: str, now: datetime) -> ClientSecret:
        return client_secrets.protect(self.keys, client_id, secret, now, retrievable=self.retrievable_secrets)

    def _new(
        self, registration: ClientRegistration, client_id: str, api: Api, ctx: EventContext
    ) -> tuple[Client, str | None]:
        if registration.public:
            if registration.secret:
                raise BadRequest("a public client has no secret")
            return new_client(registration, api, client_id, None, ctx.now, self.redirect_uri_separator), None
        secret = self._chosen(registration.secret)
        kept = self._protected(client_id, secret, ctx.now)
        return new_client(registration, api, client_id, kept, ctx.now, self.redirect_uri_separator), secret

    async def _require_api_still(self, client: Client) -> None:
        """Delete the client again if its API is gone: the cleanup may have run before the client existed."""
        try:
            if await self.store.apis.get(client.api_id) is not None:
                return
            await self.store.clients.delete(client, ClientDeletion.API_DELETED, self.event_context())
        except TemporarilyUnavailable as error:
            log.warning("api_of_new_client_not_checked", client_id=client.client_id, error=error.detail)
            return
        raise NotFound("API reference not found.")

    async def _api(self, request: web.Request) -> Api:
        api = await self.store.apis.get(request.match_info["api_id"])
        if api is None:
            raise NotFound("API reference not found.")
        return api

    async def _client(self, request: web.Request) -> Client:
        client = await self.store.clients.registered(request.match_info["client_id"], request.match_info["api_id"])
        if client is None:
            raise NotFound("OAuth client not found")
        return client

    def _require_same_secret(self, edit: ClientEdit, client: Client) -> None:
        given = edit.secret.get_secret_value() if edit.secret else ""
        if given and not client_secrets.is_valid(self.keys, client, given, self.event_context().now):
            raise BadRequest("secret: cannot be changed here; use PUT …/rotate")

    def _views(self, client: Client, operator: Operator) -> Sequence[OAuthClient]:
        return [self._view(seen, operator) for seen in registrations_of(client).values()]

    def _view(self, client: Client, operator: Operator) -> OAuthClient:
        return self._shown(client, self._secret(client) if permits(operator, Permission.WRITE) else None)

    def _shown(self, client: Client, secret: str | None) -> OAuthClient:
        return client_view(client, secret, self.redirect_uri_separator)

    def _chosen(self, secret: SecretStr | None) -> str:
        """The secret that the operator chose, or a new one. Raises BadRequest if it is too short."""
        if secret is None:
            return client_secrets.new_secret()
        chosen = secret.get_secret_value()
        if len(chosen) < self.min_secret_length:
            raise BadRequest(f"secret: at least {self.min_secret_length} characters are required")
        return chosen

    def _secret(self, client: Client) -> str | None:
        try:
            return client_secrets.shown(self.keys, client)
        except CannotDecrypt as error:
            log.warning("client_secret_not_shown", client_id=client.client_id, reason=str(error))
            return None


def _require_storable(client: Client) -> None:
    # One registration alone is smaller than the largest body.
    if client.others and len(client.model_dump_json()) > MOST_BYTES:
        raise BadRequest("the registrations of this client are too large together: shorten meta_data")


def _require_use(api: Api, registration: ClientRegistration) -> None:
    """Raises BadRequest if the client would be useless: it could neither get tokens here nor introspect any."""
    if api.oauth is None and not (registration.resource_server and api.auth_token):
        raise BadRequest("this API issues no tokens: OAuth is not enabled")


def _searched(request: web.Request) -> str:
    """The text that the list is searched for; empty without a search. Raises ValidationError, BadRequest."""
    text = ClientQuery.model_validate({"q": request.query.get("q", "")}).q
    if text and "p" in request.query:
        raise BadRequest("p: it cannot be combined with `q`; continue with `after`, the `next` of the page before")
    return text
