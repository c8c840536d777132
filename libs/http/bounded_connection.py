"""A client's connection to a service, with limits on time and memory, and JSON errors for malformed requests.

It subclasses aiohttp's `RequestHandler` and uses private attributes of it, because aiohttp has no setting for what is
needed here. Its parser and writer stay as they are.

- a limit on the total size of a request head: aiohttp limits single lines and their number, 2 MB altogether;
- a deadline for a head: a client that sends one byte a minute would hold a connection forever (Slowloris);
- a limit on pipelined requests, and on what is buffered of a body before a handler reads it;
- errors in the format of our other errors, without repeating the input;
- to know whether a connection is idle, so that `open_connections` can close the right ones when there are too many.

Tested with the aiohttp version in `aiohttp_version`; with another one a service logs a warning when it starts.
tests/unit/test_bounded_connection.py fails if a new version changes what is used here.
"""

import asyncio
import fcntl
import os
import socket
import struct
import termios
from typing import Any, cast

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from libs.http.context import REQUEST_ID_HEADER, new_request_id
from libs.http.open_connections import OpenConnections
from libs.http.responses import NO_STORE, json_bytes
from libs.http.security_headers import SECURITY_HEADERS

HEAD_WITHIN = 10.0
"""Seconds from connecting, or from the first byte of a later request, until the request head is complete."""
KEEPALIVE = 75.0
"""Seconds after which an idle connection is closed."""
UNREAD_WITHIN = 2.0
"""Seconds during which the rest of an unread body is still received and discarded. If the connection were closed at
once, a client that is still sending could lose the response."""
LONGEST_LINE = 16 * 1024
"""Bytes of the request line, and of one header: the limit of the reverse proxy in `edge/`."""
MOST_HEADERS = 128
"""Headers in one request."""
LONGEST_HEAD = 64 * 1024
"""Bytes of a request head: request line and all headers."""
SLICE = 8 * 1024
"""Bytes that are parsed at a time. A head may exceed LONGEST_HEAD by this much before it is refused."""
SMALL = 1024
"""Heads up to this many bytes, which most are, are not counted towards the limit for all connections."""
QUEUED = 4
"""Pipelined requests that may wait on a connection; beyond that the socket is not read."""
MOST_DISCARDED = 1024 * 1024
"""Bytes that a client may still send after its request was refused, so that it can read the response."""
READ_BUFFER = 64 * 1024
"""Bytes of a body that are buffered for the handler; at twice as many the socket is not read."""
OPTIONS: dict[str, Any] = {
    "access_log": None,
    "keepalive_timeout": KEEPALIVE,
    "lingering_time": UNREAD_WITHIN,
    "auto_decompress": False,
    "max_line_size": LONGEST_LINE,
    "max_field_size": LONGEST_LINE,
    "max_headers": MOST_HEADERS,
    "read_bufsize": READ_BUFFER,
}
"""Options for aiohttp. `auto_decompress` is off: `forms` limits the size of decompressed bodies itself."""

log = structlog.get_logger("http")
_receive = web.RequestHandler.data_received


class HeadTooLarge(HttpProcessingError):
    """The request head has more than LONGEST_HEAD bytes."""


class HeadTooSlow(HttpProcessingError):
    """The request head was not complete within HEAD_WITHIN seconds."""


class BoundedConnection(web.RequestHandler):
    """aiohttp's request handler with limits on request heads, and JSON errors."""

    __slots__ = ("_all", "_app", "_body", "_discarded", "_head", "_refused", "_rest", "_unfinished", "held")

    def __init__(
        self, server: web.Server, app: web.Application, loop: asyncio.AbstractEventLoop, connections: OpenConnections
    ) -> None:
        super().__init__(server, loop=loop, **OPTIONS)
        self._max_msg_queue_size, self._msg_queue_resume_size = QUEUED, QUEUED // 2
        self._app = app
        self._all = connections
        self._head: asyncio.TimerHandle | None = None
        """The deadline of the head that is being received; None between requests."""
        self._unfinished = 0
        """Bytes received of an incomplete head."""
        self._body: StreamReader = EMPTY_PAYLOAD
        """Body of the last request."""
        self._rest = b""
        """Received but not parsed, because enough requests or enough of a body are waiting already."""
        self._refused = False
        """The last request was refused: everything that follows is discarded."""
        self._discarded = 0
        """Bytes discarded since."""
        self.held = 0

    @property
    def idle_since(self) -> float | None:
        """The loop's time at which the last request ended; None while a request is in progress."""
        if self._waiter is None or self._messages or self._unfinished or self._refused:
            return None
        return self._next_keepalive_close_time - KEEPALIVE

    @property
    def is_incomplete(self) -> bool:
        """Whether a request has begun to arrive and is not complete."""
        return self._unfinished > 0 or not self._body.is_eof()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the deadline for the first request head."""
        super().connection_made(transport)
        self._all.opened(self)
        if not self._force_close:
            self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Release everything that is counted for this connection."""
        self._head_is_here()
        self._all.closed(self)
        self._rest = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse in small slices, so that an oversized head is noticed early and backpressure takes effect early."""
        if self._refused:
            self._discarded += len(data)
            if self._discarded > MOST_DISCARDED:
                self.force_close()
            return
        if self._upgraded or self._payload_parser is not None:
            super().data_received(data)
            return
        if self._rest:
            data, self._rest = self._rest + data, b""
        if len(data) <= SLICE:
            self._parse(data)
            return
        position = 0
        while position < len(data) and not (self._refused or self._close or self._force_close):
            self._parse(data[position : position + SLICE])
            position += SLICE
            if self._reading_paused or len(self._messages) >= QUEUED:
                # aiohttp calls data_received(b"") when it is ready for more.
                self._rest = data[position:]
                return

    def force_close(self) -> None:
        """Close the connection; a handler that still reads the body gets a ConnectionResetError."""
        # Without a current request, the only reader is aiohttp discarding the rest; it would log the exception.
        if self._current_request is not None and not self._body.is_eof():
            self._body.set_exception(ConnectionResetError("the connection was closed"))
        super().force_close()

    def drop(self) -> None:
        """Close the connection, cancel the handler of the incomplete request, and free what was received."""
        if self._task_handler is not None:
            self._task_handler.cancel()
        self.force_close()
        self._messages.clear()
        self._rest, self._body, self._unfinished = b"", EMPTY_PAYLOAD, 0
        self._parser = None

    def close_if_idle(self) -> None:
        """Close the connection unless a request is in progress, or has arrived in the socket's buffer."""
        transport = self.transport
        if self.idle_since is None or transport is None:
            return
        descriptor = transport.get_extra_info("socket").fileno()
        if _unread(descriptor):
            return
        # At once, not in the loop's next iteration: a request sent in between would be lost.
        with socket.socket(fileno=os.dup(descriptor)) as same:
            same.shutdown(socket.SHUT_WR)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The response to a request that reached no handler. The input is neither repeated nor logged."""
        if request.writer.output_size > 0:
            raise ConnectionError("a response has already begun")
        request_id = new_request_id()
        if isinstance(exc, HttpProcessingError):
            log.info("malformed_request", error=type(exc).__name__, request_id=request_id, client=request.remote)
        else:
            log.error("unexpected_error", error=type(exc).__name__, request_id=request_id, exc_info=exc)
        status, message = _fault(status, exc)
        code = "server_error" if status >= 500 else "invalid_request"
        body = orjson.dumps({"error": code, "error_description": message})
        constant = self._app[SECURITY_HEADERS]
        headers = {**NO_STORE, **constant, REQUEST_ID_HEADER: request_id, "Connection": "close"}
        response = json_bytes(body, status, headers)
        response.force_close()
        return response

    def _parse(self, piece: bytes) -> None:
        begun = self._waiter is not None and not self._messages and not self._unfinished
        count = self._request_count
        _receive(self, piece)
        if self._close or self._force_close:
            return
        if self._request_count != count:
            message, self._body = self._messages[-1]
            self._unfinished = 0
            if self._head is not None:
                self._head_is_here()
            if isinstance(message, _ErrInfo):
                self._refused, self._body = True, EMPTY_PAYLOAD
                self._messages[-1] = message, self._unread()
        elif piece and self._body.is_eof() and not self._upgraded:
            self._unfinished += len(piece)
            if self._unfinished > LONGEST_HEAD:
                self._refuse(HeadTooLarge())
                return
            if self._head is None:
                self._await_head()
        else:
            return
        if self.held or not begun or len(piece) > SMALL:
            held = len(piece) + (0 if begun else self.held)
            if held > SMALL or self.held:
                self._all.holds(self, held)

    def _await_head(self) -> None:
        self._head = self._loop.call_later(HEAD_WITHIN, self._head_is_late)
        self._all.head_begun(self)

    def _head_is_here(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
            self._all.head_ended(self)

    def _head_is_late(self) -> None:
        if self._current_request is not None or self._messages:
            # Earlier requests on this connection are still being handled, so this one may not even have been read.
            self._head = self._loop.call_later(HEAD_WITHIN, self._head_is_late)
        elif self._unfinished:
            self._refuse(HeadTooSlow())
        else:
            self.force_close()

    def _refuse(self, fault: HttpProcessingError) -> None:
        """Respond with this error, after the responses to earlier requests, and close the connection."""
        self._head_is_here()
        self._refused, self._unfinished = True, 0
        self._request_count += 1
        self._messages.append((_ErrInfo(status=400, exc=fault, message=""), self._unread()))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _unread(self) -> StreamReader:
        return cast("StreamReader", _Unread(self))


class _Unread:
    """Stands in for the body of a refused request: aiohttp waits for its end, for UNREAD_WITHIN seconds at most.

    If the connection were closed while the client still sends, its operating system would discard the response (TCP
    reset).
    """

    def __init__(self, connection: BoundedConnection) -> None:
        self._connection = connection

    def is_eof(self) -> bool:
        """Whether the client has disconnected."""
        return self._connection.transport is None

    async def readany(self) -> bytes:
        """Never returns. aiohttp calls it after the response was written: half-close, so the client sees the end."""
        transport = self._connection.transport
        if transport is not None and transport.can_write_eof():
            transport.write_eof()
        nothing: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        return await nothing

    def set_exception(self, *_: object) -> None:
        """Ignore the exception: there is no reader."""


def _fault(status: int, error: BaseException | None) -> tuple[int, str]:
    """HTTP status and message for the error."""
    match error:
        case LineTooLong() if isinstance(error.args[0], bytearray):  # the parser keeps only the request line in one
            return 414, f"the request line is over {LONGEST_LINE} bytes; shorten the URL"
        case LineTooLong():
            return 431, f"a header is too large; the limit is {LONGEST_LINE} bytes"
        case HeadTooLarge():
            return 431, f"the headers are too large; the limit is {LONGEST_HEAD} bytes altogether"
        case HeadTooSlow():
            return 408, f"the headers were not complete within {HEAD_WITHIN:g} s"
        case HttpProcessingError() if "Too many headers" in error.message:
            return 431, f"there are over {MOST_HEADERS} headers"
    if status < 500:
        return status, "the request is malformed"
    return status, "internal error; find the request id in the log"


def _unread(descriptor: int) -> int:
    """Bytes in the socket's receive buffer."""
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4))
    return int(count)
