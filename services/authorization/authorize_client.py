"""POST …/authorize-client: the identity server has authenticated a user and requests an authorization code."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import orjson
from aiohttp import web
from pydantic import ValidationError

from contracts.apis import Api
from contracts.error_bodies import Envelope, OAuthErrorBody
from contracts.grants import CodeRefusal, CodeRequest, CodeResponse
from contracts.operations import FORM, JSON, Caller, Operation, RequestBody, ResponseSpec
from contracts.operators import Permission
from libs.access import issuing_api
from libs.catalog import Catalog
from libs.event_encoding import EventContext
from libs.http.error_responses import NotFound, first_fault, oauth_body
from libs.http.forms import read_parameters
from libs.http.operations import API_REF_PATTERN, ERRORS, RETRY_AFTER, operation
from libs.http.responses import NO_STORE, json_bytes
from libs.oauth.errors import CannotRedirect, InvalidRequest, OAuthError, TemporarilyUnavailable, UnknownApi
from libs.oauth.grants import CodeBinding, IssueContext, issue_code
from libs.oauth.issuer_url import issuer_of
from libs.oauth.redirect_uris import with_query
from libs.oauth.token_formats import TokenFormat, TokenKind, new_grant_id
from libs.store.grants import Grants
from libs.store.users import Users
from services.authorization.key_rules import GrantRules, parse_key_rules, require_narrower
from services.authorization.validation import VerifiedRequest, approve, verify_client

_KEY_RULES = (
    "`key_rules` is a session object of Tyk's as JSON text; in a JSON body it may be the object itself. "
    "`apply_policies` "
    "(or `apply_policy_id`) restricts the grant further to what these policies allow. Fields that would restrict the "
    "token and are not supported are refused by name."
)
BODY = RequestBody(
    model=CodeRequest, media_types=(FORM, JSON), fields=("response_type", "client_id"), description=_KEY_RULES
)
RESPONSES = {
    200: ResponseSpec(description="Code issued.", models=(CodeResponse,)),
    400: ResponseSpec(description=ERRORS[400], models=(CodeRefusal,)),
    401: ResponseSpec(description=ERRORS[401], models=(Envelope,)),
    403: ResponseSpec(description=ERRORS[403], models=(Envelope, CodeRefusal)),
    404: ResponseSpec(description=ERRORS[404], models=(Envelope,)),
    408: ResponseSpec(description=ERRORS[408], models=(Envelope, OAuthErrorBody)),
    413: ResponseSpec(description=ERRORS[413], models=(OAuthErrorBody,)),
    429: ResponseSpec(description=ERRORS[429], models=(Envelope, OAuthErrorBody), headers=RETRY_AFTER),
    503: ResponseSpec(description=ERRORS[503], models=(Envelope, OAuthErrorBody), headers=RETRY_AFTER),
}


def _issue_code(
    path: str, name: str, summary: str, description: str, patterns: Mapping[str, str] | None = None
) -> Operation:
    return Operation(
        method="POST",
        path=path,
        name=name,
        tag="Authorization",
        summary=summary,
        description=description,
        caller=Caller.OPERATOR,
        permission=Permission.AUTHORIZE,
        body=BODY,
        responses=RESPONSES,
        patterns=patterns or {},
    )


@dataclass(frozen=True, slots=True)
class CodeEndpoint:
    """Issues codes to operators with the permission `authorize`: identity servers, which ask the user for consent."""

    catalog: Catalog
    grants: Grants
    users: Users
    token_format: TokenFormat
    event_context: Callable[[], EventContext]
    public_url: str
    oauth_error_status: int | None

    @operation(
        _issue_code(
            "/api/apis/oauth/{api_id}/authorize-client",
            "issueCode",
            "Issue an authorization code",
            "Called by the identity server after it has logged the user in and got consent. Send the browser to "
            "`redirect_to`.",
        )
    )
    @operation(
        _issue_code(
            "/api/apis/{api_id}/authorize-client",
            "issueCodeOnShortPath",
            "Issue an authorization code (short path)",
            "The same as issueCode.",
        )
    )
    async def for_api(self, http_request: web.Request) -> web.Response:
        """/api/apis[/oauth]/{api_id}/authorize-client."""
        return await self._respond(http_request, http_request.match_info["api_id"])

    @operation(
        _issue_code(
            "/{api_ref}/tyk/oauth/authorize-client",
            "issueCodeOnListenPath",
            "Issue an authorization code (listen path)",
            "The same as issueCode, below the API's listen path.",
            API_REF_PATTERN,
        )
    )
    async def for_path(self, http_request: web.Request) -> web.Response:
        """/<listen-path>/tyk/oauth/authorize-client."""
        return await self._respond(http_request, http_request.match_info["api_ref"])

    async def _respond(self, http_request: web.Request, api_ref: str) -> web.Response:
        try:
            api, settings = await issuing_api(self.catalog, api_ref)
        except UnknownApi as error:
            raise NotFound("API reference not found.") from error
        request = _code_request(await read_parameters(http_request, CodeRequest.model_fields, structured={"key_rules"}))
        try:
            verified = await verify_client(self.catalog, api, settings, request)
        except CannotRedirect as error:
            raise error.error from error  # the caller is a program, whatever it accepts
        try:
            return await self._issue(verified)
        except TemporarilyUnavailable:
            raise
        except OAuthError as error:
            return self._refused(error, verified)

    async def _issue(self, verified: VerifiedRequest) -> web.Response:
        request, approved = verified.request, approve(verified)
        if not request.subject and not verified.settings.anonymous_grants:
            raise InvalidRequest(
                "subject is missing: send the name of the user who logged in. Only an API whose definition says "
                "anonymousGrants issues codes without a user"
            )
        context = IssueContext(verified.api, verified.settings, verified.client, self.event_context())
        rules = await self._key_rules(request, verified, context.now)
        binding = CodeBinding(
            redirect_uri=verified.redirect_uri,
            redirect_uri_requested=request.redirect_uri is not None,
            scope=approved.scope,
            code_challenge=approved.code_challenge,
            subject=request.subject or None,
            key_rules=rules.stored if rules else None,
            expires_at=rules.expires_at if rules else None,
        )
        grant_id = new_grant_id(os.urandom(16))
        code = self.token_format.mint(TokenKind.CODE, grant_id, 0)
        issued = issue_code(context, grant_id, code, binding)
        await self.users.issue(self.grants, issued, context.event)
        parameters = {"code": code.value, **self._common_parameters(verified.api, request.state)}
        response = CodeResponse(
            code=code.value, redirect_to=with_query(verified.redirect_uri, parameters), state=request.state
        )
        return json_bytes(orjson.dumps(response.model_dump(exclude_none=True)), headers=NO_STORE)

    async def _key_rules(self, request: CodeRequest, verified: VerifiedRequest, now: datetime) -> GrantRules | None:
        if request.key_rules is None:
            return None
        rules = await asyncio.to_thread(parse_key_rules, request.key_rules)
        of_client = await self.catalog.policies(verified.client.policy_ids)
        applied = await self.catalog.policies(rules.rules.apply_policies)
        require_narrower(rules.rules, verified.api, verified.client, of_client, applied, now)
        return rules

    def _refused(self, error: OAuthError, verified: VerifiedRequest) -> web.Response:
        # Tyk's format: the error, and the URL to which the identity server can redirect the browser with it.
        body = oauth_body(error)
        parameters = {**body, **self._common_parameters(verified.api, verified.request.state)}
        if verified.request.state is not None:
            body["state"] = verified.request.state
        body["redirect_to"] = with_query(verified.redirect_uri, parameters)
        return json_bytes(orjson.dumps(body), self.oauth_error_status or error.status, NO_STORE)

    def _common_parameters(self, api: Api, state: str | None) -> dict[str, str]:
        # RFC 9207 §2: the server "MUST indicate its identity" in `iss`, against mix-up attacks on the client.
        state_parameter = {"state": state} if state is not None else {}
        return {**state_parameter, "iss": issuer_of(self.public_url, api)}


def _code_request(parameters: dict[str, str]) -> CodeRequest:
    """Raises InvalidRequest: errors here have the format of RFC 6749, although the path is in the management API."""
    try:
        return CodeRequest.model_validate(parameters)
    except ValidationError as error:
        raise InvalidRequest(first_fault(error)) from error
