"""POST /<listen-path>/oauth/revoke and /revoke_all: a client revokes its own tokens (RFC 7009)."""

from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web

from contracts.error_bodies import OAuthErrorBody
from contracts.grants import RevocationReason, RevocationRequest, RevocationResponse
from contracts.operations import FORM, JSON, Caller, Operation, RequestBody, ResponseSpec
from libs.access import ClientAuthenticator, issuing_api
from libs.catalog import Catalog
from libs.http.forms import read_parameters
from libs.http.operations import API_REF_PATTERN, error_responses, operation
from libs.http.responses import NO_STORE, json_bytes
from libs.oauth.client_auth import is_public
from libs.oauth.errors import InvalidRequest, UnauthorizedClient
from services.revocation.revoker import NotOfClient, Revoker

_RESPONSES = {
    200: ResponseSpec(description="Revoked, or nothing to revoke.", models=(RevocationResponse,)),
    **error_responses(OAuthErrorBody, 400, 401, 404, 413, 429, 503),
}


def _revoked(message: bytes) -> web.Response:
    return json_bytes(b'{"status":"ok","message":"%b"}' % message, headers=NO_STORE)


@dataclass(frozen=True, slots=True)
class RevocationEndpoint:
    """The client must authenticate. The response does not tell whether the token existed."""

    catalog: Catalog
    clients: ClientAuthenticator
    revoker: Revoker

    @operation(
        Operation(
            method="POST",
            path="/{api_ref}/oauth/revoke",
            name="revokeToken",
            tag="Revocation",
            summary="Revoke a token",
            description="Revokes an access or refresh token of the authenticated client (RFC 7009). Revoking a "
            "refresh token "
            "revokes the whole grant. Unknown tokens and tokens of other clients also get 200.",
            caller=Caller.CLIENT,
            body=RequestBody(model=RevocationRequest, media_types=(FORM, JSON), fields=("token",)),
            responses=_RESPONSES,
            patterns=API_REF_PATTERN,
            cross_origin=True,
        )
    )
    async def revoke(self, http_request: web.Request) -> web.Response:
        """200 with the token revoked if it was issued to the client; 200 for any other value, too."""
        api, _ = await issuing_api(self.catalog, http_request.match_info["api_ref"])
        request = RevocationRequest.model_validate(await read_parameters(http_request, RevocationRequest.model_fields))
        client = await self.clients.authenticate(http_request.headers.get("Authorization"), request, api.api_id)
        if not request.token:
            raise InvalidRequest("token is missing")
        # RFC 7009 §2.2: "invalid tokens do not cause an error response". Another client's token gets the same response
        # and stays valid, so that no client can learn about or revoke tokens of others.
        with suppress(NotOfClient):
            await self.revoker.revoke_value(request.token, client, RevocationReason.CLIENT_REQUEST)
        return _revoked(b"token revoked successfully")

    @operation(
        Operation(
            method="POST",
            path="/{api_ref}/oauth/revoke_all",
            name="revokeAllTokens",
            tag="Revocation",
            summary="Revoke all tokens of the client",
            description="Revokes every grant of the authenticated client at once. Not available to public clients.",
            caller=Caller.CLIENT,
            body=RequestBody(model=RevocationRequest, media_types=(FORM, JSON)),
            responses=_RESPONSES,
            patterns=API_REF_PATTERN,
            cross_origin=True,
        )
    )
    async def revoke_all(self, http_request: web.Request) -> web.Response:
        """200 with every grant of the client revoked, at once and in every process. Not for public clients."""
        api, _ = await issuing_api(self.catalog, http_request.match_info["api_ref"])
        request = RevocationRequest.model_validate(await read_parameters(http_request, RevocationRequest.model_fields))
        client = await self.clients.authenticate(http_request.headers.get("Authorization"), request, api.api_id)
        if is_public(client):
            # A public client proves nothing: anybody could log out all users of the app.
            raise UnauthorizedClient("a client without a secret may not revoke all its tokens")
        await self.revoker.revoke_all(client)
        return _revoked(b"tokens revoked successfully")
