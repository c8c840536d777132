"""Spans of outgoing HTTP requests, named and described as the semantic conventions for HTTP clients say.

`url.full` is left out, because paths and queries of webhooks and upstreams may contain credentials.
"""

from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from libs.tracing.spans import NO_ATTRIBUTES, Attributes, Kind, Span, Tracer

_DEFAULT_PORTS = {"http": 80, "https": 443}


def start_client_span(
    tracer: Tracer,
    method: str,
    url: str,
    parent: str | None,
    attributes: Attributes = NO_ATTRIBUTES,
    links: Sequence[str | None] = (),
) -> Span:
    """Start the span of one request; its traceparent is to be sent with it."""
    about = {"http.request.method": method, **_server(url), **attributes}
    return tracer.start(Kind.CLIENT, method, parent, about, links)


def end_client_span(span: Span, status: int | None, failure: str | None = None) -> None:
    """End it with the status of the response, or with what went wrong where there is none."""
    if status is None:
        span.end(error=failure or "no_response")
    else:
        failed = status >= HTTPStatus.BAD_REQUEST
        span.end({"http.response.status_code": status}, error=str(status) if failed else None)


def _server(url: str) -> Attributes:
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError:
        return NO_ATTRIBUTES
    return {"url.scheme": parts.scheme, "server.address": parts.hostname or "", "server.port": port}
