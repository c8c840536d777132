"""Finds where a WebSocket frame ends in a stream of bytes that is passed on unchanged (RFC 6455 §5.2).

This replaces aiohttp's WebSocket API, which assembles messages: each message would have to fit into memory, compression
would have to be negotiated with each end, and ping, pong and close codes would be the gateway's (ADR 10, ADR 35). The
gateway has to know frame boundaries for one purpose: when it stops, it sends Close to both ends, and a Close in the
middle of another frame would break the stream.
"""

import os

GOING_AWAY = 1001
"""RFC 6455 §7.4.1: "an endpoint is 'going away', such as a server going down"."""
_CLOSE = 0x8
_FINAL, _MASKED = 0x80, 0x80
_LENGTHS = {126: 2, 127: 8}
"""Bytes of the extended payload length, by the value of the 7-bit length."""


class FrameTracker:
    """Follows a stream of frames; it stores nothing but the unfinished header of a frame."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0
        """Bytes of the current frame's payload that have not passed yet."""
        self.closing = False
        """A Close frame has begun: no other frame may follow it (RFC 6455 §5.5.1)."""

    @property
    def at_boundary(self) -> bool:
        """Whether every frame that has begun is complete."""
        return not self._header and not self._left

    def follow(self, data: bytes, *, to_boundary: bool = False) -> int:
        """Follow all of the data, or with `to_boundary` only to the end of the current frame; the bytes followed."""
        position = 0
        while position < len(data):
            position = self._payload(data, position) if self._left else self._read_header(data, position)
            if to_boundary and self.at_boundary:
                break
        return position

    def _payload(self, data: bytes, position: int) -> int:
        step = min(self._left, len(data) - position)
        self._left -= step
        return position + step

    def _read_header(self, data: bytes, position: int) -> int:
        missing = self._header_size() - len(self._header)
        self._header += data[position : position + missing]
        if len(self._header) == self._header_size():
            self._begin_payload()
        return min(position + missing, len(data))

    def _header_size(self) -> int:
        """Bytes of the header, as far as the bytes read so far tell it."""
        if len(self._header) < 2:
            return 2
        return 2 + _LENGTHS.get(self._header[1] & 0x7F, 0) + (4 if self._header[1] & _MASKED else 0)

    def _begin_payload(self) -> None:
        short = self._header[1] & 0x7F
        extended = _LENGTHS.get(short, 0)
        self._left = int.from_bytes(self._header[2 : 2 + extended], "big") if extended else short
        self.closing = self.closing or self._header[0] & 0x0F == _CLOSE
        self._header = b""


def close_frame(*, masked: bool) -> bytes:
    """A Close frame with the code GOING_AWAY; frames to a server must be masked (RFC 6455 §5.3)."""
    code = GOING_AWAY.to_bytes(2, "big")
    if not masked:
        return bytes((_FINAL | _CLOSE, len(code))) + code
    key = os.urandom(4)
    payload = bytes(byte ^ key[index] for index, byte in enumerate(code))
    return bytes((_FINAL | _CLOSE, _MASKED | len(code))) + key + payload
