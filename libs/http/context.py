"""What surrounds a request: its id, its trace, its one access line, its errors rendered."""

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
from libs.addresses import TrustedProxies
from libs.http.errors import ErrorRenderer
from libs.logging import access
from libs.telemetry import ANSWERS

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_REQUEST_ID_HEADER, _TRACEPARENT_HEADER, _FORWARDED_HEADER = map(
    istr, ("X-Request-Id", "traceparent", "X-Forwarded-For")
)

_names = random.Random(os.urandom(32))  # noqa: S311 - ids to find a request by; nothing is protected by them


def _new_id() -> str:
    return f"{_names.getrandbits(64):016x}"


def _new_trace() -> str:
    return f"00-{_names.getrandbits(128) or 1:032x}-{_names.getrandbits(64) or 1:016x}-00"


class RequestContext:
    """What is known of the request that is being answered."""

    __slots__ = ("_traceparent", "actor", "address", "answer_headers", "request_id", "shown_path")

    def __init__(self, request_id: str | None = None, traceparent: str | None = None, address: str = "") -> None:
        self.request_id = request_id
        """None outside of any request."""
        self._traceparent = traceparent
        self.address = address
        """Of whoever sent it, as far as trusted proxies say it."""
        self.actor: Actor | None = None
        """The operator whose key opened it: set where the key is checked, so that no change forgets it."""
        self.answer_headers: Mapping[str, str] | None = None
        """What its answer carries whatever becomes of it, so that a script can read a refusal, too."""
        self.shown_path: str | None = None
        """What its access line says instead of a path that is not ours to show."""

    @property
    def traceparent(self) -> str | None:
        """Its trace (W3C Trace Context), begun here where the caller names none; None outside of any request."""
        if self._traceparent is None and self.request_id is not None:
            self._traceparent = _new_trace()
        return self._traceparent


_context: ContextVar[RequestContext] = ContextVar("request")


def current() -> RequestContext:
    """The context of the request that is being answered; an empty one outside of any request."""
    return _context.get(None) or RequestContext()


@lru_cache(maxsize=1024)
def _named(resource: web.AbstractResource | None) -> str:
    return resource.canonical if resource is not None else "none"


@dataclass(slots=True)
class Drain:
    """On while the process stops: every answer then closes its connection."""

    on: bool = False


DRAIN = web.AppKey("drain", Drain)


def _begun(request: web.Request, proxies: TrustedProxies) -> RequestContext:
    headers = request.headers
    identifier = headers.get(_REQUEST_ID_HEADER)
    if identifier is None or not _REQUEST_ID.fullmatch(identifier):
        identifier = _new_id()
    trace = headers.get(_TRACEPARENT_HEADER)
    if trace is not None and not _TRACEPARENT.fullmatch(trace):
        trace = None
    forwarded = ",".join(headers.getall(_FORWARDED_HEADER, ())) if proxies else ""
    return RequestContext(identifier, trace, proxies.client(request.remote or "", forwarded))


def surroundings(
    renderer: ErrorRenderer, sample: float, drain: Drain, proxies: TrustedProxies, constant: CIMultiDictProxy[str]
) -> Middleware:
    """The one middleware. `sample` is the share of successful requests that get an access line."""

    @web.middleware
    async def surround(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        context = _begun(request, proxies)
        _context.set(context)
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - the boundary: everything becomes a response here
            response = renderer.render(request, error)
        if not response.prepared:
            headers = response.headers
            headers[_REQUEST_ID_HEADER] = context.request_id or ""
            headers.merge(constant)
            if context.answer_headers is not None:
                headers.update(context.answer_headers)
            if drain.on:
                # Said aloud, since a closed connection alone may meet the next request on its way.
                response.force_close()
                headers["Connection"] = "close"
        seconds = time.perf_counter() - started
        status, method, route = response.status, request.method, _named(request.match_info.route.resource)
        ANSWERS.count(route, method if method in METH_ALL else "other", status, seconds)
        if sample >= 1 or status >= 400 or random.random() < sample:  # noqa: S311 - sampling
            access(
                method=method,
                path=context.shown_path or request.path,
                status=status,
                ms=round(seconds * 1000, 2),
                client=context.address,
                request_id=context.request_id,
            )
        return response

    return surround
