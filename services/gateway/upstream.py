"""The upstream's side of a call: how it is asked, how long it may take, and what is said where it does not answer."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakSet

import aiohttp
import orjson
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from libs.http.errors import NO_STORE, json_bytes

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

IDLE_SECONDS = 4.0
"""How long an unused connection is kept: less than servers do, so that a POST rarely meets one that is being closed."""
LONGEST_HEADER = 16 * 1024
"""Bytes of one header, or of the status line."""
MOST_HEADERS = 256
CALLER_WITHIN = 60.0
"""Seconds for which a caller may pause in the middle of its body; what the edge allows."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Failure:
    """One way in which there is no answer."""

    reason: str
    status: int
    message: str

    def response(self) -> web.Response:
        """What the caller gets instead."""
        return json_bytes(orjson.dumps({"error": self.message}), self.status, dict(NO_STORE))


UNREACHABLE = Failure("unreachable", 502, "The upstream cannot be reached")
BROKE_OFF = Failure("broke_off", 502, "The upstream broke off before it answered")
NOT_HTTP = Failure("not_http", 502, "The upstream's answer is not HTTP")
CALLER_TOO_SLOW = Failure("caller_too_slow", 408, "The body did not come in time")
TOO_SLOW = Failure("too_slow", 504, "The upstream did not answer in time")
LOOP = Failure("loop", 508, "The call came here before: the upstream leads back")


class Outgoing:
    """A call's body on its way to the upstream, piece by piece as the caller sends it."""

    def __init__(self, request: web.Request, limit: asyncio.Timeout, patience: float) -> None:
        self._request = request
        self.limit = limit
        self._patience = patience
        self.over = False
        """Nobody waits for the beginning of the answer any more."""
        self.awaits_upstream = True
        self.fault: Exception | None = None
        """What was wrong with the body as it came; the upstream is not to blame."""

    def wait(self, *, for_upstream: bool) -> None:
        """The upstream's turn, or the caller's; each of them is bounded."""
        if not self.over and not self.limit.expired():
            self.awaits_upstream = for_upstream
            now = asyncio.get_running_loop().time()
            self.limit.reschedule(now + (self._patience if for_upstream else CALLER_WITHIN))

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body; begun when there is a connection to send it on."""
        self.wait(for_upstream=False)
        if self._request.headers.get("Expect", "").lower() == "100-continue":
            await self._request.writer.write(_CONTINUE)
            self._request.writer.output_size = 0  # as aiohttp's own: the response has not begun
        try:
            async for piece in self._request.content.iter_any():
                self.wait(for_upstream=True)
                yield piece
                self.wait(for_upstream=False)
        except Exception as fault:
            self.fault = fault
            raise
        self.wait(for_upstream=True)


class _Connector(aiohttp.TCPConnector):
    """Hands out no kept connection on which something came that nobody asked for.

    It would be taken for the answer to the call, and be another caller's.
    """

    def __init__(self) -> None:
        super().__init__(limit=0, ttl_dns_cache=10, keepalive_timeout=IDLE_SECONDS)
        self._used: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: "list[Trace]", timeout: aiohttp.ClientTimeout
    ) -> "Connection":
        """A new connection, or a kept one that has been silent."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or protocol not in self._used:
                break
            if not protocol.should_close:
                return connection
            connection.close()
        if protocol is not None:
            self._used.add(protocol)
        return connection


class Upstream:
    """Asks upstreams, over connections that are kept for the next call."""

    def __init__(self, connect_timeout: float, timeout: float) -> None:
        self._connecting = aiohttp.ClientTimeout(total=None, connect=connect_timeout, ceil_threshold=connect_timeout)
        self._patience = timeout
        self._session: aiohttp.ClientSession | None = None

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Open as long as the application."""
        self._session = aiohttp.ClientSession(
            connector=_Connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._connecting,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            auto_decompress=False,
            trust_env=False,
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            max_headers=MOST_HEADERS,
        )
        yield
        await self._session.close()

    async def ask(self, request: web.Request, url: URL, headers: CIMultiDict[str]) -> aiohttp.ClientResponse | Failure:
        """The beginning of the answer. Raises RequestPayloadError where the caller's body is malformed.

        What was lost with its connection is sent again, once, where its method is idempotent and no body has begun
        (RFC 9110 §9.2.2).
        """
        outgoing = Outgoing(request, asyncio.timeout(None), self._patience)
        try:
            async with outgoing.limit:
                outgoing.wait(for_upstream=True)
                return await self._send(request, url, headers, outgoing)
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as fault:
            if request.transport is None:
                raise asyncio.CancelledError from fault  # nobody is there to be answered
            if isinstance(outgoing.fault, web.RequestPayloadError):
                raise outgoing.fault from None
            if outgoing.limit.expired() and not outgoing.awaits_upstream:
                return CALLER_TOO_SLOW
            return _failure(fault)
        finally:
            outgoing.over = True

    async def _send(
        self, request: web.Request, url: URL, headers: CIMultiDict[str], outgoing: Outgoing
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the application does not run")
        body = outgoing.pieces() if request.body_exists else None
        return await self._session.request(request.method, url, headers=headers, data=body, allow_redirects=False)


def _failure(fault: Exception) -> Failure:
    match fault:
        case TimeoutError():
            return TOO_SLOW
        case aiohttp.ClientConnectorError() | aiohttp.InvalidURL() | RuntimeError():
            return UNREACHABLE  # RuntimeError is uvloop's word for some faults of addresses
        case aiohttp.ClientResponseError() | ValueError():
            return NOT_HTTP
    return BROKE_OFF
