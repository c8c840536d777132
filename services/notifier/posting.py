"""A POST on a kept connection, and the head of its answer.

It stands on the connector of aiohttp (names, TLS, kept connections) and on its parser of answers. What its session does
between the two, for cookies, redirects, proxies and bodies of every kind, no webhook needs (ADR 14).
"""

import asyncio
import math
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from yarl import URL

from services.notifier.alarms import Alarms
from services.notifier.destinations import connector

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

IDLE_SECONDS = 30.0
"""How long an unused connection is kept."""
LARGEST_RESPONSE = 16 * 1024
"""Bytes of a response that are read, and thrown away, to keep its connection; a longer one costs the connection."""
BODY_WITHIN = 1.0
"""Seconds that they may take."""
AT_ONCE = 1.0
"""Seconds within which a kept connection that is lost is taken for one that the endpoint had given up already."""
REMEMBERED = 1024
"""Endpoints whose connections and part of the head are kept."""
_HEADERS = {"Content-Type": "application/json", "User-Agent": "tokenwire"}
_NO_LIMIT = aiohttp.ClientTimeout(total=None)


class _Endpoint:
    """What is the same in every POST to one URL, and the connections that wait for the next one."""

    def __init__(self, request: aiohttp.ClientRequest, head: str) -> None:
        self.request = request
        """What the connector wants to know."""
        self.head = head
        """The request line, and the headers that nobody gives."""
        self._kept: deque[tuple[Connection, float]] = deque()
        """And since when; the one that was used last at the end."""
        self._forgotten = False

    def connection(self) -> "Connection | None":
        """One that nothing has come on that nobody asked for: it would be taken for the answer."""
        while self._kept:
            connection, _ = self._kept.pop()
            if _is_usable(connection):
                return connection
            connection.close()
        return None

    def keep(self, connection: "Connection") -> None:
        """For the next POST, if it can be used."""
        if self._forgotten or not _is_usable(connection):
            connection.close()
        else:
            self._kept.append((connection, asyncio.get_running_loop().time()))

    def close_unused(self, since: float) -> None:
        """Close the connections that nobody has used since."""
        while self._kept and self._kept[0][1] <= since:
            self._kept.popleft()[0].close()

    def forget(self) -> None:
        """No connection is kept any more."""
        self._forgotten = True
        self.close_unused(math.inf)


def _is_usable(connection: "Connection") -> bool:
    protocol = connection.protocol
    return protocol is not None and protocol.is_connected() and not protocol.should_close


class Answer(NamedTuple):
    """The head of an answer. Its connection is taken until `let_go`."""

    status: int
    headers: Mapping[str, str]
    body: aiohttp.StreamReader
    connection: "Connection"
    endpoint: _Endpoint

    async def let_go(self) -> None:
        """Read a short rest, so that the connection can be used again; close it where there is a long or slow one."""
        if self.body.at_eof() or await self._rest_is_short():
            self.endpoint.keep(self.connection)
        else:
            self.connection.close()

    async def _rest_is_short(self) -> bool:
        size = 0
        try:
            async with asyncio.timeout(BODY_WITHIN):
                while size <= LARGEST_RESPONSE and (chunk := await self.body.readany()):
                    size += len(chunk)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False  # the status is what counts
        except BaseException:
            self.connection.close()
            raise
        return size <= LARGEST_RESPONSE


class _Attempt:
    """One POST, which may take so long."""

    __slots__ = ("began", "late", "protocol")

    def __init__(self, began: float) -> None:
        self.began = began
        self.late = False
        self.protocol: ResponseHandler | None = None
        """Who waits for the answer."""

    def end(self) -> None:
        self.late = True
        if self.protocol is not None:
            self.protocol.set_exception(TimeoutError())


class Poster:
    """Sends to any number of endpoints; the first POST opens it."""

    def __init__(self, within: float, *, allow_private: bool) -> None:
        self._within = within
        self._alarms = Alarms(within)
        self._idle = Alarms(IDLE_SECONDS)
        self._allow_private = allow_private
        self._connector: aiohttp.TCPConnector | None = None
        self._endpoints: dict[str, _Endpoint] = {}

    async def close(self) -> None:
        """Every connection closed. Idempotent."""
        self._alarms.close()
        self._idle.close()
        for endpoint in self._endpoints.values():
            endpoint.forget()
        self._endpoints.clear()
        if self._connector is not None:
            await self._connector.close()
            self._connector = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The final answer's head; nothing is followed.

        Raises TimeoutError, ValueError for what cannot be sent, aiohttp.ClientError for what an endpoint does,
        aiohttp.http.HttpProcessingError for what is no HTTP, and RuntimeError (uvloop's word for some faults of
        addresses).
        """
        endpoint = self._endpoint(url)
        request = _request(endpoint.head, headers, body)
        attempt = _Attempt(asyncio.get_running_loop().time())
        alarm = self._alarms.set(attempt.end)
        try:
            return await self._answered(endpoint, request, attempt)
        finally:
            self._alarms.off(alarm)

    async def _answered(self, endpoint: _Endpoint, request: bytes, attempt: _Attempt) -> Answer:
        if (connection := endpoint.connection()) is not None:
            try:
                return await _asked(endpoint, connection, request, attempt)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # It closed the idle connection while this was on its way: not a failure of the endpoint.
                if attempt.late or asyncio.get_running_loop().time() - attempt.began > AT_ONCE:
                    raise
        async with asyncio.timeout_at(attempt.began + self._within):
            connection = await self._opened().connect(endpoint.request, [], _NO_LIMIT)
        if (protocol := connection.protocol) is not None:
            protocol.set_response_params(read_until_eof=True, auto_decompress=False)
        return await _asked(endpoint, connection, request, attempt)

    def _opened(self) -> aiohttp.TCPConnector:
        if self._connector is None:
            self._connector = connector(allow_private=self._allow_private)
            self._idle.set(self._close_idle)
        return self._connector

    def _close_idle(self) -> None:
        unused_since = asyncio.get_running_loop().time() - IDLE_SECONDS
        for endpoint in self._endpoints.values():
            endpoint.close_unused(unused_since)
        self._idle.set(self._close_idle)

    def _endpoint(self, url: str) -> _Endpoint:
        endpoint = self._endpoints.pop(url, None) or _prepared(url)
        self._endpoints[url] = endpoint  # the one that was used last at the end
        if len(self._endpoints) > REMEMBERED:
            first = next(iter(self._endpoints))
            self._endpoints.pop(first).forget()
        return endpoint


async def _asked(endpoint: _Endpoint, connection: "Connection", request: bytes, attempt: _Attempt) -> Answer:
    protocol = connection.protocol
    try:
        if attempt.late:
            raise TimeoutError
        if protocol is None or protocol.transport is None:
            raise aiohttp.ServerDisconnectedError
        attempt.protocol = protocol
        protocol.transport.write(request)
        message, payload = await protocol.read()
        while 100 <= message.code < 200 and message.code != 101:
            message, payload = await protocol.read()
    except BaseException:
        connection.close()
        raise
    finally:
        attempt.protocol = None
    return Answer(message.code, message.headers, payload, connection, endpoint)


def _prepared(url: str) -> _Endpoint:
    """Raises ValueError for a URL that cannot be used, as aiohttp.InvalidURL for one without a host."""
    address = URL(url)
    if address.scheme not in {"http", "https"}:
        raise aiohttp.InvalidURL(url)
    request = aiohttp.ClientRequest(
        "POST",
        address,
        headers=_HEADERS,
        skip_auto_headers=("Accept-Encoding",),
        loop=asyncio.get_running_loop(),
    )
    headers = {name: value for name, value in request.headers.items() if name != "Content-Length"}
    return _Endpoint(request, f"POST {request.url.raw_path_qs} HTTP/1.1\r\n{_lines(headers)}")


def _request(head: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Raises ValueError where a value would be more than a header."""
    own = _lines(headers)
    if own.count("\n") != len(headers) or own.count("\r") != len(headers) or "\0" in own:
        raise ValueError("a control character in a header")
    return f"{head}{own}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _lines(headers: Mapping[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
