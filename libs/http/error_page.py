"""The page that a browser shows when an authorization request fails and cannot be redirected to the client app.

RFC 6749 §4.1.2.1: the server "SHOULD inform the resource owner of the error". Programs get JSON instead.
"""

import base64
import hashlib
from html import escape
from string import Template

_STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:12vh auto;padding:0 1rem;color:#1c2330;"
    "background:#fff}h1{font-size:1.4rem}dt{font-weight:600}dd{margin:0 0 .5rem;overflow-wrap:anywhere}"
    "@media(prefers-color-scheme:dark){body{color:#e6e9ef;background:#14181f}}"
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Language": "en",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'",
    "Vary": "Accept",
}
"""For responses with this page. No script can run in it, whatever a request contains."""

_PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign-in is not possible</title>
<style>$style</style>
</head>
<body>
<main>
<h1>Sign-in is not possible</h1>
<p>The app that sent you here made a request that cannot be accepted. You have not been signed in, and nothing was
passed on to the app. Go back to the app and try again. If this page comes again, send the details below to whoever
provides the app.</p>
<dl>
<dt>Error</dt><dd>$code</dd>
<dt>Reason</dt><dd>$description</dd>
<dt>Request</dt><dd>$request_id</dd>
</dl>
</main>
</body>
</html>
"""
)


def error_page(code: str, description: str, request_id: str) -> bytes:
    """The page, in UTF-8. The values may contain anything."""
    return _PAGE.substitute(
        style=_STYLE, code=escape(code), description=escape(description), request_id=escape(request_id)
    ).encode()


def prefers_html(accept: str) -> bool:
    """Whether an `Accept` header names HTML, and does not prefer JSON (RFC 9110 §12.5.1). `*/*` alone is a program."""
    quality = {"html": 0.0, "json": 0.0}
    for part in accept.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        kind = {"text/html": "html", "application/xhtml+xml": "html", "application/json": "json"}.get(media_type)
        if kind is not None:
            quality[kind] = max(quality[kind], _quality(parameters))
    return quality["html"] > 0 and quality["html"] >= quality["json"]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
