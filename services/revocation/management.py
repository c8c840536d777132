"""The operators' side: revoke a token, revoke all tokens of a client, list the live ones."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import orjson
from aiohttp import web

from contracts.clients import Client
from contracts.errors import Envelope
from contracts.grants import Grant, IssuedToken, IssuedTokens, Pagination, RevocationReason, RevocationRequest
from contracts.operators import Permission
from libs import client_secrets
from libs.access import Access
from libs.http.errors import NO_STORE, BadRequest, NotFound, TooLarge, json_bytes
from libs.http.forms import read_parameters
from libs.oauth.errors import BodyTooLarge, InvalidRequest
from libs.oauth.tokens import public_token_id
from libs.sealing import KeyRing
from libs.store.clients import Clients
from libs.store.grants import Grants
from services.revocation.revoker import NotOfClient, Revoker

PAGE_SIZE = 100
MOST_UNPAGED = 10_000


def _ok(message: str) -> web.Response:
    envelope = Envelope(Status="OK", Message=message).model_dump(exclude={"ID"})
    return json_bytes(orjson.dumps(envelope), headers=NO_STORE)


@dataclass(frozen=True, slots=True)
class TokenManagement:
    """Tyk's Dashboard calls, for operators with `revoke` (or `read`, to list)."""

    access: Access
    clients: Clients
    grants: Grants
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

    async def tokens(self, http_request: web.Request) -> web.Response:
        """Live access tokens, soonest expiry first: a list, or with `?page=` one page of a hundred."""
        await self.access.require(http_request, Permission.READ)
        client = await self._client(http_request)
        page = http_request.query.get("page")
        if page is None:
            grants, _ = await self.grants.page_of_client(client, self.now(), 1, MOST_UNPAGED)
            return json_bytes(orjson.dumps([_listed(grant) for grant in grants]), headers=NO_STORE)
        number = int(page) if page.isascii() and page.isdecimal() and 0 < len(page) < 9 else 1
        number = max(1, number)
        grants, total = await self.grants.page_of_client(client, self.now(), number, PAGE_SIZE)
        body = IssuedTokens(
            Pagination=Pagination(page_num=number, page_total=-(-total // PAGE_SIZE), page_size=PAGE_SIZE),
            Tokens=[IssuedToken.model_validate(_listed(grant)) for grant in grants],
        )
        return json_bytes(orjson.dumps(body.model_dump(exclude_none=True)), headers=NO_STORE)

    async def _client(self, http_request: web.Request) -> Client:
        client = await self.clients.get(http_request.match_info["client_id"])
        api_id = http_request.match_info.get("api_id")
        if client is None or (api_id is not None and client.api_id != api_id):
            raise NotFound("OAuth Client ID not found")
        return client

    async def _asked(self, http_request: web.Request) -> tuple[Client, RevocationRequest]:
        """The client of the path, and a body that does not contradict it."""
        client = await self._client(http_request)
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


def _listed(grant: Grant) -> dict[str, object]:
    if grant.access is None:
        raise ValueError("a listed grant has an access token")
    listed = IssuedToken(
        code=public_token_id(grant.grant_id, grant.generation),
        expires=int(grant.access.expires_at.timestamp()),
        grant_id=grant.grant_id,
        subject=grant.subject,
        scope=grant.access.scope,
    )
    return listed.model_dump(exclude_none=True)
