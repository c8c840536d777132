"""POST /oauth/introspect: what a token is, for who may know (RFC 7662)."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from aiohttp import web

from contracts.apis import Api
from contracts.clients import Client
from contracts.grants import Grant
from contracts.introspection import Introspection, IntrospectionRequest, TokenUse
from contracts.operators import Operator, Permission
from libs.access import Access, ClientAccess, is_public, permits
from libs.catalog import Catalog
from libs.http.errors import NO_STORE, json_bytes
from libs.http.forms import read_parameters
from libs.oauth.errors import AccessDenied, InvalidClient, InvalidRequest
from libs.oauth.grants import is_revoked_with, live_refresh_token
from libs.oauth.issuer import issuer_of
from libs.oauth.tokens import Handle, TokenCodec, TokenKind, public_token_id
from libs.store.grants import Grants
from services.gateway.decision import AccessDecision
from services.gateway.refusals import Denial
from services.gateway.token_grants import TokenGrant

Asker = Operator | Client
INACTIVE = Introspection(active=False)
"""For a token that is not active and for one that the caller may not know alike (RFC 7662 §2.2)."""


@dataclass(frozen=True, slots=True)
class IntrospectionEndpoint:
    """An operator learns of every token, a client of its own, a resource server of those that open its API."""

    access: Access
    clients: ClientAccess
    introspector: "Introspector"

    async def introspect(self, http_request: web.Request) -> web.Response:
        """What the token is; nothing is counted against its limits."""
        request = IntrospectionRequest.model_validate(await read_parameters(http_request))
        asker = await self._asker(http_request, request)
        if not request.token:
            raise InvalidRequest("token is missing")
        body = (await self.introspector.introspect(request.token, asker)).model_dump_json(exclude_none=True)
        return json_bytes(body.encode(), headers=NO_STORE)

    async def _asker(self, http_request: web.Request, request: IntrospectionRequest) -> Asker:
        """Whoever the request proves to come from. Raises InvalidClient, InvalidRequest, AccessDenied."""
        authorization = http_request.headers.get("Authorization")
        if authorization is None or authorization.partition(" ")[0].lower() == "basic":
            client = await self.clients.authenticate(authorization, request)
            if is_public(client):
                raise InvalidClient("client authentication failed", detail="a public client")
            return client
        operator = await self.access.holder(http_request)
        if operator is None:
            raise InvalidClient("neither a client nor an operator is known by these credentials")
        if request.client_secret or request.secret:
            # RFC 6749 §2.3: "MUST NOT use more than one authentication method in each request".
            raise InvalidRequest("the credentials of an operator and of a client do not go together")
        if not permits(operator, Permission.READ):
            raise AccessDenied(f"the operator lacks the permission '{Permission.READ}'")
        return operator


@dataclass(frozen=True, slots=True)
class Introspector:
    """Says how access and refresh tokens stand now."""

    decision: AccessDecision
    catalog: Catalog
    grants: Grants
    codec: TokenCodec
    now: Callable[[], datetime]
    public_url: str

    async def introspect(self, token: str, asker: Asker) -> Introspection:
        """What the token is, if it is active and this is for the asker to know; whatever a hint says of its kind."""
        if token.startswith(TokenKind.REFRESH.value):
            presented = self.codec.read(TokenKind.REFRESH, token)
            is_read = presented is not None
            found = await self._refresh_token(presented, asker)
        else:
            is_read = self.decision.tokens.must_be_read(token)
            found = await self._access_token(token, asker)
        if not found.active and not is_read:
            # One look-up in each case: the time does not tell a token that is dead from a value that never was one.
            await self.grants.read_in_vain()
        return found

    async def _access_token(self, token: str, asker: Asker) -> Introspection:
        standing = await self.decision.standing(token)
        if isinstance(standing, Denial):
            return INACTIVE
        grant = standing.grant
        opened = tuple(api.api_id for api in standing.apis)
        if not (_is_theirs(grant, asker) or _is_opened_by(opened, asker)):
            return INACTIVE
        return self._active(
            grant,
            await self.catalog.api(grant.api_id),
            token_use=TokenUse.ACCESS,
            scope=grant.scope,
            aud=opened,
            iat=_unix(grant.issued_at),
            exp=_unix(grant.expires_at),
            jti=public_token_id(grant.grant_id, grant.generation),
        )

    async def _refresh_token(self, presented: Handle | None, asker: Asker) -> Introspection:
        grant = await self.grants.read(presented.grant_id) if presented else None
        if presented is None or grant is None or not _is_theirs(grant, asker):
            return INACTIVE
        client = await self.catalog.client(grant.client_id)
        refresh = live_refresh_token(grant, presented)
        if client is None or is_revoked_with(grant, client) or refresh is None or refresh.expires_at <= self.now():
            return INACTIVE
        api = await self.catalog.api(grant.api_id)
        if api is None or not api.active or api.oauth is None or not api.oauth.refresh_token:
            return INACTIVE
        return self._active(
            grant,
            api,
            token_use=TokenUse.REFRESH,
            scope=grant.scope,
            # A grant's tokens are issued together.
            iat=_unix(grant.access.issued_at) if grant.access else None,
            exp=_unix(refresh.expires_at),
        )

    def _active(self, grant: Grant | TokenGrant, issuing: Api | None, **facts: object) -> Introspection:
        if issuing is None:
            return INACTIVE
        return Introspection.model_validate(
            {
                "active": True,
                "token_type": "bearer",
                "client_id": grant.client_id,
                "sub": grant.subject,
                "username": grant.subject,
                "iss": issuer_of(self.public_url, issuing),
                "grant_id": grant.grant_id,
                **facts,
            }
        )


def _is_theirs(grant: Grant | TokenGrant, asker: Asker) -> bool:
    return isinstance(asker, Operator) or asker.client_id == grant.client_id


def _is_opened_by(opened: tuple[str, ...], asker: Asker) -> bool:
    return isinstance(asker, Client) and asker.resource_server and asker.api_id in opened


def _unix(moment: datetime) -> int:
    return int(moment.timestamp())
