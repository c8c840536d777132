"""A proxy between a test and MongoDB, in a thread of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Connects each client to the server; subclasses decide what is forwarded.

    It needs a thread, because the driver closes its connections without running the event loop.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "127.0.0.1", parts.port or 27017)
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward the requests; the connection is closed when it returns."""
        raise AssertionError("each proxy says what it passes on")

    async def _response(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward the replies; the connection is closed when it returns."""
        raise AssertionError("each proxy says what it passes on")

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Run the proxy for the duration of the block."""
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
        self.port = self._server.sockets[0].getsockname()[1]

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
                asyncio.create_task(self._response(back, writer)),
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
