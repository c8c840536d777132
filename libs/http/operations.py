"""Operations: declared once, at the handler, with `@operation` or `@operator_operation`.

`add_operations` routes an endpoint's handlers as declared and enforces the declared permission. The OpenAPI documents
and the tests of permissions read the same declarations (services/operation_catalog.py collects them).
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from aiohttp import hdrs, web
from pydantic import BaseModel

from contracts.error_bodies import Envelope, OAuthErrorBody
from contracts.operations import Caller, Operation, Parameters, RequestBody, ResponseSpec
from contracts.operators import Operator, Permission
from libs.http.context import current

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Require = Callable[[web.Request, Permission], Awaitable[Operator]]
H = TypeVar("H", bound=Callable[..., Any])

_DECLARED = "_declared_operations"
_OPERATOR = web.RequestKey("operator", Operator)

RETRY_AFTER = {"Retry-After": "Seconds to wait before the next attempt."}
ERRORS: Mapping[int, str] = {
    400: "The request is malformed or contradicts itself; the message names the field.",
    401: "Missing or invalid credentials.",
    403: "The credentials are valid, but do not permit this operation.",
    404: "Not found.",
    405: "The path does not support this method.",
    408: "The request body did not arrive in time.",
    409: "The id or name is taken, or another request changed the record at the same time.",
    412: "The record is not in the version that `If-Match` names.",
    413: "The request body is too large.",
    422: "A required parameter is missing.",
    429: "Too many failed authentication attempts; retry after `Retry-After` seconds.",
    503: "The database is unavailable and nothing was changed; retry after `Retry-After` seconds.",
}
"""What each error status means, unless an operation says something more specific."""

CLIENT_ID_PATTERN = {"client_id": "[^/]+"}
"""For the path parameter `client_id`: braces are allowed, unlike by default."""
API_REF_PATTERN = {"api_ref": "(?s:.+)"}
"""For the path parameter `api_ref`: any text, line breaks included, so that the handler itself responds "no such API"
instead of the router's bare 404."""


class CrossOriginPolicy(Protocol):
    """CORS for the operations that are declared `cross_origin` (libs/cross_origin.py)."""

    def around(self, handler: Callable[[web.Request], Awaitable[web.Response]], /) -> Handler: ...

    async def preflight(self, request: web.Request, /) -> web.Response: ...


def operation(declared: Operation) -> Callable[[H], H]:
    """Declare the operation that the decorated handler implements. A handler may have several."""

    def declare(handler: H) -> H:
        setattr(handler, _DECLARED, (declared, *getattr(handler, _DECLARED, ())))
        return handler

    return declare


def operator_operation(
    method: str,
    path: str,
    name: str,
    permission: Permission,
    *,
    tag: str,
    summary: str,
    response: type[BaseModel] | ResponseSpec,
    description: str = "",
    errors: Sequence[int] = (),
    parameters: Parameters | None = None,
    body: RequestBody | None = None,
    patterns: Mapping[str, str] | None = None,
) -> Callable[[H], H]:
    """Declare an operation for operators with this permission; its errors are in the Dashboard's envelope.

    `errors` are the statuses besides those that each such operation may have: 401, 403, 429 and 503, and with a body
    400, 408 and 413.
    """
    statuses = {401, 403, 429, 503, *errors} | ({400, 413} if body else set())
    success = response if isinstance(response, ResponseSpec) else ResponseSpec(description="Done.", models=(response,))
    return operation(
        Operation(
            method=method,
            path=path,
            name=name,
            tag=tag,
            summary=summary,
            description=description,
            caller=Caller.OPERATOR,
            permission=permission,
            parameters=parameters,
            body=body,
            responses={200: success, **error_responses(Envelope, *sorted(statuses))},
            patterns=patterns or {},
        )
    )


def error_responses(model: type[BaseModel], *statuses: int) -> dict[int, ResponseSpec]:
    """These error statuses with their standard meaning, their bodies being this model. 408 goes with 413."""
    challenge = {"WWW-Authenticate": "The scheme to authenticate with."}
    headers = {429: RETRY_AFTER, 503: RETRY_AFTER, 401: challenge if model is OAuthErrorBody else {}}
    if 413 in statuses:
        statuses = (*statuses, 408)
    return {
        status: ResponseSpec(description=ERRORS[status], models=(model,), headers=headers.get(status, {}))
        for status in statuses
    }


def operations_of(*endpoints: type) -> tuple[Operation, ...]:
    """All operations that these endpoint classes declare, preflights included, in the order of their handlers."""
    return tuple(each for endpoint in endpoints for _, declared in _declared(endpoint) for each in _expanded(declared))


def add_operations(
    app: web.Application,
    endpoint: object,
    require: Require | None = None,
    cross_origin: CrossOriginPolicy | None = None,
) -> None:
    """Route every operation that the endpoint's handlers declare, with and without a slash at the end.

    `require` checks the permission before the handler of an operators' operation runs. Raises TypeError if an operation
    needs `require` or `cross_origin` and there is none: no route is ever added unprotected.
    """
    for name, declared in _declared(type(endpoint)):
        handler: Handler = getattr(endpoint, name)
        if declared.caller is Caller.OPERATOR:
            handler = _permitted(handler, declared, require)
        handlers = {declared.method: handler}
        if declared.cross_origin:
            if cross_origin is None:
                raise TypeError(f"{declared.name} needs a cross-origin policy")
            handlers = {
                hdrs.METH_OPTIONS: cross_origin.preflight,
                declared.method: cross_origin.around(handler),  # type: ignore[arg-type]
            }
        if declared.supports_head:
            handlers[hdrs.METH_HEAD] = handlers[declared.method]
        _route(app, declared, handlers)


def operator_of(request: web.Request) -> Operator:
    """The operator whose key the request carries; only for handlers of operators' operations."""
    return request[_OPERATOR]


def _declared(endpoint: type) -> Iterator[tuple[str, Operation]]:
    for name, member in vars(endpoint).items():
        for declared in getattr(member, _DECLARED, ()):
            yield name, declared


def _expanded(declared: Operation) -> tuple[Operation, ...]:
    return (_preflight_of(declared), declared) if declared.cross_origin else (declared,)


def _preflight_of(declared: Operation) -> Operation:
    return replace(
        declared,
        method="OPTIONS",
        name=f"preflight{declared.name[0].upper()}{declared.name[1:]}",
        summary="Handle a CORS preflight",
        description="What scripts of other origins may do here, according to the API's definition.",
        caller=Caller.ANYBODY,
        body=None,
        cross_origin=False,
        responses={
            204: ResponseSpec(
                description="What is allowed; without `Access-Control-*` headers, nothing is.",
                media_type=None,
                headers={"Access-Control-Allow-Origin": "The allowed origin, or `*`."},
            ),
            **error_responses(OAuthErrorBody, 405, 503),
        },
    )


def _permitted(handler: Handler, declared: Operation, require: Require | None) -> Handler:
    permission = declared.permission
    if permission is None or require is None:
        raise TypeError(f"{declared.name} needs a permission and an authenticator that checks it")

    secret = "{token}" in declared.path

    async def handle(request: web.Request) -> web.StreamResponse:
        if secret:
            current().shown_path = declared.path
        request[_OPERATOR] = await require(request, permission)
        return await handler(request)

    return handle


def _route(app: web.Application, declared: Operation, handlers: Mapping[str, Handler]) -> None:
    """Route the path's handlers, by method. One after the other, so that the router keeps them in one resource."""
    path = declared.path
    for name, pattern in declared.patterns.items():
        path = path.replace(f"{{{name}}}", f"{{{name}:{pattern}}}")
    for spelling in (path, f"{path}/"):
        for method, handler in handlers.items():
            app.router.add_route(method, spelling, handler)
