"""A POST on a kept connection, and the head of its answer.

It stands on the connector of aiohttp (names, TLS, kept connections) and on its parser of answers. What its session does
between the two, for cookies, redirects, proxies and bodies of every kind, no webhook needs (ADR 14).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from yarl import URL

from services.notifier.destinations import Connecting, connecting, connector

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

LARGEST_RESPONSE = 16 * 1024
"""Bytes of a response that are read, and thrown away, to keep its connection; a longer one costs the connection."""
BODY_WITHIN = 1.0
"""Seconds that they may take."""
AT_ONCE = 1.0
"""Seconds within which a kept connection that is lost is taken for one that the endpoint had given up already."""
REMEMBERED = 1024
"""Endpoints whose part of the head is kept ready."""
_HEADERS = {"Content-Type": "application/json", "User-Agent": "tokenwire"}
_ADDED = frozenset({"Content-Length"})
_NO_LIMIT = aiohttp.ClientTimeout(total=None)


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """What is the same in every POST to one URL."""

    request: aiohttp.ClientRequest
    """What the connector wants to know."""
    head: str
    """The request line, and the headers that nobody gives."""


class Answer(NamedTuple):
    """The head of an answer. Its connection is taken until `let_go`."""

    status: int
    headers: Mapping[str, str]
    body: aiohttp.StreamReader
    connection: "Connection"

    async def let_go(self) -> None:
        """Read a short rest, so that the connection can be used again; close it where there is a long or slow one."""
        if self.body.at_eof():
            self.connection.release()
            return
        try:
            async with asyncio.timeout(BODY_WITHIN):
                size = 0
                while chunk := await self.body.readany():
                    size += len(chunk)
                    if size > LARGEST_RESPONSE:
                        break
                else:
                    self.connection.release()
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass  # the status is what counts
        finally:
            self.connection.close()


class Poster:
    """Sends to any number of endpoints; the first POST opens it."""

    def __init__(self, within: float, *, allow_private: bool) -> None:
        self._within = within
        self._allow_private = allow_private
        self._connector: aiohttp.TCPConnector | None = None
        self._endpoints: dict[str, _Endpoint] = {}

    async def close(self) -> None:
        """Every connection closed. Idempotent."""
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
        clock = asyncio.get_running_loop().time
        async with asyncio.timeout(self._within):
            began, connection = clock(), Connecting()
            connecting.set(connection)
            try:
                return await self._once(endpoint, request)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # It closed the idle connection while this was on its way: not a failure of the endpoint.
                if connection.anew or clock() - began > AT_ONCE:
                    raise
            return await self._once(endpoint, request)

    async def _once(self, endpoint: _Endpoint, request: bytes) -> Answer:
        connection, protocol = await self._connected(endpoint)
        try:
            protocol.set_response_params(read_until_eof=True, auto_decompress=False)
            protocol.transport.write(request)  # type: ignore[union-attr]  # it is connected
            message, payload = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, payload = await protocol.read()
        except BaseException:
            connection.close()
            raise
        return Answer(message.code, message.headers, payload, connection)

    async def _connected(self, endpoint: _Endpoint) -> "tuple[Connection, ResponseHandler]":
        """A connection on which nothing has come that nobody asked for: it would be taken for the answer."""
        if self._connector is None:
            self._connector = connector(allow_private=self._allow_private)
        while True:
            connection = await self._connector.connect(endpoint.request, [], _NO_LIMIT)
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                return connection, protocol
            connection.close()

    def _endpoint(self, url: str) -> _Endpoint:
        endpoint = self._endpoints.get(url)
        if endpoint is None:
            if len(self._endpoints) >= REMEMBERED:
                self._endpoints.clear()
            endpoint = self._endpoints[url] = _prepared(url)
        return endpoint


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
    headers = {name: value for name, value in request.headers.items() if name not in _ADDED}
    return _Endpoint(request, f"POST {request.url.raw_path_qs} HTTP/1.1\r\n{_lines(headers)}")


def _request(head: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Raises ValueError where a value would be more than a header."""
    own = _lines(headers)
    if own.count("\n") != len(headers) or own.count("\r") != len(headers) or "\0" in own:
        raise ValueError("a control character in a header")
    return f"{head}{own}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _lines(headers: Mapping[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
