"""Authentication of requests: operators by their key, clients by their credentials; and the API of a token path."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

import structlog
from aiohttp import hdrs, web
from pydantic import SecretStr

from contracts.apis import Api, OAuthSettings
from contracts.clients import Client
from contracts.operators import Actor, Operator, Permission
from libs import client_secrets
from libs.catalog import Catalog, Registrations
from libs.encryption import KeyRing
from libs.http.context import current
from libs.http.error_responses import NotAuthenticated, NotPermitted
from libs.oauth.client_auth import Credentials, is_public, read_credentials
from libs.oauth.errors import InvalidClient, UnknownApi
from libs.oauth.login_limits import FailureCounter
from libs.store.operators import expiry_of
from libs.throttle import LoginThrottle

TYK_KEY_HEADER = "X-Tyk-Authorization"
"""Where clients of Tyk's gateway send its secret; here it has an operator key, which wins over `Authorization`."""
_LONGEST_KEY = 512

log = structlog.get_logger("access")


class OperatorAuthenticator:
    """Authenticates operators by the key in a header, with brute-force protection."""

    def __init__(self, catalog: Catalog, throttle: LoginThrottle, now: Callable[[], datetime]) -> None:
        self._catalog = catalog
        self._throttle = throttle
        self._now = now

    async def require(self, request: web.Request, permission: Permission) -> Operator:
        """The operator whose key is in `X-Tyk-Authorization`, or else in `Authorization`, with or without `Bearer `.

        From now on it is the actor of this request, whom the audit log names. Raises NotAuthenticated, NotPermitted if
        the operator has neither this permission nor `admin`, and TooManyAttempts.
        """
        operator = await self.authenticate(request)
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

    async def authenticate(self, request: web.Request) -> Operator | None:
        """The operator whose key the request carries; None for no key, an unknown or an expired one.

        Raises TooManyAttempts.
        """
        key = request.headers.get(TYK_KEY_HEADER) or request.headers.get(hdrs.AUTHORIZATION) or ""
        if key[:7].lower() == "bearer ":
            key = key[7:].strip()
        return await self._operator_with(key) if 0 < len(key) <= _LONGEST_KEY and key.isascii() else None

    async def _operator_with(self, key: str) -> Operator | None:
        counters = self._throttle.operator_counters()
        await self._throttle.check(counters)
        operator = await self._catalog.operator(key)
        if operator is not None and self._has_expired(operator, key):
            operator = None
        if operator is not None and self._throttle.is_clear(counters):
            return operator
        async with self._throttle.attempt(counters) as attempt:
            if operator is not None:
                attempt.succeed()
        return operator

    def _has_expired(self, operator: Operator, key: str) -> bool:
        expires_at = expiry_of(operator, key)
        if expires_at is None or expires_at > self._now():
            return False
        log.info("expired_operator_key", operator_id=operator.operator_id, expired_at=expires_at)
        return True


def permits(operator: Operator, permission: Permission) -> bool:
    """Whether the operator has this permission, or `admin`, which includes all."""
    return permission in operator.permissions or Permission.ADMIN in operator.permissions


async def issuing_api(catalog: Catalog, api_ref: str) -> tuple[Api, OAuthSettings]:
    """The active API that issues tokens on this listen path or under this id. Raises UnknownApi."""
    api = await catalog.api_at(api_ref.strip("/"))
    if api is None or not api.active or api.oauth is None:
        raise UnknownApi("no API issues tokens on this path")
    return api, api.oauth


class BodyCredentials(Protocol):
    """A request body that may carry the client's credentials."""

    @property
    def client_id(self) -> str | None: ...

    @property
    def client_secret(self) -> SecretStr | None: ...

    @property
    def secret(self) -> SecretStr | None: ...


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


class ClientAuthenticator:
    """Authenticates clients (RFC 6749 §2.3)."""

    def __init__(self, catalog: Catalog, throttle: LoginThrottle, keys: KeyRing, now: Callable[[], datetime]) -> None:
        self._catalog = catalog
        self._throttle = throttle
        self._keys = keys
        self._now = now

    async def authenticate(self, authorization: str | None, body: BodyCredentials, api_id: str | None = None) -> Client:
        """The client that the request authenticates as; a public client is identified only (RFC 6749 §2.1).

        With `api_id` it is seen from that API, and refused if it is not registered there; without, it is seen from any
        of its APIs, which share its secrets. An unknown client and a wrong secret get the same error after
        the same work, one look-up and two comparisons, so that neither text nor time tells which client ids exist.
        Raises InvalidClient, InvalidRequest, TooManyAttempts.
        """
        given = read_credentials(authorization, body.client_id, _plain(body.client_secret), _plain(body.secret))
        throttle = self._throttle
        if not throttle.has_no_failures:
            await throttle.check(self._counters(given))
        client = await self._first_verified(given, api_id, self._catalog.registrations_cached_or_loading)
        if client is None:
            # Perhaps it is not cached, or another process has just changed its secret: ask the database.
            client = await self._first_verified(given, api_id, self._catalog.reload_registrations)
        # No await between this check and `attempt`: of many guesses at the same time, a failed one must be seen by the
        # others, even if theirs would succeed.
        if client is not None and throttle.has_no_failures:
            return client
        counters = self._counters(given)
        if client is not None and throttle.is_clear(counters):
            return client
        async with throttle.attempt(counters) as attempt:
            if client is None:
                raise InvalidClient("client authentication failed")
            attempt.succeed()
        return client

    def _counters(self, given: Sequence[Credentials]) -> Sequence[FailureCounter]:
        """The counters of failed attempts. A header with two meanings is an attempt at two clients."""
        ids = dict.fromkeys(credentials.client_id for credentials in given)
        return tuple(dict.fromkeys(counter for each in ids for counter in self._throttle.client_counters(each)))

    async def _first_verified(
        self,
        given: Sequence[Credentials],
        api_id: str | None,
        look_up: Callable[[str], Awaitable[Registrations | None]],
    ) -> Client | None:
        """The client with the first credentials that are right. All are checked, so that time does not tell which."""
        verified = [
            self._verified(_seen_from(api_id, await look_up(credentials.client_id)), credentials)
            for credentials in given
        ]
        return next((client for client in verified if client is not None), None)

    def _verified(self, client: Client | None, credentials: Credentials) -> Client | None:
        if client is not None and is_public(client) and credentials.secret is None:
            return client
        valid = client_secrets.is_valid(self._keys, client, credentials.secret or "", self._now())
        return client if valid else None


def _seen_from(api_id: str | None, registrations: Registrations | None) -> Client | None:
    if registrations is None:
        return None
    return next(iter(registrations.values())) if api_id is None else registrations.get(api_id)
