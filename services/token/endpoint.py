"""POST /<listen-path>/oauth/token: the token endpoint (RFC 6749 §3.2)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson
from aiohttp import web

from contracts.apis import DefinitionFormat, GrantType, OAuthSettings
from contracts.clients import Client
from contracts.error_bodies import OAuthErrorBody
from contracts.grants import TokenRequest, TokenResponse
from contracts.operations import FORM, JSON, Caller, Operation, RequestBody, ResponseSpec
from libs.access import ClientAuthenticator, issuing_api
from libs.catalog import Catalog
from libs.event_encoding import EventContext
from libs.http.forms import read_parameters
from libs.http.operations import API_REF_PATTERN, error_responses, operation
from libs.http.responses import NO_STORE, json_bytes
from libs.oauth.client_auth import is_public
from libs.oauth.errors import InvalidRequest, UnauthorizedClient, UnsupportedGrantType
from libs.oauth.grant_types import is_offered
from libs.oauth.grants import IssueContext
from libs.tyk.grant_fields import not_offered
from services.token.grants.grant_handler import GrantHandler, IssuedTokens

_PARAMETERS = frozenset(TokenRequest.model_fields)


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """Authenticates the client and hands the request to the handler of its `grant_type`."""

    catalog: Catalog
    clients: ClientAuthenticator
    handlers: Mapping[GrantType, GrantHandler]
    event_context: Callable[[], EventContext]

    @operation(
        Operation(
            method="POST",
            path="/{api_ref}/oauth/token",
            name="issueToken",
            tag="Tokens",
            summary="Issue tokens",
            description="Exchanges an authorization code, client credentials, a user's password or a refresh token for "
            "tokens (RFC 6749 §3.2). Which other parameters are required depends on `grant_type`.",
            caller=Caller.CLIENT,
            body=RequestBody(model=TokenRequest, media_types=(FORM, JSON), fields=("grant_type",)),
            responses={
                200: ResponseSpec(description="Tokens issued.", models=(TokenResponse,)),
                **error_responses(OAuthErrorBody, 400, 401, 404, 413, 429, 503),
            },
            patterns=API_REF_PATTERN,
            cross_origin=True,
        )
    )
    async def token(self, http_request: web.Request) -> web.Response:
        """200 with the tokens, which are committed; every refusal is an OAuthError (RFC 6749 §5.2)."""
        api, settings = await issuing_api(self.catalog, http_request.match_info["api_ref"])
        request = TokenRequest.model_validate(await read_parameters(http_request, _PARAMETERS))
        if not request.grant_type:
            in_query = "; send it in the body, as a form" if "grant_type" in http_request.query else ""
            raise InvalidRequest(f"grant_type is missing{in_query}")
        client = await self.clients.authenticate(http_request.headers.get("Authorization"), request, api.api_id)
        handler = self._handler(request.grant_type, api.format, settings, client)
        return _rendered(await handler.issue(request, IssueContext(api, settings, client, self.event_context())))

    def _handler(
        self, grant_type: str, language: DefinitionFormat, settings: OAuthSettings, client: Client
    ) -> GrantHandler:
        if not is_offered(grant_type, settings):
            raise UnsupportedGrantType(not_offered(grant_type, language))
        handler = self.handlers[GrantType(grant_type)]
        if is_public(client) and not handler.profile.admits_public_clients:
            raise UnauthorizedClient(
                "a client without a secret may not use this grant_type; register one without public: true"
            )
        return handler


def _rendered(issued: IssuedTokens) -> web.Response:
    body = orjson.dumps(issued.response.model_dump(exclude_none=True))
    # RFC 6749 §5.1: "no-store" is a MUST "in any response containing tokens".
    return json_bytes(body, headers=NO_STORE, on_sent=issued.on_sent)
