"""Pagination of lists: by cursor (`after`), or by page number as in Tyk (`p`).

A cursor is opaque to clients. It contains the keys of the last record of a page, so the next page starts right after
that record, whatever was added or deleted meanwhile.
"""

import base64
import re
from collections.abc import Mapping
from urllib.parse import urlencode

import orjson
from aiohttp import web

from contracts.pages import MOST_PAGES
from libs.http.error_responses import BadRequest

_LONGEST = 2048
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_PAGES = ("p", "page")


def cursor_of(*keys: str) -> str:
    """The cursor for these keys; it needs no encoding in a URL."""
    return base64.urlsafe_b64encode(orjson.dumps(keys)).rstrip(b"=").decode()


def read_cursor(request: web.Request, length: int = 1) -> tuple[str, ...] | None:
    """The keys in the request's `after`, or None. `length` is the number of keys.

    Raises BadRequest for an invalid cursor, and if a page number is given as well.
    """
    if "after" not in request.query:
        return None
    if len(request.query.getall("after")) > 1:
        raise BadRequest("after: it is repeated; send one")
    if named := next((name for name in _PAGES if name in request.query), None):
        raise BadRequest(f"after: it cannot be combined with `{named}`; send one of the two")
    keys = _keys(request.query["after"])
    if keys is None or len(keys) != length:
        raise BadRequest("after: not a cursor of this list; send the `next` of the previous page unchanged")
    return keys


def _keys(cursor: str) -> tuple[str, ...] | None:
    if not 0 < len(cursor) <= _LONGEST or not cursor.isascii():
        return None
    try:
        keys = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except ValueError:
        return None
    if not isinstance(keys, list) or not all(isinstance(key, str) and "\0" not in key for key in keys):
        return None
    return tuple(keys) if cursor_of(*keys) == cursor else None


def page_number(request: web.Request) -> int | None:
    """The page number in `?p=`, from 1. A negative one means all records (None); anything else is page 1, as in Tyk."""
    text = request.query.get("p", "")
    number = int(text) if _NUMBER.fullmatch(text) else 1
    return None if number < 0 else max(1, number)


def require_within_reach(number: int | None, pages: int) -> None:
    """Raise BadRequest for a page number above MOST_PAGES: skipping so many records would be slow."""
    if number is not None and number > MOST_PAGES < pages:
        raise BadRequest(
            f"only the first {MOST_PAGES} pages have numbers; continue with `after`, the `next` of the page before"
        )


def link_to_next(request: web.Request, cursor: str | None) -> Mapping[str, str]:
    """The `Link` header with the next page (RFC 8288); empty on the last page."""
    if cursor is None:
        return {}
    query = [(name, value) for name, value in request.query.items() if name not in {*_PAGES, "after"}]
    return {"Link": f'<?{urlencode([*query, ("after", cursor)])}>; rel="next"'}
