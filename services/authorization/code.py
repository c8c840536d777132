"""POST …/authorize-client: the identity server has logged somebody in and asks for a code."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError

from contracts.apis import Api
from contracts.grants import CodeRequest, CodeResponse
from contracts.operators import Permission
from libs.access import Access, issuing_api
from libs.catalog import Catalog
from libs.events import Origin
from libs.http.errors import NO_STORE, NotFound, first_fault, json_bytes, oauth_body
from libs.http.forms import read_parameters
from libs.oauth.errors import InvalidRequest, OAuthError, TemporarilyUnavailable, UnknownApi
from libs.oauth.grants import issue_code
from libs.oauth.issuer import issuer_of
from libs.oauth.redirect_uris import with_query
from libs.oauth.tokens import TokenCodec, TokenKind, new_grant_id
from libs.store.grants import Grants
from services.authorization.key_rules import parse_key_rules
from services.authorization.proof import Proven, approve, prove


@dataclass(frozen=True, slots=True)
class CodeEndpoint:
    """Issues codes to operators with permission `authorize`; consent is theirs to have asked for."""

    access: Access
    catalog: Catalog
    grants: Grants
    codec: TokenCodec
    origin: Callable[[], Origin]
    public_url: str
    oauth_error_status: int | None

    async def for_api(self, http_request: web.Request) -> web.Response:
        """/api/apis[/oauth]/{api_id}/authorize-client."""
        return await self._answer(http_request, http_request.match_info["api_id"])

    async def for_path(self, http_request: web.Request) -> web.Response:
        """/<listen-path>/tyk/oauth/authorize-client."""
        return await self._answer(http_request, http_request.match_info["place"])

    async def _answer(self, http_request: web.Request, place: str) -> web.Response:
        await self.access.require(http_request, Permission.AUTHORIZE)
        try:
            api, settings = await issuing_api(self.catalog, place)
        except UnknownApi as error:
            raise NotFound("API reference not found.") from error
        request = _code_request(await read_parameters(http_request, structured={"key_rules"}))
        proven = await prove(self.catalog, api, settings, request)
        try:
            return await self._issued(proven)
        except TemporarilyUnavailable:
            raise
        except OAuthError as error:
            return self._refused(error, proven)

    async def _issued(self, proven: Proven) -> web.Response:
        request = proven.request
        approved = approve(proven)
        grant_id = new_grant_id(os.urandom(16))
        code = self.codec.mint(TokenKind.CODE, grant_id, 0)
        issued = issue_code(
            grant_id,
            code,
            proven.api,
            proven.client,
            settings=proven.settings,
            redirect_uri=proven.redirect_uri,
            redirect_uri_requested=request.redirect_uri is not None,
            scope=approved.scope,
            code_challenge=approved.code_challenge,
            subject=request.subject,
            key_rules=await self._key_rules(request, proven),
            at=self.origin(),
        )
        await self.grants.commit(issued)
        parameters = {"code": code.value, **self._common(proven.api, request.state)}
        response = CodeResponse(
            code=code.value, redirect_to=with_query(proven.redirect_uri, parameters), state=request.state
        )
        return json_bytes(orjson.dumps(response.model_dump(exclude_none=True)), headers=NO_STORE)

    async def _key_rules(self, request: CodeRequest, proven: Proven) -> dict[str, Any] | None:
        if request.key_rules is None:
            return None
        policies = [await self.catalog.policy(policy_id) for policy_id in proven.client.policy_ids]
        return parse_key_rules(request.key_rules, proven.api.api_id, [policy for policy in policies if policy])

    def _refused(self, error: OAuthError, proven: Proven) -> web.Response:
        # Tyk's shape: the error, and beside it where to send the browser with it.
        body = oauth_body(error)
        parameters = {**body, **self._common(proven.api, proven.request.state)}
        if proven.request.state is not None:
            body["state"] = proven.request.state
        body["redirect_to"] = with_query(proven.redirect_uri, parameters)
        return json_bytes(orjson.dumps(body), self.oauth_error_status or error.status, NO_STORE)

    def _common(self, api: Api, state: str | None) -> dict[str, str]:
        # RFC 9207 §2: the response names its issuer, so that a client cannot be made to mix servers up.
        state_parameter = {"state": state} if state is not None else {}
        return {**state_parameter, "iss": issuer_of(self.public_url, api)}


def _code_request(parameters: dict[str, str]) -> CodeRequest:
    """Raises InvalidRequest, which this endpoint answers as RFC 6749 says although its path is management's."""
    try:
        return CodeRequest.model_validate(parameters)
    except ValidationError as error:
        raise InvalidRequest(first_fault(error)) from error
