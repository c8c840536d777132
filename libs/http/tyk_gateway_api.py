"""What the endpoints of the open-source Tyk gateway's own API (`/tyk/…`) share.

They translate: each turns its request into the one that an operation of ours takes, calls that, and puts the result
into the gateway's format. Permissions, throttling, audit log and events are those of our operations, and so are
refusals, which libs/http/error_responses.py renders in the gateway's envelope below `/tyk/`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import orjson
from aiohttp import web
from pydantic import BaseModel

from contracts.operations import Caller, Operation, Parameters, RequestBody, ResponseSpec
from contracts.operators import Permission
from contracts.tyk_gateway import GatewayAction, GatewayStatus
from libs.http.forms import replace_body
from libs.http.operations import error_responses
from libs.http.pages import link_to_next
from libs.http.responses import NO_STORE, json_bytes

TAG = "Tyk gateway API"
KEY_OF_TOKEN = r"tw_(?:at|rt)_[A-Za-z0-9_-]+|ey[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+|[A-Za-z0-9_-]{22}\.[0-9]+"  # noqa: S105
"""A token, or the public id of one. Any other key is the name of a user."""
MOST_LISTED = 10_000
"""Records in one response of a list; the gateway's lists have no pages. `Link` leads to the rest."""
_ONLY_IF = "Available if `TOKENWIRE_TYK_GATEWAY_API` is true."

Handler = Callable[[web.Request], Awaitable[web.Response]]


def gateway_operation(
    method: str,
    path: str,
    name: str,
    permission: Permission | None,
    *,
    summary: str,
    response: type[BaseModel] | ResponseSpec = GatewayAction,
    description: str = "",
    errors: Sequence[int] = (),
    parameters: Parameters | None = None,
    body: RequestBody | None = None,
    patterns: Mapping[str, str] | None = None,
) -> Operation:
    """An operation of the gateway's API: a wrong key is 403, and errors are in the gateway's envelope.

    Without a permission anybody may call it.
    """
    statuses = {503, *errors} | ({403, 429} if permission else set()) | ({400, 413} if body else set())
    success = response if isinstance(response, ResponseSpec) else ResponseSpec(description="Done.", models=(response,))
    return Operation(
        method=method,
        path=path,
        name=name,
        tag=TAG,
        summary=f"{summary} (Tyk gateway)",
        description=f"{description} {_ONLY_IF}".strip(),
        caller=Caller.OPERATOR if permission else Caller.ANYBODY,
        permission=permission,
        parameters=parameters,
        body=body,
        responses={200: success, **error_responses(GatewayStatus, *sorted(statuses))},
        patterns=patterns or {},
    )


def translated(request: web.Request, body: object = None, /, **path: str) -> web.Request:
    """The request with these path parameters, and with this JSON body if one is given."""
    request.match_info.update(path)
    if body is not None:
        replace_body(request, orjson.dumps(body))
    return request


def body_of(response: web.Response) -> Any:
    """The JSON value in the response of one of our operations."""
    if not isinstance(response.body, bytes):
        raise TypeError("our operations respond with bytes")
    return orjson.loads(response.body)


def answer(
    value: BaseModel | Sequence[object] | Mapping[str, object], headers: Mapping[str, str] | None = None
) -> web.Response:
    """A response with this value as JSON."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    return json_bytes(orjson.dumps(value), headers={**NO_STORE, **(headers or {})})


def action(key: str, done: Literal["added", "modified", "deleted"], warnings: list[str] | None = None) -> web.Response:
    """The gateway's response to a change of the record with this key."""
    return answer(GatewayAction(key=key, action=done, warnings=warnings or None))


def ok(message: str) -> web.Response:
    """The gateway's response to what has no other."""
    return answer(GatewayStatus(status="ok", message=message))


async def all_of(handler: Handler, request: web.Request, member: str) -> tuple[list[Any], Mapping[str, str]]:
    """All records of one of our lists, and the headers for the response: `Link` if there are over MOST_LISTED."""
    records: list[Any] = []
    after = request.query.get("after")
    while True:
        query = {} if after is None else {"after": after}
        page = body_of(await handler(request.clone(rel_url=request.rel_url.with_query(query))))
        records += page[member]
        after = page.get("next")
        if after is None or len(records) >= MOST_LISTED:
            return records, link_to_next(request, after)
