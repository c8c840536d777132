"""Security headers of every response, and no server name or version."""

from aiohttp import web, web_response
from multidict import CIMultiDict, CIMultiDictProxy, istr

# aiohttp adds `Server` with its name and version to every response without one, also to those that no middleware sees.
# Empty instead of absent, because nginx would add its own name to a response without the header.
web_response.SERVER_SOFTWARE = ""  # type: ignore[attr-defined]

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_OVER_TLS = {"Strict-Transport-Security": "max-age=63072000; includeSubDomains"}


SECURITY_HEADERS: web.AppKey[CIMultiDictProxy[str]] = web.AppKey("security_headers", CIMultiDictProxy[str])
"""For responses that are sent before the middleware gets them."""


def security_headers(public_url: str) -> CIMultiDictProxy[str]:
    """Headers to add to every response that does not set them itself; HSTS only if the public URL uses TLS."""
    headers = _ALWAYS | (_OVER_TLS if public_url.startswith("https://") else {})
    return CIMultiDictProxy(CIMultiDict({istr(name): value for name, value in headers.items()}))
