"""aiohttp connector for outgoing connections to servers that are not ours and may not keep to HTTP.

It protects against three faults of such servers. A status that was read counts, whatever follows it: a body where none
is allowed (after 204, 304 or HEAD), more bytes than announced, headers that are too large. Bytes that arrive without a
request are never read as the response to the next one. A connection whose response had a body where none is allowed is
closed.

The SSRF guard (`libs/outbound/ssrf.py`) is the socket factory: it sees the very address that is about to be connected.
"""

import asyncio
import re
from typing import TYPE_CHECKING

import aiohttp

from libs.outbound.ssrf import SocketFactory

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.abc import AbstractResolver
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

MAX_HEADER_BYTES = 16 * 1024
"""Bytes of one response header, or of the status line."""
MAX_HEADERS = 256
"""Headers of one response."""
MAX_QUARANTINED = 8
"""Connections in quarantine that one request may skip; skipping more would cost callers of a busy upstream time."""
QUARANTINE_SECONDS = 0.1
"""Seconds after a response without a body during which its connection is not reused.

If the server sends a body anyway, it is already on the way and would be read as the next response.
"""

_END_OF_HEADERS = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"(?:\r?\n)*HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r?\n")
_MAX_STATUS_LINE_BYTES = 4096
_MAX_HEAD_BYTES = MAX_HEADER_BYTES * MAX_HEADERS
_ANNOUNCES_BODY = re.compile(rb"\n(?:content-length[ \t]*:[ \t]*0*[1-9]|transfer-encoding[ \t]*:)", re.IGNORECASE)
_ANNOUNCES_NO_BODY = re.compile(rb"\ncontent-length[ \t]*:[ \t]*0+[ \t]*\r?\n", re.IGNORECASE)
_STATUSES_WITHOUT_BODY = frozenset({204, 304})


class ResponseReader(asyncio.Protocol):
    """Stands between the transport and aiohttp's protocol and passes on one response per request, its head first.

    aiohttp's parser discards a response if the bytes that arrived together with it are not HTTP. Therefore it gets the
    head (status line and headers) alone, then what follows, and nothing more where no body is allowed.
    """

    def __init__(self, protocol: "ResponseHandler", on_lost: "Callable[[ResponseReader], None]") -> None:
        self._protocol = protocol
        self._on_lost = on_lost
        self._in_head = False
        self._to_head_request = False
        self._head = b""
        """The part of the head that has arrived."""
        self._complete = False
        """True: nothing may arrive before the next request."""
        self.requests = 0
        """How many requests this connection has been used for; more than 1 on a reused connection."""
        self.status: int | None = None
        """Status of the current response, set as soon as its status line is complete; None for an interim one (1xx)."""
        self.bodiless_since: float | None = None
        """Loop time at which the latest response ended, if it had no body."""

    def expect_response(self, *, to_head_request: bool = False) -> None:
        """Prepare for the response to a request that is about to be sent."""
        self.requests += 1
        self._in_head = True
        self._to_head_request = to_head_request
        self._head = b""
        self._complete = False
        self.status = None
        self.bodiless_since = None

    def data_received(self, data: bytes) -> None:
        """Pass on what belongs to the response; close the connection if the response was already complete."""
        if self._in_head:
            self._read_head(data)
        elif self._complete:
            self._protocol.close()
        else:
            self._protocol.data_received(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Forward to aiohttp's protocol."""
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forward to aiohttp's protocol."""
        self._on_lost(self)
        self._protocol.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Forward to aiohttp's protocol."""
        self._protocol.eof_received()
        return None

    def pause_writing(self) -> None:
        """Forward to aiohttp's protocol."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Forward to aiohttp's protocol."""
        self._protocol.resume_writing()

    def _read_head(self, data: bytes) -> None:
        while data and self._in_head:
            known = len(self._head)
            self._head = self._head + data if known else data
            status = self._read_status()
            end = _END_OF_HEADERS.search(self._head, max(0, known - 2))
            if end is None:
                self._in_head = len(self._head) <= _MAX_HEAD_BYTES  # the parser has refused a larger one already
                self._protocol.data_received(data)
                return
            head, self._head = self._head[: end.end()], b""
            part, data = data[: end.end() - known], data[end.end() - known :]
            self._protocol.data_received(part)
            # An interim response (1xx, RFC 9110 §15.2) is followed by the head of the next one.
            self._in_head = status is not None and 100 <= status < 200 and status != 101
            if not self._in_head and (self._to_head_request or status in _STATUSES_WITHOUT_BODY):
                self._end_without_body(head, data)
                return
            if not self._in_head and _ANNOUNCES_NO_BODY.search(head):
                self.bodiless_since = asyncio.get_running_loop().time()
        if data:
            self._protocol.data_received(data)

    def _read_status(self) -> int | None:
        line = _STATUS_LINE.match(self._head, 0, _MAX_STATUS_LINE_BYTES)
        if line is None:
            return None
        status = int(line[1])
        if status >= 200:
            self.status = status
        return status

    def _end_without_body(self, head: bytes, rest: bytes) -> None:
        self._complete = True
        self.bodiless_since = asyncio.get_running_loop().time()
        if rest or _ANNOUNCES_BODY.search(head):
            self._protocol.force_close()


class OutboundConnector(aiohttp.TCPConnector):
    """A pool without an upper limit of connections, each of which delivers the response to its request and no more.

    - `keepalive`: seconds for which an idle connection is kept.
    - `quarantine`: see QUARANTINE_SECONDS. 0 for requests that can be repeated on a new connection.
    - `max_kept`: while more connections than this are open, connections are closed after their response, so that many
      endpoints cannot use up the files that this process may open. None: all are kept.
    """

    def __init__(
        self,
        *,
        keepalive: float,
        sockets: SocketFactory | None = None,
        resolver: "AbstractResolver",
        quarantine: float = QUARANTINE_SECONDS,
        max_kept: int | None = None,
    ) -> None:
        super().__init__(
            limit=0, ttl_dns_cache=10, resolver=resolver, socket_factory=sockets, keepalive_timeout=keepalive
        )
        self._quarantine = quarantine
        self._max_kept = max_kept
        self._open: set[ResponseReader] = set()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: "list[Trace]", timeout: aiohttp.ClientTimeout
    ) -> "Connection":
        """Return a new connection, or a kept one on which nothing has arrived since its last response."""
        quarantined: list[Connection] = []
        try:
            while True:
                connection = await super().connect(req, traces, timeout)
                reader = reader_of(connection)
                if reader is None or connection.protocol is None:
                    break
                if connection.protocol.should_close:
                    connection.close()
                elif self._is_quarantined(reader) and len(quarantined) < MAX_QUARANTINED:
                    quarantined.append(connection)
                else:
                    break
        finally:
            for waiting in quarantined:
                waiting.release()
        self._expect_response(connection, to_head_request=req.method == "HEAD")
        return connection

    def _expect_response(self, connection: "Connection", *, to_head_request: bool) -> None:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None:
            return  # lost meanwhile: sending the request reports it
        reader = reader_of(connection)
        if reader is None:
            reader = ResponseReader(protocol, self._open.discard)
            transport.set_protocol(reader)
            self._open.add(reader)
        reader.expect_response(to_head_request=to_head_request)
        if self._max_kept is not None and len(self._open) > self._max_kept:
            protocol.force_close()

    def _is_quarantined(self, reader: ResponseReader) -> bool:
        since = reader.bodiless_since
        return since is not None and asyncio.get_running_loop().time() - since < self._quarantine


def reader_of(connection: "Connection") -> ResponseReader | None:
    """The reader of the connection's responses; None if the connection is new or lost."""
    transport = connection.transport
    reader = transport.get_protocol() if transport is not None else None
    return reader if isinstance(reader, ResponseReader) else None
