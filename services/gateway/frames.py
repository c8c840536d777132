"""Where one WebSocket frame ends and the next begins, in a stream that passes by (RFC 6455 §5.2)."""

import os

GOING_AWAY = 1001
"""RFC 6455 §7.4.1: "an endpoint is 'going away', such as a server going down"."""
_CLOSE = 0x8
_FINAL, _MASKED = 0x80, 0x80
_LENGTHS = {126: 2, 127: 8}
"""Bytes of the extended length."""


class Frames:
    """Follows a stream of frames; keeps nothing of it but the unfinished head of a frame."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self.closing = False
        """A Close frame has gone by: none may follow it."""

    @property
    def between(self) -> bool:
        """Every frame that has begun is whole."""
        return not self._head and not self._left

    def follow(self, data: bytes, *, to_boundary: bool = False) -> int:
        """How far the data was followed: to its end, or no further than to the end of the frame under way."""
        position = 0
        while position < len(data):
            position = self._payload(data, position) if self._left else self._heading(data, position)
            if to_boundary and self.between:
                break
        return position

    def _payload(self, data: bytes, position: int) -> int:
        step = min(self._left, len(data) - position)
        self._left -= step
        return position + step

    def _heading(self, data: bytes, position: int) -> int:
        wanted = self._head_size() - len(self._head)
        self._head += data[position : position + wanted]
        if len(self._head) == self._head_size():
            self._begin()
        return min(position + wanted, len(data))

    def _head_size(self) -> int:
        if len(self._head) < 2:
            return 2
        return 2 + _LENGTHS.get(self._head[1] & 0x7F, 0) + (4 if self._head[1] & _MASKED else 0)

    def _begin(self) -> None:
        short = self._head[1] & 0x7F
        extended = _LENGTHS.get(short, 0)
        self._left = int.from_bytes(self._head[2 : 2 + extended], "big") if extended else short
        self.closing = self.closing or self._head[0] & 0x0F == _CLOSE
        self._head = b""


def close_frame(*, masked: bool) -> bytes:
    """Close with GOING_AWAY; a client's frames are masked (RFC 6455 §5.3)."""
    code = GOING_AWAY.to_bytes(2, "big")
    if not masked:
        return bytes((_FINAL | _CLOSE, len(code))) + code
    key = os.urandom(4)
    hidden = bytes(byte ^ key[index] for index, byte in enumerate(code))
    return bytes((_FINAL | _CLOSE, _MASKED | len(code))) + key + hidden
