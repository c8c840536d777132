"""CORS response headers according to an API definition (CORS protocol of the Fetch standard).

Without CORS settings in the definition there are no headers, and browsers hide every response from other origins.
"""

import re
from collections.abc import Mapping

from contracts.apis import ANY, Cors

_ORIGIN = "Access-Control-Allow-Origin"
_NAMES_BELOW = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_FIELD_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(\s*,\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")


def cors_response_headers(cors: Cors, origin: str | None, method: str) -> dict[str, str]:
    """The headers that let a script of this origin read the response to a request of this method."""
    headers = _allowance(cors, origin, method)
    if _ORIGIN in headers and cors.exposed_headers:
        headers["Access-Control-Expose-Headers"] = ", ".join(cors.exposed_headers)
    return headers


def preflight_headers(cors: Cors, asked: Mapping[str, str]) -> dict[str, str]:
    """The headers of the response to a preflight request with the headers `asked`."""
    headers = _allowance(cors, asked.get("Origin"), asked.get("Access-Control-Request-Method", ""))
    if _ORIGIN in headers:
        headers["Access-Control-Allow-Methods"] = ", ".join(cors.allowed_methods)
        headers["Access-Control-Allow-Headers"] = _header_names(cors, asked)
        if cors.max_age:
            headers["Access-Control-Max-Age"] = str(cors.max_age)
    headers["Vary"] = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    return headers


def _allowance(cors: Cors, origin: str | None, method: str) -> dict[str, str]:
    """Allow the origin and method if the definition does; `Vary: Origin` in any case, for caches."""
    headers = {"Vary": "Origin"}
    if origin is None or method not in cors.allowed_methods:
        return headers
    if ANY in cors.allowed_origins:
        # Never together with credentials: any website could then act as the user who visits it.
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
    # Repeat the requested names, since for browsers `*` does not include Authorization.
    wanted = asked.get("Access-Control-Request-Headers", "").strip()
    return wanted if _FIELD_NAMES.fullmatch(wanted) else ""
