"""Revocation by operators: one token of a client, or all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import orjson
from aiohttp import web

from contracts.clients import Client
from contracts.error_bodies import Envelope
from contracts.grant_views import GrantQuery
from contracts.grants import RevocationReason, RevocationRequest
from contracts.operations import FORM, JSON, RequestBody, ResponseSpec
from contracts.operators import Permission
from libs import client_secrets
from libs.encryption import KeyRing
from libs.http.error_responses import BadRequest, TooLarge
from libs.http.forms import read_parameters
from libs.http.operations import CLIENT_ID_PATTERN, operator_operation
from libs.http.responses import NO_STORE, json_bytes
from libs.oauth.errors import BodyTooLarge, InvalidRequest
from libs.oauth.registrations import registrations_of
from libs.store.clients import Clients
from services.revocation.revoker import NotOfClient, Revoker
from services.revocation.token_list import client_of_path

MOST_COUNTED = 100_000
"""Grants that a response counts."""
_NOTHING = "nothing was revoked: there is no such token, or it had ended before"
_CREDENTIALS = "`client_id` and `client_secret` are optional, but must be right if they are there."


def done(message: str, meta: Mapping[str, object] | None) -> web.Response:
    """200 in the Dashboard's envelope; `Meta` says how much was revoked, where that can be more than one thing."""
    envelope = Envelope(Status="OK", Message=message, Meta=meta).model_dump(exclude={"ID"})
    return json_bytes(orjson.dumps(envelope), headers=NO_STORE)


@dataclass(frozen=True, slots=True)
class TokenManagement:
    """The revocation calls of Tyk's Dashboard API, for operators with the permission `revoke`."""

    clients: Clients
    keys: KeyRing
    revoker: Revoker
    now: Callable[[], datetime]

    @operator_operation(
        "POST",
        "/api/apis/oauth/{client_id}/revoke",
        "revokeTokenOfClient",
        Permission.REVOKE,
        tag="Revocation",
        summary="Revoke a token of a client",
        description="`token` is the token itself or its public id (`code` in listTokens). Revoking a refresh token "
        "revokes the whole grant. If nothing was revoked, because there is no such token or it had ended before, "
        "`Message` says so.",
        body=RequestBody(
            model=RevocationRequest, media_types=(FORM, JSON), fields=("token",), description=_CREDENTIALS
        ),
        response=ResponseSpec(description="Token revoked.", models=(Envelope,)),
        errors=(404,),
        patterns=CLIENT_ID_PATTERN,
    )
    async def revoke(self, http_request: web.Request) -> web.Response:
        """200 with the token, given by value or by public id, revoked; 200 for an unknown or invalid one, too."""
        client, request = await self._client_and_body(http_request)
        if not request.token:
            raise BadRequest("token is required")
        reason = RevocationReason.OPERATOR
        try:
            ended = await self.revoker.revoke_public_id(
                request.token, client, reason
            ) or await self.revoker.revoke_value(request.token, client, reason)
        except NotOfClient as error:
            raise BadRequest("this token belongs to another client") from error
        message = "token revoked successfully" if ended else _NOTHING
        return done(message, None)

    @operator_operation(
        "POST",
        "/api/apis/oauth/{client_id}/revoke_all",
        "revokeAllTokensOfClient",
        Permission.REVOKE,
        tag="Revocation",
        summary="Revoke all tokens of a client",
        description="Every token that the client has, on every API, stops working at once. `Meta.ended` is the number "
        "of its grants that were not revoked before, counted up to 100000.",
        body=RequestBody(model=RevocationRequest, media_types=(FORM, JSON), optional=True, description=_CREDENTIALS),
        response=ResponseSpec(description="Tokens revoked.", models=(Envelope,)),
        errors=(404,),
        patterns=CLIENT_ID_PATTERN,
    )
    async def revoke_all(self, http_request: web.Request) -> web.Response:
        """200 with every grant of the client revoked, at once and in every process."""
        client, _ = await self._client_and_body(http_request)
        query = GrantQuery(client_id=client.client_id)
        ended = await self.revoker.grants.count_unended(query, self.now(), MOST_COUNTED)
        for registration in registrations_of(client).values():
            await self.revoker.revoke_all(registration)
        return done("tokens revoked successfully", {"ended": ended})

    async def _client_and_body(self, http_request: web.Request) -> tuple[Client, RevocationRequest]:
        """The client that the path names, and the body. Raises BadRequest if they contradict each other."""
        client = await client_of_path(self.clients, http_request)
        request = RevocationRequest.model_validate(await _parameters(http_request))
        if request.client_id not in {None, client.client_id}:
            raise BadRequest("client_id differs from the one in the path")
        secret = request.client_secret or request.secret
        if secret and not client_secrets.is_valid(self.keys, client, secret.get_secret_value(), self.now()):
            raise BadRequest("client_secret is wrong; an operator may leave it out")
        return client, request


async def _parameters(http_request: web.Request) -> dict[str, str]:
    """The parameters of the body, none for an empty one. Raises BadRequest, TooLarge."""
    if not http_request.body_exists and not http_request.query_string:
        return {}
    try:
        return await read_parameters(http_request, RevocationRequest.model_fields)
    except BodyTooLarge as error:
        raise TooLarge(error.description) from error
    except InvalidRequest as error:
        raise BadRequest(error.description) from error
