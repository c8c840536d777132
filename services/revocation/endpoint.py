"""POST /<listen-path>/oauth/revoke and /revoke_all: clients end what is theirs (RFC 7009)."""

from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web

from contracts.grants import RevocationReason, RevocationRequest
from libs.access import ClientAccess, is_public, issuing_api
from libs.catalog import Catalog
from libs.http.errors import NO_STORE, json_bytes
from libs.http.forms import read_parameters
from libs.oauth.errors import InvalidRequest, UnauthorizedClient
from services.revocation.revoker import NotOfClient, Revoker


def _done(message: bytes) -> web.Response:
    return json_bytes(b'{"status":"ok","message":"%b"}' % message, headers=NO_STORE)


@dataclass(frozen=True, slots=True)
class RevocationEndpoint:
    """Client authentication is required; the answer does not tell whether the token existed."""

    catalog: Catalog
    clients: ClientAccess
    revoker: Revoker

    async def revoke(self, http_request: web.Request) -> web.Response:
        """The token dead if it was the client's own; 200 for any other, too (RFC 7009 §2.2)."""
        api, _ = await issuing_api(self.catalog, http_request.match_info["place"])
        request = RevocationRequest.model_validate(await read_parameters(http_request))
        client = await self.clients.authenticate(http_request.headers.get("Authorization"), request, api.api_id)
        if not request.token:
            raise InvalidRequest("token is missing")
        # Silently: a client learns nothing of other clients' tokens, and theirs stay good.
        with suppress(NotOfClient):
            await self.revoker.revoke_value(request.token, client, RevocationReason.CLIENT_REQUEST)
        return _done(b"token revoked successfully")

    async def revoke_all(self, http_request: web.Request) -> web.Response:
        """Every grant of the client dead, at once and everywhere."""
        api, _ = await issuing_api(self.catalog, http_request.match_info["place"])
        request = RevocationRequest.model_validate(await read_parameters(http_request))
        client = await self.clients.authenticate(http_request.headers.get("Authorization"), request, api.api_id)
        if is_public(client):
            raise UnauthorizedClient("a client without a secret may not revoke all its tokens")
        await self.revoker.revoke_all(client)
        return _done(b"tokens revoked successfully")
