"""The operators' side: revoke a token, revoke all tokens of a client."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import orjson
from aiohttp import web

from contracts.clients import Client
from contracts.errors import Envelope
from contracts.grants import RevocationReason, RevocationRequest
from contracts.operators import Permission
from libs import client_secrets
from libs.access import Access
from libs.http.errors import NO_STORE, BadRequest, TooLarge, json_bytes
from libs.http.forms import read_parameters
from libs.oauth.errors import BodyTooLarge, InvalidRequest
from libs.sealing import KeyRing
from libs.store.clients import Clients
from services.revocation.revoker import NotOfClient, Revoker
from services.revocation.token_list import client_of_path


def _ok(message: str) -> web.Response:
    envelope = Envelope(Status="OK", Message=message).model_dump(exclude={"ID"})
    return json_bytes(orjson.dumps(envelope), headers=NO_STORE)


@dataclass(frozen=True, slots=True)
class TokenManagement:
    """Tyk's Dashboard calls, for operators with `revoke`."""

    access: Access
    clients: Clients
    keys: KeyRing
    revoker: Revoker
    now: Callable[[], datetime]

    async def revoke(self, http_request: web.Request) -> web.Response:
        """The token, given as itself or by its public id, dead; 200 also where it already was, or never existed."""
        await self.access.require(http_request, Permission.REVOKE)
        client, request = await self._asked(http_request)
        if not request.token:
            raise BadRequest("token is required")
        reason = RevocationReason.OPERATOR
        try:
            if not await self.revoker.revoke_public_id(request.token, client, reason):
                await self.revoker.revoke_value(request.token, client, reason)
        except NotOfClient as error:
            raise BadRequest("this token belongs to another client") from error
        return _ok("token revoked successfully")

    async def revoke_all(self, http_request: web.Request) -> web.Response:
        """Every grant of the client dead, at once and everywhere."""
        await self.access.require(http_request, Permission.REVOKE)
        client, _ = await self._asked(http_request)
        await self.revoker.revoke_all(client)
        return _ok("tokens revoked successfully")

    async def _asked(self, http_request: web.Request) -> tuple[Client, RevocationRequest]:
        """The client of the path, and a body that does not contradict it."""
        client = await client_of_path(self.clients, http_request)
        request = RevocationRequest.model_validate(await _parameters(http_request))
        if request.client_id not in {None, client.client_id}:
            raise BadRequest("client_id differs from the one in the path")
        secret = request.client_secret or request.secret
        if secret and not client_secrets.is_valid(self.keys, client, secret.get_secret_value(), self.now()):
            raise BadRequest("client_secret is wrong; an operator may leave it out")
        return client, request


async def _parameters(http_request: web.Request) -> dict[str, str]:
    """Those of the body; a request may have none. Raises BadRequest, TooLarge."""
    if not http_request.body_exists and not http_request.query_string:
        return {}
    try:
        return await read_parameters(http_request)
    except BodyTooLarge as error:
        raise TooLarge(error.description) from error
    except InvalidRequest as error:
        raise BadRequest(error.description) from error
