"""Every operation that the services answer over HTTP: what the OpenAPI documents say, and the routes must be."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, Field

from contracts.apis import ApiList
from contracts.audit import AuditAnswer, AuditQuery
from contracts.base import AdminRequest, ClientId, PublicId
from contracts.clients import ClientEdit, ClientList, ClientRegistration, OAuthClient, SecretRotation
from contracts.errors import Envelope, GatewayErrorBody, OAuthErrorBody
from contracts.grants import (
    CodeRefusal,
    CodeRequest,
    CodeResponse,
    IssuedTokenList,
    IssuedTokens,
    RevocationRequest,
    RevocationResponse,
    TokenRequest,
    TokenResponse,
)
from contracts.health import Readiness, Status
from contracts.http import ANY_METHOD, FORM, JSON, YAML, Answer, Body, Caller, Operation, Parameters, Service
from contracts.introspection import Introspection, IntrospectionRequest
from contracts.limits import RateLimits
from contracts.metadata import ServerMetadata
from contracts.operators import OperatorList, OperatorRegistration, OperatorView, Permission
from contracts.policies import PolicyDocument, PolicyList, PolicyView
from contracts.resource_owners import ResourceOwnerDocument, ResourceOwnerList, ResourceOwnerView, Username
from contracts.trail import TrailPage, TrailQuery
from contracts.usage import UsageAnswer, UsageQuery
from contracts.webhooks import DeliveryList, DeliveryQuery, DeliveryView, RedeliveryRequest, TokenNotification

PATH_PARAMETERS: Mapping[str, tuple[Any, str]] = {
    "place": (
        Annotated[str, Field(min_length=1)],
        "The API's listen path without its outer slashes (it may have inner ones), or its id.",
    ),
    "api_id": (PublicId, "The API's id."),
    "client_id": (ClientId, "The client app's id."),
    "policy_id": (PublicId, "The policy's id."),
    "username": (Username, "The resource owner's name."),
    "operator_id": (PublicId, "The operator's id."),
    "delivery_id": (PublicId, "The delivery's id, which is the id of the token event."),
    "uri": (Annotated[str, Field(min_length=1)], "The path of the call that is asked about, without its first slash."),
}
"""Each parameter of a path: what it may be, and what it is."""


class PageQuery(AdminRequest):
    """Which page of a list."""

    p: int = 1
    """The page of a hundred, counted from 1; negative: everything as one page."""


class TokenPageQuery(AdminRequest):
    """Which page of the tokens."""

    page: Annotated[int, Field(ge=1)] | None = None
    """The page of a hundred, counted from 1; absent: a plain list."""


class StreamQuery(AdminRequest):
    """Which events."""

    types: str | None = None
    """Patterns of event types, separated by commas, such as `token.*,grant.revoked`; absent: all."""
    api_id: PublicId | None = None
    """Only events of this API."""


class ForwardedCall(AdminRequest):
    """The headers in which a reverse proxy names the call that it asks about; one of the two URIs is needed,
    unless the question is the call itself.
    """

    forwarded_uri: Annotated[str | None, Field(alias="X-Forwarded-Uri")] = None
    """Path and query of the call (Traefik)."""
    original_uri: Annotated[str | None, Field(alias="X-Original-URI")] = None
    """Path and query of the call (nginx)."""
    forwarded_method: Annotated[str | None, Field(alias="X-Forwarded-Method")] = None
    """The call's method; absent: GET."""
    original_method: Annotated[str | None, Field(alias="X-Original-Method")] = None
    """The call's method (nginx)."""


_OAUTH = (OAuthErrorBody,)
_ENVELOPE = (Envelope,)
_REFUSALS = {
    400: "The request is malformed, or says what cannot be.",
    401: "Whoever asks is not known.",
    403: "Whoever asks may not do this.",
    404: "There is no such thing.",
    405: "This method is not for here.",
    408: "The body did not come in time.",
    409: "The name is taken, or the thing changed in between.",
    413: "The body is over the limit.",
    429: "Too many attempts to prove who asks have failed; `Retry-After` says when to try again.",
    503: "The database is away; nothing is half-done. `Retry-After` says when to try again.",
}
_CHALLENGE = {"WWW-Authenticate": "The scheme to authenticate with."}
_RETRY = {"Retry-After": "Seconds to wait."}


def _refusals(models: tuple[type[BaseModel], ...], *statuses: int) -> dict[int, Answer]:
    headers = {429: _RETRY, 503: _RETRY, 401: _CHALLENGE if models is _OAUTH else {}}
    if 413 in statuses:
        statuses = (*statuses, 408)
    return {
        status: Answer(about=_REFUSALS[status], models=models, headers=headers.get(status, {})) for status in statuses
    }


# For clients and browsers: errors as in RFC 6749 §5.2

_PARAMETERS = (FORM, JSON)
_LOCATION = {"Location": "Where to go."}
_AUTHORIZE_ANSWERS = {
    302: Answer(
        about="Client and redirect URI are proven, and something else is wrong: the client hears of it.",
        media_type=None,
        headers=_LOCATION,
    ),
    307: Answer(about="To the API's login page.", media_type=None, headers=_LOCATION),
}
_AUTHORIZE_FIELDS = (
    "response_type",
    "response_mode",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "code_challenge",
    "code_challenge_method",
)
_CODE_ANSWERS = {
    200: Answer(about="The code, and where to send the browser with it.", models=(CodeResponse,)),
    400: Answer(about=_REFUSALS[400], models=(CodeRefusal,)),
    401: Answer(about=_REFUSALS[401], models=_ENVELOPE),
    403: Answer(about=_REFUSALS[403], models=(Envelope, CodeRefusal)),
    404: Answer(about=_REFUSALS[404], models=_ENVELOPE),
    **_refusals(_OAUTH, 413),
    429: Answer(about=_REFUSALS[429], models=(Envelope, OAuthErrorBody), headers=_RETRY),
    408: Answer(about=_REFUSALS[408], models=(Envelope, OAuthErrorBody)),
    503: Answer(about=_REFUSALS[503], models=(Envelope, OAuthErrorBody), headers=_RETRY),
}


def _code(path: str, name: str, summary: str) -> Operation:
    about = "`key_rules` is a session as JSON text; in a JSON body it may be the object itself."
    return Operation(
        service=Service.AUTHORIZATION,
        tag="Authorization",
        method="POST",
        path=path,
        name=name,
        summary=summary,
        caller=Caller.OPERATOR,
        permission=Permission.AUTHORIZE,
        body=Body(model=CodeRequest, media_types=_PARAMETERS, fields=("response_type", "client_id"), about=about),
        answers=_CODE_ANSWERS,
    )


_AUTHORIZATION = (
    Operation(
        service=Service.AUTHORIZATION,
        tag="Authorization",
        method="GET",
        path="/{place}/oauth/authorize",
        name="authorize",
        summary="Send the browser to the API's login page, with the query that came (RFC 6749 §3.1).",
        caller=Caller.ANYBODY,
        parameters=Parameters(model=CodeRequest, names=_AUTHORIZE_FIELDS, required=("response_type", "client_id")),
        answers={**_AUTHORIZE_ANSWERS, **_refusals(_OAUTH, 400, 404, 503)},
    ),
    Operation(
        service=Service.AUTHORIZATION,
        tag="Authorization",
        method="POST",
        path="/{place}/oauth/authorize",
        name="authorizeByPost",
        summary="Send the browser to the API's login page, where it posts the same form.",
        caller=Caller.ANYBODY,
        body=Body(model=CodeRequest, media_types=_PARAMETERS, fields=("response_type", "client_id")),
        answers={**_AUTHORIZE_ANSWERS, **_refusals(_OAUTH, 400, 404, 413, 503)},
    ),
    _code(
        "/api/apis/oauth/{api_id}/authorize-client", "issueCode", "A code for somebody whom the caller has logged in."
    ),
    _code("/api/apis/{api_id}/authorize-client", "issueCodeOnShortPath", "The same as issueCode."),
    _code("/{place}/tyk/oauth/authorize-client", "issueCodeOnListenPath", "The same, under the API's listen path."),
    Operation(
        service=Service.AUTHORIZATION,
        tag="Authorization",
        method="GET",
        path="/.well-known/oauth-authorization-server/{place}",
        name="readMetadata",
        summary="What works on this API (RFC 8414).",
        caller=Caller.ANYBODY,
        answers={200: Answer(about="The metadata.", models=(ServerMetadata,)), **_refusals(_OAUTH, 404, 503)},
    ),
)


def _preflight(service: Service, tag: str, path: str, name: str) -> Operation:
    return Operation(
        service=service,
        tag=tag,
        method="OPTIONS",
        path=path,
        name=name,
        summary="What scripts of other origins may do here, if the API's definition names any (CORS).",
        caller=Caller.ANYBODY,
        answers={
            204: Answer(
                about="What is allowed; nothing, where no `Access-Control-…` header says so.",
                media_type=None,
                headers={"Access-Control-Allow-Origin": "The origin that may ask, or `*`."},
            ),
            **_refusals(_OAUTH, 405, 503),
        },
    )


_TOKEN = (
    _preflight(Service.TOKEN, "Tokens", "/{place}/oauth/token", "preflightToken"),
    Operation(
        service=Service.TOKEN,
        tag="Tokens",
        method="POST",
        path="/{place}/oauth/token",
        name="issueToken",
        summary="Tokens for a code, client credentials, a password or a refresh token (RFC 6749 §3.2).",
        caller=Caller.CLIENT,
        body=Body(model=TokenRequest, media_types=_PARAMETERS, fields=("grant_type",)),
        answers={
            200: Answer(about="The tokens.", models=(TokenResponse,)),
            **_refusals(_OAUTH, 400, 401, 404, 413, 429, 503),
        },
    ),
)


def _revocation(path: str, name: str, summary: str, *fields: str) -> Operation:
    return Operation(
        service=Service.REVOCATION,
        tag="Revocation",
        method="POST",
        path=path,
        name=name,
        summary=summary,
        caller=Caller.CLIENT,
        body=Body(model=RevocationRequest, media_types=_PARAMETERS, fields=fields),
        answers={
            200: Answer(about="Done, or there was nothing to do.", models=(RevocationResponse,)),
            **_refusals(_OAUTH, 400, 401, 404, 413, 429, 503),
        },
    )


# For operators: errors in the Dashboard's envelope


def _operators(
    service: Service,
    tag: str,
    method: str,
    path: str,
    name: str,
    summary: str,
    permission: Permission,
    answer: type[BaseModel] | Answer,
    *refusals: int,
    parameters: Parameters | None = None,
    body: Body | None = None,
) -> Operation:
    """An operation for operators; any may be answered with 401, 403, 429 or 503, one with a body with 400 or 413."""
    statuses = {401, 403, 429, 503, *refusals} | ({400, 413} if body else set())
    success = answer if isinstance(answer, Answer) else Answer(about="Done.", models=(answer,))
    return Operation(
        service=service,
        tag=tag,
        method=method,
        path=path,
        name=name,
        summary=summary,
        caller=Caller.OPERATOR,
        permission=permission,
        parameters=parameters,
        body=body,
        answers={200: success, **_refusals(_ENVELOPE, *sorted(statuses))},
    )


READ, WRITE, REVOKE, ADMIN = Permission.READ, Permission.WRITE, Permission.REVOKE, Permission.ADMIN
_PAGE = Parameters(model=PageQuery)

_TOKENS = Answer(about="By their public ids, the soonest to expire first.", models=(IssuedTokenList, IssuedTokens))
_TOKEN_PAGE = Parameters(model=TokenPageQuery)


def _revocation_body(*fields: str) -> Body:
    about = "`client_id` and `client_secret` may be left out; what is there must be right."
    return Body(model=RevocationRequest, media_types=_PARAMETERS, fields=fields, optional=not fields, about=about)


_tokens = partial(_operators, Service.REVOCATION, "Revocation")
_REVOCATION = (
    _preflight(Service.REVOCATION, "Revocation", "/{place}/oauth/revoke", "preflightRevocation"),
    _preflight(Service.REVOCATION, "Revocation", "/{place}/oauth/revoke_all", "preflightRevocationOfAll"),
    _revocation("/{place}/oauth/revoke", "revokeToken", "A token of the client's own is dead (RFC 7009).", "token"),
    _revocation("/{place}/oauth/revoke_all", "revokeAllTokens", "Every token of the client is dead."),
    _tokens(
        "POST",
        "/api/apis/oauth/{client_id}/revoke",
        "revokeTokenOfClient",
        "A token of the client, given as itself or by its public id, is dead.",
        REVOKE,
        Envelope,
        404,
        body=_revocation_body("token"),
    ),
    _tokens(
        "POST",
        "/api/apis/oauth/{client_id}/revoke_all",
        "revokeAllTokensOfClient",
        "Every token of the client is dead.",
        REVOKE,
        Envelope,
        404,
        body=_revocation_body(),
    ),
    _tokens(
        "GET",
        "/api/apis/oauth/{api_id}/{client_id}/tokens",
        "listTokens",
        "The live access tokens of the client.",
        READ,
        _TOKENS,
        404,
        parameters=_TOKEN_PAGE,
    ),
    _tokens(
        "GET",
        "/api/apis/oauth/{client_id}/tokens",
        "listTokensOnShortPath",
        "The same as listTokens.",
        READ,
        _TOKENS,
        404,
        parameters=_TOKEN_PAGE,
    ),
)

_ANY_DEFINITION = Body(media_types=(JSON, YAML), about="A Tyk OAS or a Tyk Classic definition, bare or wrapped.")
_OAS_DEFINITION = Body(media_types=(JSON, YAML), about="A Tyk OAS definition.")
_DEFINITION = Answer(about="What was imported, with its id; without `write` its secrets are masked.")

_apis = partial(_operators, Service.MANAGEMENT, "APIs")
_clients = partial(_operators, Service.MANAGEMENT, "Client apps")
_policies = partial(_operators, Service.MANAGEMENT, "Policies")
_owners = partial(_operators, Service.MANAGEMENT, "Resource owners")
_keys = partial(_operators, Service.MANAGEMENT, "Operators")

# fmt: off - a table
_API, _OAS = "/api/apis/{api_id}", "/api/apis/oas/{api_id}"
_CLIENTS, _CLIENT = "/api/apis/oauth/{api_id}", "/api/apis/oauth/{api_id}/{client_id}"
_POLICIES, _POLICY = "/api/portal/policies", "/api/portal/policies/{policy_id}"
_OWNERS, _OWNER = "/api/apis/keys/basic", "/api/apis/keys/basic/{username}"
_OPERATORS, _OPERATOR = "/api/operators", "/api/operators/{operator_id}"
_NEW_CLIENT, _EDITED_CLIENT = Body(model=ClientRegistration), Body(model=ClientEdit)
_ROTATION = Body(model=SecretRotation, optional=True)
_POLICY_BODY, _OWNER_BODY = Body(model=PolicyDocument), Body(model=ResourceOwnerDocument)
_NEW_OWNER = Body(model=ResourceOwnerDocument, fields=("password",))
_OPERATOR_BODY = Body(model=OperatorRegistration)

_MANAGEMENT = (
    _apis("GET", "/api/apis", "listApis", "Every API, in the Dashboard's shape.", READ, ApiList, parameters=_PAGE),
    _apis("POST", "/api/apis", "importApi", "Import an API.", WRITE, Envelope, 409, body=_ANY_DEFINITION),
    _apis("GET", "/api/apis/oas", "listOasApis", "The OAS definitions.", READ, ApiList, parameters=_PAGE),
    _apis("POST", "/api/apis/oas", "importOasApi", "Import an API.", WRITE, Envelope, 409, body=_OAS_DEFINITION),
    _apis("GET", _API, "getApi", "An API's definition.", READ, _DEFINITION, 404),
    _apis("PUT", _API, "replaceApi", "Another definition.", WRITE, Envelope, 404, 409, body=_ANY_DEFINITION),
    _apis("DELETE", _API, "deleteApi", "The API, its clients and their tokens are gone.", WRITE, Envelope, 404, 409),
    _apis("GET", _OAS, "getOasApi", "An API's OAS definition.", READ, _DEFINITION, 400, 404),
    _apis("PUT", _OAS, "replaceOasApi", "Another definition.", WRITE, Envelope, 404, 409, body=_OAS_DEFINITION),
    _apis("DELETE", _OAS, "deleteOasApi", "The same as deleteApi.", WRITE, Envelope, 404, 409),
    _clients("GET", _CLIENTS, "listClients", "The API's client apps.", READ, ClientList, 404, parameters=_PAGE),
    _clients("POST", _CLIENTS, "registerClient", "A new client app.", WRITE, OAuthClient, 404, 409, body=_NEW_CLIENT),
    _clients("GET", _CLIENT, "getClient", "A client app.", READ, OAuthClient, 404),
    _clients(
        "PUT", _CLIENT, "editClient", "Replace what the body names.", WRITE, OAuthClient, 404, 409, body=_EDITED_CLIENT
    ),
    _clients("DELETE", _CLIENT, "deleteClient", "The client app and its tokens are gone.", WRITE, Envelope, 404, 409),
    _clients(
        "PUT", f"{_CLIENT}/rotate", "rotateClientSecret", "A new secret.", WRITE, OAuthClient, 404, 409, body=_ROTATION
    ),
    _policies("GET", _POLICIES, "listPolicies", "Every policy.", READ, PolicyList, parameters=_PAGE),
    _policies("POST", _POLICIES, "addPolicy", "A new policy.", WRITE, Envelope, 409, body=_POLICY_BODY),
    _policies("GET", _POLICY, "getPolicy", "A policy.", READ, PolicyView, 404),
    _policies(
        "PUT",
        _POLICY,
        "replacePolicy",
        "Another policy in its place, at once also for tokens already issued.",
        WRITE,
        Envelope,
        404,
        409,
        body=_POLICY_BODY,
    ),
    _policies("DELETE", _POLICY, "deletePolicy", "It grants nothing any more.", WRITE, Envelope, 404, 409),
    _owners("GET", _OWNERS, "listResourceOwners", "Every user.", READ, ResourceOwnerList, parameters=_PAGE),
    _owners("POST", _OWNER, "addResourceOwner", "A new user.", WRITE, ResourceOwnerView, 409, body=_NEW_OWNER),
    _owners("GET", _OWNER, "getResourceOwner", "A user.", READ, ResourceOwnerView, 400, 404),
    _owners(
        "PUT",
        _OWNER,
        "editResourceOwner",
        "Replace what the body names.",
        WRITE,
        ResourceOwnerView,
        404,
        409,
        body=_OWNER_BODY,
    ),
    _owners("DELETE", _OWNER, "deleteResourceOwner", "The user gets no new tokens.", WRITE, Envelope, 400, 404, 409),
    _keys("GET", _OPERATORS, "listOperators", "Every operator.", ADMIN, OperatorList, parameters=_PAGE),
    _keys(
        "POST",
        _OPERATORS,
        "addOperator",
        "A new operator; the key is shown once.",
        ADMIN,
        OperatorView,
        409,
        body=_OPERATOR_BODY,
    ),
    _keys("GET", _OPERATOR, "getOperator", "An operator.", ADMIN, OperatorView, 404),
    _keys(
        "PUT",
        _OPERATOR,
        "replaceOperator",
        "Another name, other permissions.",
        ADMIN,
        OperatorView,
        404,
        409,
        body=_OPERATOR_BODY,
    ),
    _keys("DELETE", _OPERATOR, "deleteOperator", "The key is dead.", ADMIN, Envelope, 400, 404, 409),
    _operators(
        Service.MANAGEMENT,
        "Events",
        "GET",
        "/api/events/stream",
        "streamEvents",
        "Events from now on, as server-sent events; `id` and `event` are those of the event.",
        READ,
        Answer(about="The stream; it does not end by itself.", media_type="text/event-stream"),
        400,
        parameters=Parameters(model=StreamQuery),
    ),
    _operators(
        Service.MANAGEMENT,
        "Events",
        "GET",
        "/api/events/audit",
        "auditEvents",
        "What the records made in a time committed, against what the bus and the webhooks brought.",
        READ,
        AuditAnswer,
        400,
        parameters=Parameters(model=AuditQuery),
    ),
    _operators(
        Service.MANAGEMENT,
        "Analytics",
        "GET",
        "/api/analytics/clients",
        "getClientUsage",
        "What was issued, refreshed, revoked, verified and refused, by client app, API and hour, day or in total.",
        READ,
        UsageAnswer,
        400,
        parameters=Parameters(model=UsageQuery),
    ),
    _operators(
        Service.MANAGEMENT,
        "Operators",
        "GET",
        "/api/audit",
        "listChanges",
        "The audit trail: who changed which record, when and from where; the latest first.",
        READ,
        TrailPage,
        400,
        parameters=Parameters(model=TrailQuery),
    ),
)

_DELIVERIES, _DELIVERY = "/api/notifications/deliveries", "/api/notifications/deliveries/{delivery_id}"
_REDELIVERY = Body(model=RedeliveryRequest)
_webhooks = partial(_operators, Service.NOTIFIER, "Deliveries")

_NOTIFIER = (
    _webhooks(
        "GET",
        _DELIVERIES,
        "listDeliveries",
        "The latest first.",
        READ,
        DeliveryList,
        400,
        parameters=Parameters(model=DeliveryQuery),
    ),
    _webhooks("GET", _DELIVERY, "getDelivery", "A delivery with its attempts.", READ, DeliveryView, 404),
    _webhooks("POST", f"{_DELIVERY}/redeliver", "redeliver", "It is due now.", WRITE, Envelope, 404, 409),
    _webhooks(
        "POST",
        "/api/notifications/redeliver",
        "redeliverAll",
        "Everything of an API since then is due now.",
        WRITE,
        Envelope,
        body=_REDELIVERY,
    ),
    _webhooks(
        "POST",
        "/api/apis/{api_id}/notifications/test",
        "testNotification",
        "One notification that nobody can take for a token, sent at once; `Meta` says what came of it.",
        WRITE,
        Envelope,
        400,
        404,
    ),
)
# fmt: on

_REFUSAL = {"X-Tokenwire-Refusal": "The body again, for a proxy that passes on no more of a refusal than headers."}
_GATEWAY_REFUSALS = {
    400: Answer(
        about="There is no token, or it is malformed.", models=(GatewayErrorBody, OAuthErrorBody), headers=_REFUSAL
    ),
    401: Answer(about="The token has expired.", models=(GatewayErrorBody,), headers=_CHALLENGE | _REFUSAL),
    403: Answer(
        about="The token is not valid here, or its quota is used up.",
        models=(GatewayErrorBody,),
        headers=_CHALLENGE | _REFUSAL,
    ),
    404: Answer(about="No API answers on this path.", models=(GatewayErrorBody,), headers=_REFUSAL),
    429: Answer(about="The rate limit is reached.", models=(GatewayErrorBody,), headers=_RETRY | _REFUSAL),
    503: Answer(about=_REFUSALS[503], models=(OAuthErrorBody, GatewayErrorBody), headers=_RETRY | _REFUSAL),
}
_ADMITTED = Answer(
    about="It may.",
    models=(Status,),
    headers={
        "X-Tokenwire-Api-Id": "The API.",
        "X-Tokenwire-Client-Id": "The client app; absent, as all below, where the API asks for no token.",
        "X-Tokenwire-Grant-Id": "The grant.",
        "X-Tokenwire-Subject": "Who authorized it, percent-encoded; absent where nobody did.",
        "X-Tokenwire-Scope": "What for; absent where it is not limited.",
        "X-RateLimit-Limit": "The quota; absent, as the next two, where nothing limits the grant.",
        "X-RateLimit-Remaining": "What is left of it.",
        "X-RateLimit-Reset": "When it is renewed (Unix seconds).",
    },
)


def _verification(method: str, path: str, name: str, summary: str, parameters: Parameters | None = None) -> Operation:
    return Operation(
        service=Service.GATEWAY,
        tag="Token check",
        method=method,
        path=path,
        name=name,
        summary=summary,
        caller=Caller.TOKEN_HOLDER,
        parameters=parameters,
        answers={200: _ADMITTED, **_GATEWAY_REFUSALS},
    )


_GATEWAY = (
    _verification(
        "GET",
        "/verify",
        "verify",
        "May this call pass? The token is where the API's definition says, in the call's own headers or URI.",
        Parameters(model=ForwardedCall, place="header"),
    ),
    _verification(
        ANY_METHOD,
        "/verify/{uri}",
        "verifyItself",
        "The same, of the call itself with `/verify` before its path (Envoy); what headers say must not differ.",
    ),
    Operation(
        service=Service.GATEWAY,
        tag="Token check",
        method="GET",
        path="/{place}/tyk/rate-limits",
        name="readRateLimits",
        summary="What is left of the limits of the token that the request carries; nothing is counted.",
        caller=Caller.TOKEN_HOLDER,
        answers={
            200: Answer(about="The limits.", models=(RateLimits,)),
            **{status: answer for status, answer in _GATEWAY_REFUSALS.items() if status != 429},
        },
    ),
    Operation(
        service=Service.GATEWAY,
        tag="Introspection",
        method="POST",
        path="/oauth/introspect",
        name="introspect",
        summary="What a token is (RFC 7662), for operators, its own client, and resource servers that it opens.",
        caller=Caller.CLIENT_OR_OPERATOR,
        permission=READ,
        body=Body(model=IntrospectionRequest, media_types=_PARAMETERS, fields=("token",)),
        answers={
            200: Answer(
                about="What it is; `active` alone where it is not active, or not for the caller to know.",
                models=(Introspection,),
            ),
            **_refusals(_OAUTH, 400, 401, 403, 413, 429, 503),
        },
    ),
)


def _process(path: str, name: str, summary: str, answers: Mapping[int, Answer]) -> Operation:
    return Operation(
        service=None,
        tag="Process",
        method="GET",
        path=path,
        name=name,
        summary=summary,
        caller=Caller.ANYBODY,
        answers=answers,
    )


_EVERY_SERVICE = (
    _process("/healthz", "healthz", "Alive; touches nothing.", {200: Answer(about="Alive.", models=(Status,))}),
    _process(
        "/readyz",
        "readyz",
        "Ready, or not; each dependency by name.",
        {
            200: Answer(about="Ready.", models=(Readiness,)),
            503: Answer(about="Not ready.", models=(Readiness,)),
        },
    ),
    _process(
        "/metrics",
        "metrics",
        "Prometheus' text format.",
        {200: Answer(about="The metrics of this process.", media_type="text/plain")},
    ),
)

OPERATIONS: tuple[Operation, ...] = (
    *_AUTHORIZATION,
    *_TOKEN,
    *_REVOCATION,
    *_NOTIFIER,
    *_MANAGEMENT,
    *_GATEWAY,
    *_EVERY_SERVICE,
)
"""The table."""

WEBHOOK = Body(
    model=TokenNotification, about="Exactly these five keys, empty where not applicable. Any 2xx answer is success."
)
"""What the notifier posts to an API's `onKeyChangeUrl`."""


def operations_of(service: Service) -> tuple[Operation, ...]:
    """What this service answers."""
    return tuple(operation for operation in OPERATIONS if operation.service in {service, None})
