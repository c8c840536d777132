"""A publish as the bytes of AMQP 0-9-1: method, content header and body frames in one go.

The client library's own encoder takes 27 µs for a message with nine headers, this one six; at two messages a token that
is a visible part of a token request. It writes only what a `Message` has: short strings, and headers that are strings.
"""

import functools
import struct
from collections.abc import Mapping

from libs.bus.port import LONGEST_KEY, Message

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_FRAME_OVERHEAD = 8
_BASIC, _PUBLISH = 60, 40
_MANDATORY = 1
_PERSISTENT = b"\x02"
# Which properties follow, AMQP 0-9-1 §4.2.6.1: content-type, headers, delivery-mode, message-id, type, app-id.
_PROPERTIES = struct.pack(">H", 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 5 | 1 << 3)

_FRAME = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQ")
_LENGTH = struct.Struct(">I")
_TEXT = struct.Struct(">cI")
_PUBLISH_METHOD = struct.pack(">HHH", _BASIC, _PUBLISH, 0)


def publish(message: Message, *, channel: int, mandatory: bool, frame_max: int) -> bytes:
    """The frames that publish `message`, persistent. Raises ValueError when a name is longer than AMQP can say."""
    method = _PUBLISH_METHOD + _word(message.exchange) + _short(message.key)
    header = _CONTENT.pack(_BASIC, 0, len(message.body)) + _PROPERTIES + _properties(message)
    if len(header) > frame_max - _FRAME_OVERHEAD:
        raise ValueError(f"headers of message {message.id} exceed a frame")
    bits = bytes((_MANDATORY if mandatory else 0,))
    frames = [_frame(_METHOD, channel, method + bits), _frame(_HEADER, channel, header)]
    frames += [_frame(_BODY, channel, part) for part in _parts(message.body, frame_max - _FRAME_OVERHEAD)]
    return b"".join(frames)


def _properties(message: Message) -> bytes:
    return b"".join(
        (
            _word(message.content_type),
            _table(message.headers),
            _PERSISTENT,
            _short(message.id),
            _word(message.type),
            _word(message.headers.get("cloudEvents_source", "")),
        )
    )


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"%b%b%b" % (_FRAME.pack(kind, channel, len(payload)), payload, _END)


def _parts(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def _short(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > LONGEST_KEY:
        raise ValueError(f"longer than {LONGEST_KEY} bytes: {text[:40]!r}…")
    return bytes((len(encoded),)) + encoded


_word = functools.lru_cache(maxsize=512)(_short)
"""The same for what comes again and again: exchanges, types, header names."""


def _table(headers: Mapping[str, str]) -> bytes:
    table = b"".join([_ENTRIES.get(name, _entry)(name, value) for name, value in headers.items()])
    return _LENGTH.pack(len(table)) + table


def _entry(name: str, value: str) -> bytes:
    encoded = value.encode()
    return _word(name) + _TEXT.pack(b"S", len(encoded)) + encoded


_ENTRIES = dict.fromkeys(
    (f"cloudEvents_{name}" for name in ("specversion", "type", "source", "datacontenttype")),
    functools.lru_cache(maxsize=512)(_entry),
)
"""How the headers are written of which there are few values."""
