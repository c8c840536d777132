"""A TCP proxy that a test can cut or stall, to make a running server unreachable."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


class Wire:
    """Forwards connections to a local server; `cut` breaks them, `mend` restores the path."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0
        """Connect here; the port does not change."""

    async def stall(self) -> None:
        """Keep every connection open, but forward nothing."""
        self._flowing.clear()

    async def mend(self) -> None:
        """Accept connections again, and forward what they received meanwhile."""
        self._flowing.set()
        if self._listener is not None:
            return
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Break every connection and refuse new ones."""
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        for writer in self._writers:
            writer.transport.abort()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        self._writers |= ends
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
            ends.add(back)
            self._writers.add(back)
            await _until_either_ends(self._copy(reader, back), self._copy(there, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()


async def _until_either_ends(*ways: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def wire(server_port: int) -> AsyncIterator[Wire]:
    """A proxy to this port that forwards normally."""
    made = Wire(server_port)
    await made.mend()
    try:
        yield made
    finally:
        await made.cut()
