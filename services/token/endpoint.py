"""POST /<listen-path>/oauth/token."""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from aiohttp import web

from contracts.apis import GrantType, OAuthSettings
from contracts.clients import Client
from contracts.grants import TokenRequest, TokenResponse
from libs.access import ClientAccess, is_public, issuing_api
from libs.catalog import Catalog
from libs.http.errors import NO_STORE, json_bytes
from libs.http.forms import read_parameters
from libs.oauth.errors import InvalidRequest, UnauthorizedClient, UnsupportedGrantType
from services.token.grants.base import GrantHandler


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """RFC 6749 §3.2."""

    catalog: Catalog
    clients: ClientAccess
    handlers: Mapping[GrantType, GrantHandler]

    async def token(self, http_request: web.Request) -> web.Response:
        """Tokens for what the client presents."""
        api, settings = await issuing_api(self.catalog, http_request.match_info["place"])
        request = TokenRequest.model_validate(await read_parameters(http_request))
        if not request.grant_type:
            raise InvalidRequest("grant_type is missing")
        client = await self.clients.authenticate(http_request.headers.get("Authorization"), request, api.api_id)
        handler = self._handler(request.grant_type, settings, client)
        return _rendered(await handler.issue(request, client, api, settings))

    def _handler(self, grant_type: str, settings: OAuthSettings, client: Client) -> GrantHandler:
        if not is_offered(grant_type, settings):
            raise UnsupportedGrantType("this API does not offer this grant_type")
        handler = self.handlers[GrantType(grant_type)]
        if is_public(client) and not handler.public_clients:
            raise UnauthorizedClient("a client without a secret may not use this grant_type")
        return handler


def is_offered(grant_type: str, settings: OAuthSettings) -> bool:
    """Whether this API answers the `grant_type`: refresh where a grant that has refresh tokens is offered."""
    if grant_type != GrantType.REFRESH_TOKEN:
        return grant_type in settings.grant_types
    with_refresh = {GrantType.AUTHORIZATION_CODE, GrantType.PASSWORD}
    return settings.refresh_token and not with_refresh.isdisjoint(settings.grant_types)


def _rendered(response: TokenResponse) -> web.Response:
    return json_bytes(orjson.dumps(response.model_dump(exclude_none=True)), headers=NO_STORE)
