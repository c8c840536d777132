"""A minimal HTTP client and server for the other side of a measurement; minimal, to leave the processor to the
measured.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from bench.report import MeasurementFailed
from libs.outbound.signing import signature

KEYS = {"auth_code", "new_oauth_token", "refresh_token", "old_refresh_token", "notification_type"}
SHARED_SECRET = "a shared secret of the benchmark"
_TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


def message(buffer: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Head, body and remaining bytes; None while the message is incomplete."""
    head, separator, rest = buffer.partition(b"\r\n\r\n")
    if not separator:
        return None
    length = int(header(head, "content-length") or 0)
    return None if len(rest) < length else (head, rest[:length], rest[length:])


def header(head: bytes, name: str) -> str:
    """The value of this header; empty if it is missing."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name.encode():
            return value.strip().decode()
    return ""


class HttpConnection(asyncio.Protocol):
    """A keep-alive connection with at most one request in flight."""

    def __init__(self) -> None:
        self._buffer = b""
        self._response: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send the request; return status and body. Raises MeasurementFailed if the server closes the connection."""
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._response

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._response is not None and (whole := message(self._buffer)) is not None:
            head, body, self._buffer = whole
            self._response.set_result((int(head[9:12]), body))
            self._response = None

    def connection_lost(self, _: Exception | None) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(MeasurementFailed("the server closed the connection"))

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


@dataclass
class Receiver:
    """A webhook receiver that responds after `delay` seconds."""

    take: Callable[[bytes, bytes], None]
    """Called with the head and the body of each request."""
    delay: float = 0.0

    async def listen(self) -> asyncio.Server:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Incoming(self), "127.0.0.1", 0, backlog=2048)


def read_webhook(head: bytes, raw: bytes) -> tuple[str, dict[str, str]]:
    """The id and the body of a webhook. Raises MeasurementFailed if its signature, secret or keys are wrong."""
    identifier, stamp = header(head, "webhook-id"), header(head, "webhook-timestamp")
    if header(head, "x-tyk-shared-secret") != SHARED_SECRET:
        raise MeasurementFailed(f"{identifier}: wrong shared secret")
    signatures = header(head, "webhook-signature").split(" ")
    if not stamp.isdecimal() or signature(SHARED_SECRET, identifier, int(stamp), raw) not in signatures:
        raise MeasurementFailed(f"{identifier}: not signed with the shared secret")
    try:
        body: dict[str, str] = json.loads(raw)
    except ValueError:
        raise MeasurementFailed(f"{identifier}: not JSON") from None
    if set(body) != KEYS:
        raise MeasurementFailed(f"{identifier}: wrong keys: {sorted(body)}")
    return identifier, body


class _Incoming(asyncio.Protocol):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (whole := message(self._buffer)) is not None:
            head, body, self._buffer = whole
            self._receiver.take(head, body)
            if self._receiver.delay:
                asyncio.get_running_loop().call_later(self._receiver.delay, self._transport.write, _TAKEN)
            else:
                self._transport.write(_TAKEN)
