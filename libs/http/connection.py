"""A client's connection: cut where a request does not get on, and told in JSON what was wrong with it."""

import asyncio
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from libs.http.errors import NO_STORE, json_bytes
from libs.http.headers import CONSTANT_HEADERS

HEAD_WITHIN = 10.0
"""Seconds from the first byte of a request, or from connecting, until its headers are complete."""
KEEPALIVE = 75.0
"""Seconds for which an idle connection stays open."""
UNREAD_WITHIN = 2.0
"""Seconds in which the rest of a body that nobody reads may come: who is cut off while sending may lose the answer."""
LONGEST_LINE = 16 * 1024
"""Bytes of the request line, and of one header: what the edge takes."""
MOST_HEADERS = 128
"""Headers of a request."""
OPTIONS: dict[str, Any] = {
    "access_log": None,
    "keepalive_timeout": KEEPALIVE,
    "lingering_time": UNREAD_WITHIN,
    "auto_decompress": False,
    "max_line_size": LONGEST_LINE,
    "max_field_size": LONGEST_LINE,
    "max_headers": MOST_HEADERS,
}
"""How aiohttp keeps a connection; bodies arrive as they were sent, packed or not."""

log = structlog.get_logger("http")


class Connection(web.RequestHandler):
    """aiohttp's, but for a head that never ends and for what is not HTTP."""

    __slots__ = ("_app", "_head")

    def __init__(self, server: web.Server, app: web.Application, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop=loop, **OPTIONS)
        self._app = app
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begun; the first head is awaited."""
        super().connection_made(transport)
        self._head = self._loop.call_later(HEAD_WITHIN, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ended; nothing is awaited."""
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A head that has begun has a time in which to end."""
        heads = self._request_count
        super().data_received(data)
        if self._request_count != heads:
            self._head_is_here()
        elif self._head is None and self._waiter is not None:
            self._head = self._loop.call_later(HEAD_WITHIN, self.force_close)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what never got to a handler; nothing of it is repeated or logged."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun")
        if isinstance(exc, HttpProcessingError):
            log.info("malformed_request", error=type(exc).__name__)
        else:
            log.error("unforeseen_error", error=type(exc).__name__, exc_info=exc)
        if isinstance(exc, LineTooLong):
            status, message = 431, "the request line or a header is too large"
        elif status < 500:
            message = "the request is malformed"
        else:
            message = "something went wrong here"
        code = "server_error" if status >= 500 else "invalid_request"
        body = orjson.dumps({"error": code, "error_description": message})
        constant = self._app[CONSTANT_HEADERS]
        response = json_bytes(body, status, {**NO_STORE, **constant})
        response.force_close()
        return response

    def _head_is_here(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
