"""Deliveries, put together from the bytes of the socket before the client library sees them.

The library takes 40 µs for a delivery: each of its three frames goes through a reader, a decoder and a queue, and the
whole through a task. Here the frames of channels that somebody takes deliveries of are read as they come; every other
byte goes on to the library, by the way that it offers (a transport factory).
"""

import asyncio
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from aio_pika import Connection
from aiormq import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from pamqp import decode
from pamqp.header import ContentHeader
from yarl import URL

LIMIT = 64 * 1024
"""Bytes that wait for the library before the socket is left alone for a while."""
ALIVE_EVERY = 1.0
"""Seconds after which the library hears that the broker lives where all that comes is deliveries."""

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_KINDS = frozenset({_METHOD, _HEADER, _BODY, _HEARTBEAT})
_FRAME = struct.Struct(">BHI")
_END = 0xCE
_ALIVE = struct.pack(">BHIB", _HEARTBEAT, 0, 0, _END)
_DELIVER = struct.pack(">HH", 60, 60)
_CLOSED = (struct.pack(">HH", 20, 40), struct.pack(">HH", 20, 41))
"""Close and close-ok of a channel."""
_CONTENT = struct.Struct(">HHQH")
_LENGTH = struct.Struct(">I")
_TAG = struct.Struct(">QB")
_TEXT = ord("S")
# The properties that our own messages have (`frames`), AMQP 0-9-1 §4.2.6.1.
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _MESSAGE_ID, _TYPE, _APP_ID = 1 << 15, 1 << 13, 1 << 12, 1 << 7, 1 << 5, 1 << 3
_OURS = _CONTENT_TYPE | _HEADERS | _DELIVERY_MODE | _MESSAGE_ID | _TYPE | _APP_ID


class Properties(NamedTuple):
    """What a message says of itself; empty where it says nothing, or nothing that can be read."""

    content_type: str = ""
    headers: Mapping[str, Any] = {}
    message_id: str = ""
    type: str = ""


class Arrival(NamedTuple):
    """A message that the broker delivered, and waits to hear of."""

    tag: int
    redelivered: bool
    key: str
    properties: Properties
    body: bytes


Take = Callable[[Arrival], None]


class _Channel:
    """The deliveries of one channel; at most one is under way on it."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._method = b""
        self._properties = Properties()
        self._missing = 0
        self._parts: list[bytes] = []

    def begin(self, method: bytes) -> None:
        self._method = method

    def describe(self, header: bytes) -> None:
        _, _, self._missing, flags = _CONTENT.unpack_from(header)
        self._properties = _properties(header, flags)
        self._parts = []
        if not self._missing:
            self._complete()

    def extend(self, body: bytes) -> None:
        self._parts.append(body)
        self._missing -= len(body)
        if self._missing <= 0:
            self._complete()

    @property
    def under_way(self) -> bool:
        return bool(self._method)

    def _complete(self) -> None:
        method, self._method = self._method, b""
        _, at = _short(method, 4)  # the consumer's tag
        tag, redelivered = _TAG.unpack_from(method, at)
        _, at = _short(method, at + _TAG.size)  # the exchange
        key, _ = _short(method, at)
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._take(Arrival(tag, bool(redelivered & 1), key, self._properties, body))


class Stream(asyncio.StreamReader):
    """What the library reads: all that comes, but for deliveries that somebody takes."""

    def __init__(self) -> None:
        super().__init__(LIMIT, asyncio.get_running_loop())
        self._now = asyncio.get_running_loop().time
        self._unread = b""
        self._framed = True
        self._channels: dict[int, _Channel] = {}
        self._alive_at = self._now()

    def take(self, channel: int, take: Take) -> None:
        """Every delivery on this channel goes to `take`, and none to the library, until the channel is closed."""
        self._channels[channel] = _Channel(take)

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # a transport gives bytes
        """Deliveries are taken, the rest can be read. Raises ValueError where the broker does not speak AMQP."""
        if self._framed:
            data = self._sifted(self._unread + data if self._unread else data)
        if data:
            self._alive_at = self._now()
        elif self._now() - self._alive_at > ALIVE_EVERY:
            data, self._alive_at = _ALIVE, self._now()
        if data:
            super().feed_data(data)

    def _sifted(self, data: bytes) -> bytes:
        """The whole frames in it that are the library's."""
        start = kept = 0
        left: list[bytes] = []
        size = len(data)
        while size - start >= _FRAME.size:
            kind, number, length = _FRAME.unpack_from(data, start)
            if kind not in _KINDS:
                # Another protocol: the library knows what to say of that.
                self._framed, start = False, size
                break
            end = start + _FRAME.size + length + 1
            if end > size:
                break
            channel = self._channels.get(number)
            if channel is not None:
                if _is_taken(channel, kind, data, start, end):
                    left.append(data[kept:start])
                    kept = end
                elif data.startswith(_CLOSED, start + _FRAME.size):
                    del self._channels[number]
            start = end
        left.append(data[kept:start])
        self._unread = data[start:]
        return b"".join(left)


def _is_taken(channel: _Channel, kind: int, data: bytes, start: int, end: int) -> bool:
    """Whether the frame belongs to a delivery, which then has it."""
    begin, last = start + _FRAME.size, end - 1
    if kind == _METHOD:
        if not data.startswith(_DELIVER, begin):
            return False
        take: Callable[[bytes], None] = channel.begin
    elif not channel.under_way:
        return False
    else:
        take = channel.describe if kind == _HEADER else channel.extend
    if data[last] != _END:
        raise ValueError("a frame does not end where it should")
    take(data[begin:last])
    return True


def _short(data: bytes, at: int) -> tuple[str, int]:
    """The short string there, and where it ends."""
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(errors="replace"), end


def _properties(header: bytes, flags: int) -> Properties:
    try:
        return _others_properties(header) if flags & ~_OURS else _our_properties(header, flags)
    except (ValueError, struct.error, IndexError, RecursionError):
        return Properties()


def _our_properties(header: bytes, flags: int) -> Properties:
    at = _CONTENT.size
    content_type = message_id = kind = ""
    headers: Mapping[str, Any] = {}
    if flags & _CONTENT_TYPE:
        content_type, at = _short(header, at)
    if flags & _HEADERS:
        (length,) = _LENGTH.unpack_from(header, at)
        end = at + _LENGTH.size + length
        headers, at = _table(header[at:end]), end
    if flags & _DELIVERY_MODE:
        at += 1
    if flags & _MESSAGE_ID:
        message_id, at = _short(header, at)
    if flags & _TYPE:
        kind, _ = _short(header, at)
    return Properties(content_type, headers, message_id, kind)


def _table(data: bytes) -> Mapping[str, Any]:
    """A table of strings by hand, and one with anything else by the library."""
    at, table = _LENGTH.size, {}
    while at < len(data):
        name, at = _short(data, at)
        if data[at] != _TEXT:
            return decode.field_table(data)[1]
        end = at + 5 + _LENGTH.unpack_from(data, at + 1)[0]
        table[name] = data[at + 5 : end].decode()
        at = end
    return table


def _others_properties(header: bytes) -> Properties:
    whole = ContentHeader()
    whole.unmarshal(header)
    found = whole.properties
    return Properties(found.content_type or "", found.headers or {}, found.message_id or "", found.message_type or "")


class _Streams(TransportFactory):
    """Makes the stream of one connection."""

    stream: Stream

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As the library's own, with our stream."""
        provider = options.pop("ssl_context_provider")
        context = await provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        self.stream = Stream()
        protocol = asyncio.StreamReaderProtocol(self.stream, loop=loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, url.host or "", url.port or 0, ssl=context, **options
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        return self.stream, asyncio.StreamWriter(transport, protocol, self.stream, loop)


class TakingConnection(Connection):
    """A connection whose deliveries can be taken before the library has work with them."""

    def __init__(self, url: URL) -> None:
        super().__init__(url)
        self._streams = self.kwargs["transport_factory"] = _Streams()

    def take(self, channel: int, take: Take) -> None:
        """Every delivery on this channel goes to `take`, until the channel is closed."""
        self._streams.stream.take(channel, take)
