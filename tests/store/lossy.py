"""A way to MongoDB on which a question or an answer can get lost: what makes the outcome of a write unknown."""

import asyncio
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import bson

_HEADER = struct.Struct("<iiii")
_OP_MSG = 2013


class Lossy:
    """Passes everything on, but for what it is told to lose; losing something costs the connection, as in life.

    It has a thread of its own: the driver closes its connections without letting our event loop go on.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "127.0.0.1", parts.port or 27017)
        self._port = 0
        self._losing: tuple[str, str] | None = None
        self._passing = 0
        self._victim: object = None
        self._questions: set[int] = set()
        """Ids of the requests whose answers are to be lost."""
        self._connections: set[asyncio.Task[None]] = set()
        self.lost = threading.Event()
        """Set once something was lost."""

    @property
    def url(self) -> str:
        """Straight to the one server, not to the address that its replica set knows."""
        return f"mongodb://127.0.0.1:{self._port}/?directConnection=true"

    def lose(self, command: str, what: str, *, after: int = 0) -> None:
        """Lose the `question` or the `answer` of the next write of this name, also where the driver repeats it.

        `after` so many have passed. What is sent anew by whoever asked the driver is another write, and passes.
        """
        self._losing, self._passing, self._victim = (command, what), after, None
        self.lost.clear()

    @contextmanager
    def running(self) -> "Iterator[Lossy]":
        """In between, until the end."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), loop).result(10)
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection(*self._to)
            ways = [
                asyncio.create_task(self._ask(reader, there)),
                asyncio.create_task(self._answer(back, writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for end in (writer, there):
                if end is not None:
                    end.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                message = await _message(reader)
                fate = self._fate(message)
                if fate == "question":
                    return
                if fate == "answer":
                    self._questions.add(_HEADER.unpack_from(message)[1])
                writer.write(message)
                await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                message = await _message(reader)
                answers = _HEADER.unpack_from(message)[2]
                if answers in self._questions:
                    self._questions.discard(answers)
                    self.lost.set()
                    return
                writer.write(message)
                await writer.drain()

    def _fate(self, message: bytes) -> str | None:
        if self._losing is None:
            return None
        body = _body(message)
        command, what = self._losing
        if command not in body:
            return None
        if self._passing:
            self._passing -= 1
            return None
        # The driver repeats a retryable write under the same number, and no other.
        identity = (bytes(body["lsid"]["id"]), body["txnNumber"]) if "txnNumber" in body else object()
        if self._victim is None:
            self._victim = identity
        if identity != self._victim:
            self._losing = None
            return None
        if what == "question":
            self.lost.set()
        return what


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(_HEADER.size)
    return head + await reader.readexactly(_HEADER.unpack(head)[0] - _HEADER.size)


def _body(message: bytes) -> dict[str, Any]:
    """The command in an OP_MSG; nothing for any other message, and for one that leads with documents."""
    if _HEADER.unpack_from(message)[3] != _OP_MSG or message[20] != 0:
        return {}
    length = int.from_bytes(message[21:25], "little")
    decoded: dict[str, Any] = bson.decode(message[21 : 21 + length])
    return decoded
