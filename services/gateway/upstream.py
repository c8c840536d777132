"""Sends calls to upstreams: with which timeouts, and which error the caller gets if no response comes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import cast

import aiohttp
import orjson
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, BadStatusLine, LineTooLong
from multidict import CIMultiDict
from yarl import URL

from libs.http.responses import NO_STORE, json_bytes
from libs.outbound.connector import MAX_HEADER_BYTES, MAX_HEADERS, OutboundConnector
from libs.outbound.resolver import ThreadPoolResolver
from libs.outbound.ssrf import DeniedAddress, Network, all_but
from services.gateway.relay import UpstreamResponse

KEEPALIVE = 4.0
"""Seconds for which an idle connection is kept. Common servers keep theirs for longer, which matters: a POST sent on a
connection that the server is just closing cannot be repeated."""
CALLER_IDLE_TIMEOUT = 60.0
"""Seconds for which a caller may pause in the middle of its body; the reverse proxy in `edge/` allows as much."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no response from the upstream, and what the caller gets instead."""

    reason: str
    """For the log."""
    status: int
    message: str

    def response(self) -> web.Response:
        """The error response for the caller."""
        return json_bytes(orjson.dumps({"error": self.message}), self.status, dict(NO_STORE))


DENIED = Failure("denied_address", 502, "The upstream's address is not allowed")
NO_UPSTREAM = Failure("no_upstream", 502, "The API has no upstream that the gateway can call")
UNREACHABLE = Failure("unreachable", 502, "The upstream cannot be reached")
BROKE_OFF = Failure("broke_off", 502, "The upstream closed the connection before it responded")
NOT_HTTP = Failure("not_http", 502, "The upstream's response is not HTTP")
MALFORMED = Failure("malformed", 502, "The upstream's response has malformed or contradictory headers")
HEAD_TOO_LARGE = Failure(
    "head_too_large",
    502,
    f"The upstream's response has a header over {MAX_HEADER_BYTES // 1024} KiB, or more than {MAX_HEADERS} headers",
)
CALLER_TOO_SLOW = Failure("caller_too_slow", 408, "The request body did not arrive in time")
TOO_SLOW = Failure("too_slow", 504, "The upstream did not respond in time")
LOOP = Failure("loop", 508, "Loop detected: the upstream sends the call back to this gateway")


class RequestBody:
    """Streams the body of a call to the upstream, and moves the deadline with each piece.

    Two parties can stall: the caller (while the next piece is awaited) and the upstream (while a piece is written, and
    after the last one). Each has its own timeout, so the one `asyncio.timeout` is rescheduled at every change of turn.
    """

    def __init__(self, request: web.Request, limit: asyncio.Timeout, timeout: float) -> None:
        self._request = request
        self.limit = limit
        self._timeout = timeout
        self.over = False
        """True once the response has begun or the attempt has ended: the timeout must not be touched any more."""
        self.awaits_upstream = True
        self.fault: Exception | None = None
        """What was wrong with the caller's body: the upstream is not to blame for it."""

    def wait(self, *, for_upstream: bool) -> None:
        """Restart the timeout for the party whose turn it is."""
        if not self.over and not self.limit.expired():
            self.awaits_upstream = for_upstream
            now = asyncio.get_running_loop().time()
            self.limit.reschedule(now + (self._timeout if for_upstream else CALLER_IDLE_TIMEOUT))

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body piece by piece; aiohttp's client asks for the first one when it has a connection."""
        self.wait(for_upstream=False)
        if self._request.headers.get("Expect", "").lower() == "100-continue":
            await self._request.writer.write(_CONTINUE)
            self._request.writer.output_size = 0  # as aiohttp's own handler does: the response has not begun
        try:
            async for piece in self._request.content.iter_any():
                self.wait(for_upstream=True)
                yield piece
                self.wait(for_upstream=False)
        except Exception as fault:
            self.fault = fault
            raise
        self.wait(for_upstream=True)


class Upstream:
    """HTTP client for upstreams; connections are kept and reused."""

    def __init__(self, connect_timeout: float, timeout: float, denied: Sequence[Network]) -> None:
        self._connecting = aiohttp.ClientTimeout(total=None, connect=connect_timeout, ceil_threshold=connect_timeout)
        self._timeout = timeout
        self._denied = denied
        self._session: aiohttp.ClientSession | None = None

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Cleanup context: the session is open while the application runs."""
        self._session = aiohttp.ClientSession(
            # The denylist is checked for the address that the socket connects to, not for the name (SSRF).
            connector=OutboundConnector(
                keepalive=KEEPALIVE, sockets=all_but(self._denied), resolver=ThreadPoolResolver()
            ),
            response_class=UpstreamResponse,
            # One caller's cookies must never reach the upstream with another caller's call.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._connecting,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )
        yield
        await self._session.close()

    async def send(self, request: web.Request, url: URL, headers: CIMultiDict[str]) -> UpstreamResponse | Failure:
        """Send the call; the upstream's status and headers, or why there are none.

        Raises RequestPayloadError if the caller's body is malformed. If a kept connection turns out to be closed,
        aiohttp repeats the call once, provided that its method is idempotent and no body was begun (RFC 9110 §9.2.2).
        """
        body = RequestBody(request, asyncio.timeout(None), self._timeout)
        try:
            async with body.limit:
                body.wait(for_upstream=True)
                return await self._request(request, url, headers, body)
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as fault:
            if request.transport is None:
                raise asyncio.CancelledError from fault  # the caller is gone
            if isinstance(body.fault, web.RequestPayloadError):
                raise body.fault from None
            if body.limit.expired() and not body.awaits_upstream:
                return CALLER_TOO_SLOW
            return _failure(fault)
        finally:
            body.over = True

    async def _request(
        self, request: web.Request, url: URL, headers: CIMultiDict[str], body: RequestBody
    ) -> UpstreamResponse:
        if self._session is None:
            raise RuntimeError("the application does not run")
        data = body.pieces() if request.body_exists else None
        # Redirects are the caller's to follow: followed here, they would lead past the access decision.
        response = await self._session.request(request.method, url, headers=headers, data=data, allow_redirects=False)
        return cast("UpstreamResponse", response)


def _failure(fault: Exception) -> Failure:
    match fault:
        case TimeoutError():
            return TOO_SLOW
        case aiohttp.ClientConnectorError() if isinstance(fault.os_error, DeniedAddress):
            return DENIED
        case aiohttp.ClientConnectorError() | aiohttp.InvalidURL() | RuntimeError():
            return UNREACHABLE  # uvloop raises RuntimeError for some unusable addresses
        case aiohttp.ClientResponseError():
            return _parse_failure(fault)
        case ValueError():
            return NOT_HTTP
    return BROKE_OFF


def _parse_failure(fault: BaseException | None) -> Failure:
    """The failure for an error of aiohttp's parser, which is somewhere in the chain of causes."""
    while fault is not None:
        match fault:
            case LineTooLong():
                return HEAD_TOO_LARGE
            case BadStatusLine():
                return NOT_HTTP
            case BadHttpMessage():
                return HEAD_TOO_LARGE if fault.message.startswith("Too many headers") else MALFORMED
        fault = fault.__cause__
    return NOT_HTTP
