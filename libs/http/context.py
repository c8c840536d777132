"""What surrounds a request: its id, its trace, its one access line, its errors rendered."""

import asyncio
import os
import random
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import web
from aiohttp.hdrs import METH_ALL
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDictProxy
from prometheus_client import Counter, Histogram

from contracts.operators import Actor
from libs.addresses import TrustedProxies
from libs.http.cors import ANSWER_HEADERS
from libs.http.errors import ErrorRenderer
from libs.logging import access
from libs.telemetry import LATENCY, REQUESTS

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
actor: ContextVar[Actor | None] = ContextVar("actor", default=None)
"""The operator whose key opened the current request: set where the key is checked, so that no change forgets it."""
client_address: ContextVar[str] = ContextVar("client_address", default="")
"""Of whoever sent the current request, as far as trusted proxies say it."""


_names = random.Random(os.urandom(32))  # noqa: S311 - ids to find a request by; nothing is protected by them


def _new_id() -> str:
    return f"{_names.getrandbits(64):016x}"


def _new_trace() -> str:
    return f"00-{_names.getrandbits(128) or 1:032x}-{_names.getrandbits(64) or 1:016x}-00"


@lru_cache(maxsize=4096)
def _measures(route: str, method: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(route, method, status), LATENCY.labels(route)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


@dataclass(slots=True)
class Drain:
    """On while the process stops: every answer then closes its connection."""

    on: bool = False


DRAIN = web.AppKey("drain", Drain)
SHOWN_PATH = web.RequestKey("shown_path", str)
"""What an access line says instead of a path that is not ours to show."""


def _address(request: web.Request, proxies: TrustedProxies) -> str:
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", ())) if proxies else ""
    return proxies.client(request.remote or "", forwarded)


def surroundings(
    renderer: ErrorRenderer, sample: float, drain: Drain, proxies: TrustedProxies, constant: CIMultiDictProxy[str]
) -> Middleware:
    """The one middleware. `sample` is the share of successful requests that get an access line."""

    @web.middleware
    async def surround(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        given = request.headers.get("X-Request-Id", "")
        identifier = given if given and _REQUEST_ID.fullmatch(given) else _new_id()
        trace = request.headers.get("traceparent", "")
        traceparent.set(trace if trace and _TRACEPARENT.fullmatch(trace) else _new_trace())
        request_id.set(identifier)
        actor.set(None)  # the requests of one connection share a context
        address = _address(request, proxies)
        client_address.set(address)
        try:
            response = await handler(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: everything becomes a response here
            response = renderer.render(request, error)
        if not response.prepared:
            response.headers["X-Request-Id"] = identifier
            response.headers.merge(constant)
            own = request.get(ANSWER_HEADERS)
            if own is not None:
                response.headers.update(own)
            if drain.on:
                # Said aloud, since a closed connection alone may meet the next request on its way.
                response.force_close()
                response.headers["Connection"] = "close"
        seconds = time.perf_counter() - started
        route = _route(request)
        method = request.method if request.method in METH_ALL else "other"
        counter, histogram = _measures(route, method, response.status)
        counter.inc()
        histogram.observe(seconds)
        if sample >= 1 or response.status >= 400 or random.random() < sample:  # noqa: S311 - sampling
            access(
                method=request.method,
                path=request.get(SHOWN_PATH) or request.path,
                status=response.status,
                ms=round(seconds * 1000, 2),
                client=address,
                request_id=identifier,
            )
        return response

    return surround
