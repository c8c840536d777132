"""As little HTTP as the other side of what is measured needs, so that it takes little from it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from bench.report import Wrong
from services.notifier.signing import signature

KEYS = {"auth_code", "new_oauth_token", "refresh_token", "old_refresh_token", "notification_type"}
SHARED_SECRET = "a shared secret of the benchmark"
_TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


def message(buffer: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Head, body and rest of what has come; None while it is not whole."""
    head, separator, rest = buffer.partition(b"\r\n\r\n")
    if not separator:
        return None
    length = int(header(head, "content-length") or 0)
    return None if len(rest) < length else (head, rest[:length], rest[length:])


def header(head: bytes, name: str) -> str:
    """The value of a header; empty where there is none."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name.encode():
            return value.strip().decode()
    return ""


class Line(asyncio.Protocol):
    """A kept-alive connection with one request on it at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises Wrong where the connection is closed instead."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._answer is not None and (whole := message(self._buffer)) is not None:
            head, body, self._buffer = whole
            self._answer.set_result((int(head[9:12]), body))
            self._answer = None

    def connection_lost(self, _: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Wrong("the server closed the connection"))

    def close(self) -> None:
        """No more requests."""
        self._transport.close()


@dataclass
class Receiver:
    """A resource owner service that answers after `delay` seconds."""

    take: Callable[[bytes, bytes], None]
    """Given the head and the body of each."""
    delay: float = 0.0

    async def listen(self) -> asyncio.Server:
        """On a free port."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Incoming(self), "127.0.0.1", 0, backlog=2048)


def proven(head: bytes, raw: bytes) -> tuple[str, dict[str, str]]:
    """The id of a webhook and its body. Raises Wrong for one that is not as documented, or not signed."""
    identifier, stamp = header(head, "webhook-id"), header(head, "webhook-timestamp")
    if header(head, "x-tyk-shared-secret") != SHARED_SECRET:
        raise Wrong(f"{identifier}: another shared secret")
    if not stamp.isdecimal() or header(head, "webhook-signature") != signature(
        SHARED_SECRET, identifier, int(stamp), raw
    ):
        raise Wrong(f"{identifier}: not signed with the shared secret")
    try:
        body: dict[str, str] = json.loads(raw)
    except ValueError:
        raise Wrong(f"{identifier}: not JSON") from None
    if set(body) != KEYS:
        raise Wrong(f"{identifier}: other keys than the five: {sorted(body)}")
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
