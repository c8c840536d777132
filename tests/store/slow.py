"""A proxy to MongoDB that delays replies: the server has applied a write, and the client does not know yet."""

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

from tests.store.lossy import HEADER, body_of, message_of
from tests.store.proxy import Proxy


class Slow(Proxy):
    """Forwards everything; while `delay` is set, each reply arrives that many seconds late."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        self._user = user + at
        self._options = "&".join(each for each in parts.query.split("&") if each and not each.startswith("replicaSet="))
        self.delay = 0.0
        """Seconds, for replies that the server sends from now on."""
        self.only: frozenset[str] = frozenset()
        """If not empty, only replies to writes of these collections are delayed."""
        self._late: set[int] = set()
        """With `only`, the ids of the requests whose replies are delayed."""

    @property
    def url(self) -> str:
        """A URL with directConnection: the driver must not bypass the proxy for the replica set's address."""
        return f"mongodb://{self._user}127.0.0.1:{self.port}/?directConnection=true&{self._options}".rstrip("&")

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                asked = await message_of(reader)
                if self.delay and self.only and self._writes(asked):
                    self._late.add(HEADER.unpack_from(asked)[1])
                writer.write(asked)
                await writer.drain()

    async def _response(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                answered = await message_of(reader)
                question = HEADER.unpack_from(answered)[2]
                if self.delay and (question in self._late or not self.only):
                    await asyncio.sleep(self.delay)
                self._late.discard(question)
                writer.write(answered)
                await writer.drain()

    def _writes(self, asked: bytes) -> bool:
        body = body_of(asked)
        return any(body.get(command) in self.only for command in ("insert", "update"))
