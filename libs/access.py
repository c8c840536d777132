"""At the door: whose key a management request carries, which API a path belongs to, which client is asking."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from aiohttp import web
from pydantic import SecretStr

from contracts.apis import Api, OAuthSettings
from contracts.clients import Client
from contracts.operators import Actor, Operator, Permission
from libs import client_secrets
from libs.catalog import Catalog
from libs.http.context import current
from libs.http.errors import NotAuthenticated, NotPermitted
from libs.oauth.client_auth import Credentials, read_credentials
from libs.oauth.errors import InvalidClient, UnknownApi
from libs.sealing import KeyRing
from libs.throttle import Throttle

_LONGEST_KEY = 512


class Access:
    """Checks operator keys against the catalog."""

    def __init__(self, catalog: Catalog, throttle: Throttle) -> None:
        self._catalog = catalog
        self._throttle = throttle

    async def require(self, request: web.Request, permission: Permission) -> Operator:
        """The operator whose key is in `Authorization` (a `Bearer ` prefix is accepted); what follows is its doing.

        Raises NotAuthenticated, NotPermitted where the operator has neither this permission nor `admin`, and
        TooManyAttempts.
        """
        operator = await self.holder(request)
        if operator is None:
            raise NotAuthenticated("Not authorised")
        if not permits(operator, permission):
            raise NotPermitted(f"You don't have access to this: the permission '{permission}' is missing")
        context = current()
        context.actor = Actor(
            operator_id=operator.operator_id,
            name=operator.name,
            address=context.address or None,
            request_id=context.request_id,
        )
        return operator

    async def holder(self, request: web.Request) -> Operator | None:
        """The operator whose key the request carries, if any. Raises TooManyAttempts."""
        key = request.headers.get("Authorization", "")
        if key[:7].lower() == "bearer ":
            key = key[7:].strip()
        return await self._holder(key) if 0 < len(key) <= _LONGEST_KEY and key.isascii() else None

    async def _holder(self, key: str) -> Operator | None:
        tallies = self._throttle.of_operator()
        await self._throttle.require_room(tallies)
        operator = await self._catalog.operator(key)
        if operator is not None and self._throttle.is_quiet(tallies):
            return operator
        async with self._throttle.attempt(tallies) as attempt:
            if operator is not None:
                attempt.succeed()
        return operator


def permits(operator: Operator, permission: Permission) -> bool:
    """Whether the operator may do this; `admin` may do everything."""
    return permission in operator.permissions or Permission.ADMIN in operator.permissions


async def issuing_api(catalog: Catalog, place: str) -> tuple[Api, OAuthSettings]:
    """The active API with OAuth on this listen path or with this id. Raises UnknownApi."""
    api = await catalog.api_at(place.strip("/"))
    if api is None or not api.active or api.oauth is None:
        raise UnknownApi("no API issues tokens on this path")
    return api, api.oauth


class BodyCredentials(Protocol):
    """The client's credentials in a request body."""

    @property
    def client_id(self) -> str | None: ...

    @property
    def client_secret(self) -> SecretStr | None: ...

    @property
    def secret(self) -> SecretStr | None: ...


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def is_public(client: Client) -> bool:
    """Whether the client has no secret (RFC 6749 §2.1)."""
    return not client.secrets


class ClientAccess:
    """Authenticates clients (RFC 6749 §2.3)."""

    def __init__(self, catalog: Catalog, throttle: Throttle, keys: KeyRing, now: Callable[[], datetime]) -> None:
        self._catalog = catalog
        self._throttle = throttle
        self._keys = keys
        self._now = now

    async def authenticate(self, authorization: str | None, body: BodyCredentials, api_id: str | None = None) -> Client:
        """The client (of this API) that the request proves to come from; a public client proves nothing.

        Unknown client and wrong secret are one refusal, after the same work: one look-up, two comparisons. Raises
        InvalidClient, InvalidRequest, TooManyAttempts.
        """
        credentials = read_credentials(authorization, body.client_id, _plain(body.client_secret), _plain(body.secret))
        throttle = self._throttle
        if not throttle.is_calm:
            await throttle.require_room(throttle.of_client(credentials.client_id))
        client = self._proven(await self._catalog.client_at_hand(credentials.client_id), credentials, api_id)
        if client is None:
            # Not known here yet, or its secret was made a moment ago by another process.
            client = self._proven(await self._catalog.client_anew(credentials.client_id), credentials, api_id)
        # Nothing is waited for between this and the attempt: of many that fail at once, the first is heard of.
        if client is not None and throttle.is_calm:
            return client
        tallies = throttle.of_client(credentials.client_id)
        if client is not None and throttle.is_quiet(tallies):
            return client
        async with throttle.attempt(tallies) as attempt:
            if client is None:
                raise InvalidClient("client authentication failed")
            attempt.succeed()
        return client

    def _proven(self, client: Client | None, credentials: Credentials, api_id: str | None) -> Client | None:
        if client is not None and api_id not in {None, client.api_id}:
            client = None
        if client is not None and is_public(client) and credentials.secret is None:
            return client
        valid = client_secrets.is_valid(self._keys, client, credentials.secret or "", self._now())
        return client if valid else None
