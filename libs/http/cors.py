"""What scripts of other origins may do, as an API's definition says (the CORS protocol of the Fetch standard).

Nothing where the definition says nothing: a browser then keeps every answer from the script.
"""

import re
from collections.abc import Mapping

from contracts.apis import ANY, Cors

_ORIGIN = "Access-Control-Allow-Origin"
_NAMES_BELOW = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_FIELD_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(\s*,\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")


def answer_headers(cors: Cors, origin: str | None, method: str) -> dict[str, str]:
    """What the answer to a request of this method adds, so that a script of this origin may read it."""
    headers = _allowance(cors, origin, method)
    if _ORIGIN in headers and cors.exposed_headers:
        headers["Access-Control-Expose-Headers"] = ", ".join(cors.exposed_headers)
    return headers


def preflight_headers(cors: Cors, asked: Mapping[str, str]) -> dict[str, str]:
    """The answer to a browser that asks, with these headers, whether a script may make a request."""
    headers = _allowance(cors, asked.get("Origin"), asked.get("Access-Control-Request-Method", ""))
    if _ORIGIN in headers:
        headers["Access-Control-Allow-Methods"] = ", ".join(cors.allowed_methods)
        headers["Access-Control-Allow-Headers"] = _header_names(cors, asked)
        if cors.max_age:
            headers["Access-Control-Max-Age"] = str(cors.max_age)
    headers["Vary"] = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    return headers


def _allowance(cors: Cors, origin: str | None, method: str) -> dict[str, str]:
    """That this origin may; without it only that the answer depends on the origin."""
    headers = {"Vary": "Origin"}
    if origin is None or method not in cors.allowed_methods:
        return headers
    if ANY in cors.allowed_origins:
        # Never with credentials: any site could then act as whoever visits it.
        headers[_ORIGIN] = ANY
    elif any(_covers(allowed, origin) for allowed in cors.allowed_origins):
        headers[_ORIGIN] = origin
        if cors.allow_credentials:
            headers["Access-Control-Allow-Credentials"] = "true"
    return headers


def _covers(allowed: str, origin: str) -> bool:
    head, wildcard, tail = allowed.partition(ANY)
    if not wildcard:
        return origin == allowed
    below = origin[len(head) : len(origin) - len(tail)]
    return origin == f"{head}{below}{tail}" and _NAMES_BELOW.fullmatch(below) is not None


def _header_names(cors: Cors, asked: Mapping[str, str]) -> str:
    if ANY not in cors.allowed_headers:
        return ", ".join(cors.allowed_headers)
    # Named one by one, since a browser does not take `*` to mean Authorization.
    wanted = asked.get("Access-Control-Request-Headers", "").strip()
    return wanted if _FIELD_NAMES.fullmatch(wanted) else ""
