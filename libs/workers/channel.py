"""The messages between the parent and a worker: frames of JSON on a socket pair, which no other process can reach."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import orjson

LARGEST = 64 * 1024 * 1024
"""Bytes of one frame."""
MOST_UNREAD = 16 * 1024 * 1024
"""Bytes that may wait for a process that does not read."""

Frame = Mapping[str, Any]


class Overflow(Exception):
    """The process at the other end has not read for so long that MOST_UNREAD bytes wait for it."""


class Channel:
    """One end of a connection between the parent and a worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """The channel over this end of a socket pair, which it closes at the end."""
        end.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, **frame: object) -> None:
        """Send a frame without waiting. Nothing is sent to a process that is gone. Raises Overflow."""
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > MOST_UNREAD:
            raise Overflow
        text = orjson.dumps(frame)
        self._writer.write(len(text).to_bytes(4, "big") + text)

    async def sent(self) -> None:
        """Return once the other process has most of what was sent, or is gone."""
        with suppress(ConnectionError):
            await self._writer.drain()

    async def frames(self) -> AsyncIterator[Frame]:
        """The frames that arrive, until the other process is gone or sends something else."""
        while True:
            try:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                if size > LARGEST:
                    return
                yield orjson.loads(await self._reader.readexactly(size))
            except (asyncio.IncompleteReadError, ConnectionError, orjson.JSONDecodeError):
                return

    def close(self) -> None:
        """Close this end. What was sent before still arrives."""
        self._writer.close()
