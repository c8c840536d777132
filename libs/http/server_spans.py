"""Spans of incoming requests, named and described as the semantic conventions for HTTP servers say.

The path is what the access log shows: without the query, and without what may be secret. `user_agent.original` and the
headers are left out, because callers may write anything into them.
"""

from aiohttp import web
from aiohttp.hdrs import METH_ALL

from libs.logging import redact
from libs.tracing.spans import Kind, Span, Tracer

UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes that monitoring requests every few seconds."""
NO_ROUTE = "none"
"""How the metrics call the route of a path that has none."""


def start_server_span(tracer: Tracer, request: web.Request, route: str, parent: str | None) -> Span | None:
    """Start the span of a request; None if requests of this route are not traced."""
    if route in UNTRACED:
        return None
    method = request.method if request.method in METH_ALL else "_OTHER"
    about = {"http.request.method": method, "url.scheme": request.scheme}
    name = method if method in METH_ALL else "HTTP"
    if route != NO_ROUTE:
        about["http.route"] = route
        name = f"{name} {route}"
    return tracer.start(Kind.SERVER, name, parent, about)


def end_server_span(span: Span, status: int, path: str, address: str, request_id: str | None) -> None:
    """End it with the response. Only a 5xx is an error: any other refusal is an answer as it should be."""
    about: dict[str, str | int] = {
        "http.response.status_code": status,
        "url.path": str(redact(None, "", {"path": path})["path"]),
        "client.address": address,
        "tokenwire.request_id": request_id or "",
    }
    span.end(about, error=str(status) if status >= 500 else None)
