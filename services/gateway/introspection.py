"""POST /oauth/introspect: token introspection (RFC 7662)."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from aiohttp import web

from contracts.apis import Api, GrantType
from contracts.clients import Client
from contracts.error_bodies import OAuthErrorBody
from contracts.grants import Grant
from contracts.introspection import Introspection, IntrospectionRequest, TokenUse
from contracts.operations import FORM, JSON, Caller, Operation, RequestBody, ResponseSpec
from contracts.operators import Operator, Permission
from libs.access import TYK_KEY_HEADER, ClientAuthenticator, OperatorAuthenticator, permits
from libs.catalog import Catalog
from libs.http.forms import read_parameters
from libs.http.operations import error_responses, operation
from libs.http.responses import NO_STORE, json_bytes
from libs.oauth.client_auth import is_public
from libs.oauth.errors import AccessDenied, InvalidClient, InvalidRequest
from libs.oauth.grants import is_revoked_with_client, live_refresh_token
from libs.oauth.issuer_url import issuer_of
from libs.oauth.registrations import registered_on
from libs.oauth.token_formats import PresentedToken, TokenFormat, TokenKind, public_token_id
from libs.policies import is_holder
from libs.store.grants import Grants
from services.gateway.decision import AccessDecision
from services.gateway.refusals import Denial
from services.gateway.token_grants import TokenGrant

Requester = Operator | Client
INACTIVE = Introspection(active=False)
"""The response for inactive tokens, and the same for tokens that the caller may not know about (RFC 7662 §2.2)."""


@dataclass(frozen=True, slots=True)
class IntrospectionEndpoint:
    """Operators may introspect every token, clients their own, and resource servers those that open their API."""

    access: OperatorAuthenticator
    clients: ClientAuthenticator
    introspector: "Introspector"

    @operation(
        Operation(
            method="POST",
            path="/oauth/introspect",
            name="introspect",
            tag="Introspection",
            summary="Introspect a token",
            description="State and properties of an access or refresh token (RFC 7662), for operators with `read`, "
            "the client "
            "that owns the token, and resource servers of an API that it opens. Does not count as a call.",
            caller=Caller.CLIENT_OR_OPERATOR,
            permission=Permission.READ,
            body=RequestBody(model=IntrospectionRequest, media_types=(FORM, JSON), fields=("token",)),
            responses={
                200: ResponseSpec(
                    description="The token's properties; only `active: false` if it is not active or the caller may "
                    "not see it.",
                    models=(Introspection,),
                ),
                **error_responses(OAuthErrorBody, 400, 401, 403, 413, 429, 503),
            },
        )
    )
    async def introspect(self, http_request: web.Request) -> web.Response:
        """Introspect the token; this does not count against its limits."""
        request = IntrospectionRequest.model_validate(
            await read_parameters(http_request, IntrospectionRequest.model_fields)
        )
        requester = await self._authenticate(http_request, request)
        if not request.token:
            raise InvalidRequest("token is missing")
        body = (await self.introspector.introspect(request.token, requester)).model_dump_json(exclude_none=True)
        return json_bytes(body.encode(), headers=NO_STORE)

    async def _authenticate(self, http_request: web.Request, request: IntrospectionRequest) -> Requester:
        """Authenticate the caller. Raises InvalidClient, InvalidRequest or AccessDenied."""
        authorization = http_request.headers.get("Authorization")
        if TYK_KEY_HEADER in http_request.headers:
            authorization = ""  # an operator's, whatever else there is
        if authorization is None or authorization.partition(" ")[0].lower() == "basic":
            client = await self.clients.authenticate(authorization, request)
            if is_public(client):
                raise InvalidClient("client authentication failed", detail="a public client")
            return client
        operator = await self.access.authenticate(http_request)
        if operator is None:
            raise InvalidClient("no client or operator has these credentials")
        if request.client_secret or request.secret:
            # RFC 6749 §2.3: "MUST NOT use more than one authentication method in each request".
            raise InvalidRequest("send the credentials of an operator or of a client, not both")
        if not permits(operator, Permission.READ):
            raise AccessDenied(f"the operator lacks the permission '{Permission.READ}'")
        return operator


@dataclass(frozen=True, slots=True)
class Introspector:
    """Looks up access and refresh tokens."""

    decision: AccessDecision
    catalog: Catalog
    grants: Grants
    token_format: TokenFormat
    now: Callable[[], datetime]
    public_url: str

    async def introspect(self, token: str, requester: Requester) -> Introspection:
        """The state of the token, if this caller may know it. `token_type_hint` is ignored: tokens have prefixes."""
        if self.token_format.kind_of(token) is TokenKind.REFRESH:
            presented = self.token_format.read(TokenKind.REFRESH, token)
            is_read = presented is not None
            found = await self._refresh_token(presented, requester)
        else:
            is_read = self.decision.tokens.needs_read(token)
            found = await self._access_token(token, requester)
        if not found.active and not is_read:
            # One read in every case: the response time must not tell a dead token from one that was never issued.
            await self.grants.dummy_read()
        return found

    async def _access_token(self, token: str, requester: Requester) -> Introspection:
        access = await self.decision.token_access(token)
        if isinstance(access, Denial):
            return INACTIVE
        grant = access.grant
        opened = tuple(api.api_id for api in access.apis)
        if not (_is_theirs(grant, requester) or _is_opened_by(opened, requester)):
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

    async def _refresh_token(self, presented: PresentedToken | None, requester: Requester) -> Introspection:
        grant = await self.grants.read(presented.grant_id) if presented else None
        if presented is None or grant is None or not _is_theirs(grant, requester):
            return INACTIVE
        client = await self.catalog.client(grant.client_id, grant.api_id)
        refresh = live_refresh_token(grant, presented)
        if (
            client is None
            or is_revoked_with_client(grant, client)
            or refresh is None
            or refresh.expires_at <= self.now()
        ):
            return INACTIVE
        api = await self.catalog.api(grant.api_id)
        if api is None or not api.active or api.oauth is None or not api.oauth.refresh_token:
            return INACTIVE
        if grant.grant_type is GrantType.PASSWORD and grant.subject is not None:
            owner = await self.catalog.resource_owner(grant.subject)
            if not is_holder(owner, grant.password_since or grant.created_at):
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


def _is_theirs(grant: Grant | TokenGrant, requester: Requester) -> bool:
    return isinstance(requester, Operator) or requester.client_id == grant.client_id


def _is_opened_by(opened: tuple[str, ...], requester: Requester) -> bool:
    if isinstance(requester, Operator):
        return False
    there = (registered_on(requester, api_id) for api_id in opened)
    return any(client.resource_server for client in there if client is not None)


def _unix(moment: datetime) -> int:
    return int(moment.timestamp())
