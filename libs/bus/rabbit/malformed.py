"""Decode a malformed message as far as possible, where pamqp would raise and the connection would be lost.

RabbitMQ does not check the texts in a message's properties, so a publisher may write bytes that are no UTF-8, or a time
that no calendar has. pamqp raises on them while it reads the socket: the connection closes, the broker delivers the
message again, and so on until the delivery limit. Every consumer on the connection would suffer from one bad message.

`tolerate_malformed_messages` replaces three entries of pamqp's public table of decoders by ones that never raise. The
handler then sees the message with replacement characters, or without the header table, and drops it with a reason.
"""

from collections.abc import Callable
from typing import Any

from pamqp import decode

_Decoder = Callable[[bytes], tuple[int, Any]]

_SECONDS = 8
"""Bytes of a timestamp."""


def tolerate_malformed_messages() -> None:
    """Make decoding lenient for the whole process. Idempotent."""
    decode.METHODS["shortstr"] = _text
    decode.METHODS["table"] = _table
    decode.METHODS["timestamp"] = _timestamp


def _text(value: bytes) -> tuple[int, str]:
    """A text of at most 255 bytes; what is no UTF-8 becomes U+FFFD."""
    end = 1 + value[0]
    return end, value[1:end].decode(errors="replace")


def _table(value: bytes) -> tuple[int, Any]:
    """A table of headers; empty if any part of it cannot be decoded."""
    try:
        return decode.field_table(value)
    except (ValueError, OverflowError, OSError, RecursionError):
        return 4 + int.from_bytes(value[:4], "big"), {}


def _timestamp(value: bytes) -> tuple[int, Any]:
    """A time; None if it is out of range."""
    try:
        return decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        return _SECONDS, None
