"""What the management API answers when all is well; errors are rendered elsewhere."""

import re
from typing import Any

import orjson
from aiohttp import web

from contracts.base import Response
from contracts.errors import Envelope
from libs.http.errors import NO_STORE, json_bytes

_PAGE = re.compile(r"-?[0-9]{1,9}")


def enveloped(message: str, meta: Any = None, record_id: str | None = None) -> web.Response:
    """The Dashboard's envelope; `record_id` is the public id of what was made or replaced."""
    envelope = Envelope(Status="OK", Message=message, Meta=meta, ID=record_id)
    return shown(envelope.model_dump(exclude={"ID"} if record_id is None else None))


def document(response: Response) -> web.Response:
    """A contract as it is, without what it leaves open."""
    return as_it_is(response.model_dump_json(by_alias=True, exclude_none=True).encode())


def shown(value: dict[str, Any]) -> web.Response:
    """A JSON object."""
    return as_it_is(orjson.dumps(value))


def as_it_is(body: bytes) -> web.Response:
    """Ready JSON. Whatever management shows may hold secrets, so no cache keeps it."""
    return json_bytes(body, headers=NO_STORE)


def page_number(request: web.Request) -> int | None:
    """`?p=`, counted from 1; None, for all at once, when it is negative. What is no number is page 1, as in Tyk."""
    text = request.query.get("p", "")
    number = int(text) if _PAGE.fullmatch(text) else 1
    return None if number < 0 else max(1, number)
