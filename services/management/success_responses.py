"""Success responses of the management API. Errors are rendered by libs/http/error_responses.py."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel

from contracts.base import Record, Response
from contracts.error_bodies import Envelope
from contracts.operations import Parameters, ResponseSpec
from contracts.pages import PageQuery
from libs.http.error_responses import BadRequest
from libs.http.pages import cursor_of, link_to_next, page_number, read_cursor, require_within_reach
from libs.http.responses import NO_STORE, json_bytes
from libs.store.records import Page

_SWITCH = {"true": True, "1": True, "": True, "false": False, "0": False}
_NONE: Mapping[str, str] = {}

PAGE = Parameters(model=PageQuery)
"""The query parameters of a list that is read page by page."""

M = TypeVar("M", bound=Record)


def list_of(model: type[BaseModel]) -> ResponseSpec:
    """The success response of an operation that returns one page of a list."""
    link = 'The next page (`rel="next"`), relative to the request; absent on the last page.'
    return ResponseSpec(description="One page of the list.", models=(model,), headers={"Link": link})


class Listed(NamedTuple, Generic[M]):
    """A page of records, and how to get the next one."""

    records: Sequence[M]
    pages: int
    next: str | None
    headers: Mapping[str, str]


async def listed(request: web.Request, page: Callable[[int | None, str | None], Awaitable[Page[M]]]) -> Listed[M]:
    """The page that `?p=` or `?after=` selects. Raises BadRequest."""
    after, number = read_cursor(request), page_number(request)
    found = await page(number, after[0] if after else None)
    require_within_reach(number, found.pages)
    cursor = cursor_of(found.next) if found.next is not None else None
    return Listed(found.records, found.pages, cursor, link_to_next(request, cursor))


def enveloped(message: str, meta: Any = None, record_id: str | None = None) -> web.Response:
    """A response in the Dashboard's envelope; `record_id` is the id of the created or replaced record."""
    envelope = Envelope(Status="OK", Message=message, Meta=meta, ID=record_id)
    return shown(envelope.model_dump(exclude={"ID"} if record_id is None else None))


def document(
    response: Response, headers: Mapping[str, str] = _NONE, written: Callable[[], None] | None = None
) -> web.Response:
    """A contract as JSON without its None fields. `written` is called when the response was written to the socket."""
    body = response.model_dump_json(by_alias=True, exclude_none=True).encode()
    return json_bytes(body, headers={**NO_STORE, **headers}, on_sent=written)


def shown(value: dict[str, Any], headers: Mapping[str, str] = _NONE) -> web.Response:
    """A response with this JSON object."""
    return as_it_is(orjson.dumps(value), headers)


def as_it_is(body: bytes, headers: Mapping[str, str] = _NONE) -> web.Response:
    """A response with this JSON text, not to be cached: any response of this API may contain secrets."""
    return json_bytes(body, headers={**NO_STORE, **headers})


def is_true(request: web.Request, name: str) -> bool:
    """The boolean query parameter of this name; default: false. Raises BadRequest if it is not a boolean."""
    text = request.query.get(name, "false").lower()
    if text not in _SWITCH:
        raise BadRequest(f"{name}: must be true or false")
    return _SWITCH[text]
