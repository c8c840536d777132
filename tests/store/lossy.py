"""A proxy to MongoDB that can lose a request or a reply, so that the outcome of a write is unknown."""

import asyncio
import struct
import threading
from contextlib import suppress
from typing import Any

import bson

from tests.store.proxy import Proxy

HEADER = struct.Struct("<iiii")
_OP_MSG = 2013


class Lossy(Proxy):
    """Forwards everything except what it is told to lose, which also closes the connection, as in real life."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._losing: tuple[str, str] | None = None
        self._passing = 0
        self._victim: object = None
        self._questions: set[int] = set()
        """Ids of the requests whose replies will be lost."""
        self.lost = threading.Event()
        """Set once something was lost."""

    @property
    def url(self) -> str:
        """A URL with directConnection: the driver must not bypass the proxy for the replica set's address."""
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    def lose(self, command: str, what: str, *, after: int = 0) -> None:
        """Lose the `question` or the `answer` of the next write with this name, including the driver's own retry.

        The first `after` writes pass. A retry by the driver's caller is another write, and passes.
        """
        self._losing, self._passing, self._victim = (command, what), after, None
        self.lost.clear()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                message = await message_of(reader)
                fate = self._fate(message)
                if fate == "question":
                    return
                if fate == "answer":
                    self._questions.add(HEADER.unpack_from(message)[1])
                writer.write(message)
                await writer.drain()

    async def _response(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                message = await message_of(reader)
                responses = HEADER.unpack_from(message)[2]
                if responses in self._questions:
                    self._questions.discard(responses)
                    self.lost.set()
                    return
                writer.write(message)
                await writer.drain()

    def _fate(self, message: bytes) -> str | None:
        if self._losing is None:
            return None
        body = body_of(message)
        command, what = self._losing
        if command not in body:
            return None
        if self._passing:
            self._passing -= 1
            return None
        # Only the driver's own retry has the same transaction number.
        identity = (bytes(body["lsid"]["id"]), body["txnNumber"]) if "txnNumber" in body else object()
        if self._victim is None:
            self._victim = identity
        if identity != self._victim:
            self._losing = None
            return None
        if what == "question":
            self.lost.set()
        return what


async def message_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(HEADER.size)
    return head + await reader.readexactly(HEADER.unpack(head)[0] - HEADER.size)


def body_of(message: bytes) -> dict[str, Any]:
    """The command of an OP_MSG; None for other messages, and those that start with documents."""
    if HEADER.unpack_from(message)[3] != _OP_MSG or message[20] != 0:
        return {}
    length = int.from_bytes(message[21:25], "little")
    decoded: dict[str, Any] = bson.decode(message[21 : 21 + length])
    return decoded
