"""Tokens in the Tyk gateway's own API, translated (libs/http/tyk_gateway_api.py)."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from aiohttp import web

from contracts.clients import Client
from contracts.grants import Grant, GrantState, IssuedTokenList, IssuedTokens, Pagination, RevocationReason
from contracts.operations import FORM, JSON, Parameters, RequestBody, ResponseSpec
from contracts.operators import Permission
from contracts.pages import PAGE_SIZE, TokenPageQuery
from contracts.tyk_gateway import (
    GatewayRevocationRequest,
    GatewaySession,
    GatewayStatus,
    PurgeQuery,
    RefreshTokenQuery,
)
from libs.catalog import Catalog
from libs.http.error_responses import BadRequest, NotFound, Unprocessable
from libs.http.forms import read_body, read_parameters, replace_body
from libs.http.operations import operation
from libs.http.tyk_gateway_api import KEY_OF_TOKEN, action, answer, gateway_operation, ok, translated
from libs.oauth.errors import InvalidRequest
from libs.oauth.grants import is_revoked_with_client, live_access_token
from libs.oauth.token_formats import TokenFormat, parse_public_token_id
from libs.store.grants import Grants
from services.revocation.operator_revocation import TokenManagement
from services.revocation.revoker import Revoker
from services.revocation.token_list import TokenList

_KEY = "/tyk/keys/{token}"
_IS_TOKEN = {"token": KEY_OF_TOKEN}
_FORM = RequestBody(model=GatewayRevocationRequest, media_types=(FORM, JSON))
_NO_PAGE = IssuedTokens(Pagination=Pagination(page_num=1, page_total=0, page_size=PAGE_SIZE), Tokens=[])
_DONE = ResponseSpec(description="Done.", models=(GatewayStatus,))


class _Missing(BadRequest):
    """A required parameter is missing."""


class _Unidentified(BadRequest):
    """The gateway's status for a client that does not say who it is."""

    status: ClassVar[int] = 401


class _NoClient(BadRequest):
    """There is no such client."""


@dataclass(frozen=True, slots=True)
class TykTokenEndpoints:
    """Listing and revocation of tokens."""

    management: TokenManagement
    tokens: TokenList
    catalog: Catalog
    grants: Grants
    revoker: Revoker
    token_format: TokenFormat
    now: Callable[[], datetime]

    @operation(
        gateway_operation(
            "GET",
            "/tyk/oauth/clients/{api_id}/{client_id}/tokens",
            "tykListTokens",
            Permission.READ,
            summary="List a client's tokens",
            parameters=Parameters(model=TokenPageQuery),
            response=ResponseSpec(description="The tokens.", models=(IssuedTokenList, IssuedTokens)),
            errors=(400, 404),
        )
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /tyk/oauth/clients/{api_id}/{client_id}/tokens: `code` is the public id of a token; an unknown client has
        none.
        """
        try:
            return await self.tokens.show(request)
        except NotFound:
            if await self.catalog.api(request.match_info["api_id"]) is None:
                raise NotFound("OAuth Client ID not found") from None
            return answer(_NO_PAGE if "page" in request.query else ())

    @operation(
        gateway_operation(
            "POST",
            "/tyk/oauth/revoke",
            "tykRevokeToken",
            Permission.REVOKE,
            summary="Revoke a token of a client",
            body=_FORM,
            response=_DONE,
        )
    )
    async def revoke(self, request: web.Request) -> web.Response:
        """POST /tyk/oauth/revoke with `token` and `client_id`."""
        await self.management.revoke(await self._of_client(request, "token"))
        return ok("token revoked successfully")

    @operation(
        gateway_operation(
            "POST",
            "/tyk/oauth/revoke_all",
            "tykRevokeAllTokens",
            Permission.REVOKE,
            summary="Revoke all tokens of a client",
            body=_FORM,
            response=_DONE,
            errors=(401, 404),
        )
    )
    async def revoke_all(self, request: web.Request) -> web.Response:
        """POST /tyk/oauth/revoke_all with `client_id`; a wrong `client_secret` is refused."""
        try:
            of_client = await self._of_client(request)
        except _Missing as missing:
            raise _Unidentified(missing.message) from None
        except _NoClient as unknown:
            raise NotFound(unknown.message) from None
        await self.management.revoke_all(of_client)
        return ok("tokens revoked successfully")

    @operation(
        gateway_operation(
            "DELETE",
            "/tyk/oauth/refresh/{token}",
            "tykRevokeRefreshToken",
            Permission.REVOKE,
            summary="Revoke a refresh token",
            description="Revokes the whole grant. Also 200 if there is no such token.",
            parameters=Parameters(model=RefreshTokenQuery, required=("api_id",)),
            errors=(400, 404),
        )
    )
    async def revoke_refresh_token(self, request: web.Request) -> web.Response:
        """DELETE /tyk/oauth/refresh/{token}?api_id=."""
        api_id, token = request.query.get("api_id", ""), request.match_info["token"]
        if not api_id:
            raise BadRequest("Missing parameter api_id")
        api = await self.catalog.api(api_id)
        if api is None:
            raise NotFound("API for this refresh token not found")
        if api.oauth is None:
            raise BadRequest("OAuth is not enabled on this API")
        grant = await self._grant_of(token)
        if grant is not None and grant.api_id == api_id:
            await self._revoke(token, grant)
        return action(token, "deleted")

    @operation(
        gateway_operation(
            "DELETE",
            "/tyk/oauth/tokens",
            "tykPurgeTokens",
            Permission.REVOKE,
            summary="Purge lapsed tokens",
            description="Expired tokens are purged without being asked, so this does nothing.",
            parameters=Parameters(model=PurgeQuery, required=("scope",)),
            response=_DONE,
            errors=(400, 422),
        )
    )
    async def purge(self, request: web.Request) -> web.Response:
        """DELETE /tyk/oauth/tokens?scope=lapsed."""
        scope = request.query.get("scope", "")
        if not scope:
            raise Unprocessable("scope parameter is required")
        if scope != "lapsed":
            raise BadRequest("unknown scope")
        return ok("lapsed tokens purged")

    @operation(
        gateway_operation(
            "GET",
            _KEY,
            "tykGetToken",
            Permission.READ,
            summary="Get an access token",
            response=GatewaySession,
            errors=(404,),
            patterns=_IS_TOKEN,
        )
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /tyk/keys/{token}: a live access token, given by value or public id, as a session of Tyk's."""
        token = request.match_info["token"]
        grant = await self._grant_of(token)
        client = await self.management.clients.registered(grant.client_id, grant.api_id) if grant else None
        if grant is None or client is None or not self._is_live(token, grant, client):
            raise NotFound("Key not found")
        return answer(_session(grant, client))

    @operation(
        gateway_operation(
            "DELETE",
            _KEY,
            "tykDeleteToken",
            Permission.REVOKE,
            summary="Revoke a token",
            description="A refresh token revokes the whole grant.",
            errors=(404,),
            patterns=_IS_TOKEN,
        )
    )
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /tyk/keys/{token}, given by value or public id."""
        token = request.match_info["token"]
        grant = await self._grant_of(token)
        if grant is None or not await self._revoke(token, grant):
            raise NotFound("There is no such key found")
        return action(token, "deleted")

    async def _of_client(self, request: web.Request, *required: str) -> web.Request:
        """The request as our operation takes it, with the client in its path."""
        replace_body(request, await read_body(request))
        try:
            said = await read_parameters(request, GatewayRevocationRequest.model_fields)
        except InvalidRequest as error:
            raise BadRequest(error.description) from error
        for name in (*required, "client_id"):
            if not said.get(name):
                raise _Missing(f"{name} is required")
        if await self.management.clients.get(said["client_id"]) is None:
            raise _NoClient("oauth client doesn't exist")
        return translated(request, client_id=said["client_id"])

    async def _grant_of(self, token: str) -> Grant | None:
        """The grant of a token that is given by value or by public id."""
        named, presented = parse_public_token_id(token), self.token_format.read_any(token)
        grant_id = named[0] if named else presented.grant_id if presented else None
        return await self.grants.read(grant_id) if grant_id else None

    async def _revoke(self, token: str, grant: Grant) -> bool:
        client = await self.management.clients.registered(grant.client_id, grant.api_id)
        if client is None:
            return False
        reason = RevocationReason.OPERATOR
        return await self.revoker.revoke_public_id(token, client, reason) or await self.revoker.revoke_value(
            token, client, reason
        )

    def _is_live(self, token: str, grant: Grant, client: Client) -> bool:
        access, named, presented = grant.access, parse_public_token_id(token), self.token_format.read_any(token)
        if access is None or access.revoked or access.expires_at <= self.now() or grant.state is not GrantState.ACTIVE:
            return False
        if is_revoked_with_client(grant, client):
            return False
        if presented is not None:
            return live_access_token(grant, presented) is not None
        return named is not None and named[1] == grant.generation


def _session(grant: Grant, client: Client) -> GatewaySession:
    if grant.access is None:
        raise ValueError("a live grant has an access token")
    return GatewaySession(
        apply_policies=list(client.policy_ids),
        is_inactive=False,
        oauth_client_id=grant.client_id,
        expires=int(grant.access.expires_at.timestamp()),
        alias=grant.subject,
        access_rights={grant.api_id: {"api_id": grant.api_id}},
    )
