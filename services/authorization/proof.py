"""Client and redirect URI, proven or not: the line before which no error may be redirected (RFC 6749 §4.1.2.1)."""

from dataclasses import dataclass

from contracts.apis import Api, GrantType, OAuthSettings
from contracts.clients import Client
from contracts.grants import CodeRequest
from libs.access import is_public
from libs.catalog import Catalog
from libs.oauth.errors import CannotRedirect, InvalidRequest, UnauthorizedClient, UnsupportedResponseType
from libs.oauth.pkce import parse_challenge
from libs.oauth.redirect_uris import match_redirect_uri
from libs.oauth.scopes import grant_scope, parse_scope

RESPONSE_MODE = "query"
"""How the client gets the response: in the query of its redirect URI."""


@dataclass(frozen=True, slots=True)
class Proven:
    """An authorization request whose client and redirect URI are the client's own."""

    api: Api
    settings: OAuthSettings
    client: Client
    redirect_uri: str
    request: CodeRequest


@dataclass(frozen=True, slots=True)
class Approved:
    """What a code will be bound to."""

    scope: str | None
    code_challenge: str | None


async def prove(catalog: Catalog, api: Api, settings: OAuthSettings, request: CodeRequest) -> Proven:
    """The request with its client and the redirect URI to use. Raises CannotRedirect."""
    try:
        client = await catalog.client(request.client_id) if request.client_id else None
        if client is None or client.api_id != api.api_id:
            raise InvalidRequest("client_id is missing, or not a client of this API")
        return Proven(api, settings, client, match_redirect_uri(request.redirect_uri, client.redirect_uris), request)
    except (InvalidRequest, UnauthorizedClient) as error:
        raise CannotRedirect(error) from error


def approve(proven: Proven) -> Approved:
    """What the rest of the request asks for, if the API and the client allow it. Raises OAuthError."""
    request, settings = proven.request, proven.settings
    if not request.response_type:
        raise InvalidRequest("response_type is missing")
    if request.response_type not in settings.response_types:
        raise UnsupportedResponseType("response_type must be code")
    if request.response_mode not in {None, RESPONSE_MODE}:
        # Not ignored as unknown: whoever asks for another one does not want the code in a URL.
        raise InvalidRequest(f"response_mode must be {RESPONSE_MODE}")
    if GrantType.AUTHORIZATION_CODE not in settings.grant_types:
        raise UnauthorizedClient("this API does not offer the authorization code grant")
    required = settings.pkce_required or is_public(proven.client)
    challenge = parse_challenge(request.code_challenge, request.code_challenge_method, required=required)
    return Approved(grant_scope(parse_scope(request.scope), proven.client.scope), challenge)
