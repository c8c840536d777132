"""The request middleware and the request context: request id, trace, client address, access log, error responses."""

import os
import random
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import web
from aiohttp.hdrs import METH_ALL
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDictProxy, istr

from contracts.operators import Actor
from libs.client_address import LONGEST_FORWARDED, TrustedProxies
from libs.http.error_responses import ErrorRenderer
from libs.http.server_spans import NO_ROUTE, end_server_span, start_server_span
from libs.logging import access
from libs.telemetry import REQUEST_METRICS
from libs.tracing.spans import Span, Tracer

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

REQUEST_ID_HEADER, _TRACEPARENT_HEADER, _FORWARDED_HEADER = map(
    istr, ("X-Request-Id", "traceparent", "X-Forwarded-For")
)

_names = random.Random(os.urandom(32))  # noqa: S311 - ids to find a request by; nothing is protected by them


def new_request_id() -> str:
    """A new request id."""
    return f"{_names.getrandbits(64):016x}"


def _new_trace() -> str:
    return f"00-{_names.getrandbits(128) or 1:032x}-{_names.getrandbits(64) or 1:016x}-00"


class RequestContext:
    """Facts about the current request, available without passing them through every function."""

    __slots__ = ("_traceparent", "actor", "address", "cors_headers", "request_id", "shown_path")

    def __init__(self, request_id: str | None = None, traceparent: str | None = None, address: str = "") -> None:
        self.request_id = request_id
        """None outside of a request."""
        self._traceparent = traceparent
        self.address = address
        """The client's address: the peer's, or the one that trusted proxies report."""
        self.actor: Actor | None = None
        """The operator who authenticated. Set where the key is checked, so every event in the audit log has it."""
        self.cors_headers: Mapping[str, str] | None = None
        """Headers for the response, also for an error response (CORS: a script may read a refusal, too)."""
        self.shown_path: str | None = None
        """What the access log shows instead of the path, if the path may contain secrets."""

    @property
    def traceparent(self) -> str | None:
        """The trace (W3C Trace Context); a new one if the caller sent none, None outside of a request."""
        if self._traceparent is None and self.request_id is not None:
            self._traceparent = _new_trace()
        return self._traceparent

    @traceparent.setter
    def traceparent(self, traceparent: str) -> None:
        self._traceparent = traceparent

    def received_trace(self) -> str | None:
        """The trace that the caller sent, or that was set since; None if there is none yet."""
        return self._traceparent


_context: ContextVar[RequestContext] = ContextVar("request")


def current() -> RequestContext:
    """The context of the current request; an empty one outside of a request."""
    return _context.get(None) or RequestContext()


@lru_cache(maxsize=1024)
def _named(resource: web.AbstractResource | None) -> str:
    return resource.canonical if resource is not None else NO_ROUTE


@dataclass(slots=True)
class Drain:
    """`on` while the process stops: every response then closes its connection."""

    on: bool = False


DRAIN = web.AppKey("drain", Drain)


def _begun(request: web.Request, forwarded: str, proxies: TrustedProxies) -> RequestContext:
    headers = request.headers
    identifier = headers.get(REQUEST_ID_HEADER)
    if identifier is None or not _REQUEST_ID.fullmatch(identifier):
        identifier = new_request_id()
    trace = headers.get(_TRACEPARENT_HEADER)
    if trace is not None and not _TRACEPARENT.fullmatch(trace):
        trace = None
    return RequestContext(identifier, trace, proxies.client(request.remote or "", forwarded))


def _traced(tracer: Tracer, request: web.Request, context: RequestContext) -> Span | None:
    """The span of a request; what follows from the request becomes its child."""
    span = start_server_span(tracer, request, _named(request.match_info.route.resource), context.received_trace())
    if span is not None:
        context.traceparent = span.traceparent
    return span


def request_middleware(
    renderer: ErrorRenderer,
    sample: float,
    drain: Drain,
    proxies: TrustedProxies,
    constant: CIMultiDictProxy[str],
    tracer: Tracer | None = None,
) -> Middleware:
    """The only middleware. `sample` is the share (0 to 1) of successful requests that get an access log line.

    `tracer` is None where tracing is off.
    """

    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        forwarded = ",".join(request.headers.getall(_FORWARDED_HEADER, ()))
        context = _begun(request, forwarded, proxies)
        _context.set(context)
        span = None if tracer is None else _traced(tracer, request, context)
        try:
            if len(forwarded) > LONGEST_FORWARDED:  # whether or not the peer is trusted
                raise web.HTTPBadRequest(reason=f"X-Forwarded-For is over {LONGEST_FORWARDED} characters; shorten it")
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - the boundary: every exception becomes a response here
            response = renderer.render(request, error, context.request_id)
        except BaseException as ended:
            if span is not None:
                span.end(error=type(ended).__name__)
            raise
        if not response.prepared:
            headers = response.headers
            headers[REQUEST_ID_HEADER] = context.request_id or ""
            headers.merge(constant)
            if context.cors_headers is not None:
                headers.update(context.cors_headers)
            if drain.on:
                # The header tells the client not to send its next request on this connection, where it would be lost.
                response.force_close()
                headers["Connection"] = "close"
        seconds = time.perf_counter() - started
        status, method, route = response.status, request.method, _named(request.match_info.route.resource)
        REQUEST_METRICS.observe(route, method if method in METH_ALL else "other", status, seconds)
        if sample >= 1 or status >= 400 or random.random() < sample:  # noqa: S311 - sampling
            # Milliseconds with two decimals; round() would take longer than the rest of the log line.
            shown = context.shown_path or request.path
            access(method, shown, status, int(seconds * 100_000) / 100, context.address, context.request_id)
        if span is not None:
            end_server_span(span, status, context.shown_path or request.path, context.address, context.request_id)
        return response

    return handle
