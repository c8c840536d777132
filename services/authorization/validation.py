"""Validates authorization requests in two steps, since only after the first may errors be redirected to the client.

`verify_client` checks the client and its redirect URI (RFC 6749 §4.1.2.1), `approve` everything else.
"""

from dataclasses import dataclass

from contracts.apis import Api, GrantType, OAuthSettings
from contracts.clients import Client
from contracts.grants import CodeRequest
from libs.catalog import Catalog
from libs.oauth.client_auth import is_public
from libs.oauth.errors import CannotRedirect, InvalidRequest, UnauthorizedClient, UnsupportedResponseType
from libs.oauth.pkce import parse_challenge
from libs.oauth.redirect_uris import match_redirect_uri
from libs.oauth.scopes import grant_scope, parse_scope
from libs.tyk.grant_fields import not_offered

RESPONSE_MODE = "query"
"""The only response mode: the response is in the query of the redirect URI."""


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """An authorization request of a known client, with a redirect URI that is registered for it."""

    api: Api
    settings: OAuthSettings
    client: Client
    redirect_uri: str
    request: CodeRequest


@dataclass(frozen=True, slots=True)
class ApprovedRequest:
    """The scope and the challenge that the code will be bound to."""

    scope: str | None
    code_challenge: str | None


async def verify_client(catalog: Catalog, api: Api, settings: OAuthSettings, request: CodeRequest) -> VerifiedRequest:
    """The request with its client and the redirect URI to use. Raises CannotRedirect."""
    try:
        client = await catalog.client(request.client_id, api.api_id)
        if client is None:
            raise InvalidRequest("client_id is missing, or not a client of this API")
        redirect_uri = match_redirect_uri(
            request.redirect_uri, client.redirect_uris, localhost_any_port=client.localhost_any_port
        )
        return VerifiedRequest(api, settings, client, redirect_uri, request)
    except (InvalidRequest, UnauthorizedClient) as error:
        raise CannotRedirect(error) from error


def approve(verified: VerifiedRequest) -> ApprovedRequest:
    """The rest of the request, if the API and the client allow it. Raises OAuthError, which may be redirected."""
    request, settings = verified.request, verified.settings
    if not request.response_type:
        raise InvalidRequest("response_type is missing")
    if request.response_type == "code" and not settings.response_types:
        raise UnsupportedResponseType(not_offered(GrantType.AUTHORIZATION_CODE, verified.api.format))
    if request.response_type not in settings.response_types:
        raise UnsupportedResponseType("response_type must be code")
    if request.response_mode not in {None, RESPONSE_MODE}:
        # Not ignored like an unknown parameter: a client that requests another mode does not want the code in a URL.
        raise InvalidRequest(f"response_mode must be {RESPONSE_MODE}")
    if GrantType.AUTHORIZATION_CODE not in settings.grant_types:
        raise UnauthorizedClient(not_offered(GrantType.AUTHORIZATION_CODE, verified.api.format))
    # RFC 9700 §2.1.1: "Public clients MUST use PKCE"; for the others the API's definition decides.
    required = settings.pkce_required or is_public(verified.client)
    challenge = parse_challenge(request.code_challenge, request.code_challenge_method, required=required)
    return ApprovedRequest(grant_scope(parse_scope(request.scope), verified.client.scope, settings.scopes), challenge)
