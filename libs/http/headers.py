"""Headers that every answer carries: what a browser may make of it, and not who made it."""

from aiohttp import web, web_response
from multidict import CIMultiDict, CIMultiDictProxy, istr

# aiohttp names itself and its version in whatever does not name a server: also in what it answers before a middleware
# is asked. Present and empty, since nginx passes it on as it is and would name itself in place of an absent one.
web_response.SERVER_SOFTWARE = ""  # type: ignore[attr-defined]

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_OVER_TLS = {"Strict-Transport-Security": "max-age=63072000; includeSubDomains"}


CONSTANT_HEADERS: web.AppKey[CIMultiDictProxy[str]] = web.AppKey("constant_headers", CIMultiDictProxy[str])
"""For answers that are begun before the middleware sees them."""


def constant_headers(public_url: str) -> CIMultiDictProxy[str]:
    """What is added to an answer unless it has its own; where clients come by TLS, also that they always should."""
    told = _ALWAYS | (_OVER_TLS if public_url.startswith("https://") else {})
    return CIMultiDictProxy(CIMultiDict({istr(name): value for name, value in told.items()}))
