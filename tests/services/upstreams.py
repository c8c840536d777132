"""Upstreams that tests write byte by byte, and an API that leads to one."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from tests.builders import Response
from tests.services.system import Party, System, document, raw

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Asked:
    """One request as the upstream received it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    line: str
    headers: list[tuple[str, str]]
    taken: int = 0
    """Bytes of the body read so far."""

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def all(self, name: str) -> list[str]:
        """All values of the header, in order."""
        return [value for header, value in self.headers if header.lower() == name.lower()]

    def one(self, name: str) -> str:
        """The value of a header that must occur once."""
        (value,) = self.all(name)
        return value

    async def send(self, data: bytes) -> None:
        """Send these bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises EOFError if it is truncated."""
        if self.all("Transfer-Encoding"):
            while size := int((await self._line()).strip(), 16):
                yield await self._exactly(size)
                await self._exactly(2)
            await self._exactly(2)
        elif length := self.all("Content-Length"):
            left = int(length[0])
            while left:
                piece = await self.reader.read(min(left, 65_536))
                if not piece:
                    raise EOFError
                left -= len(piece)
                self.taken += len(piece)
                yield piece

    async def _line(self) -> bytes:
        return await self.reader.readuntil(b"\r\n")

    async def _exactly(self, size: int) -> bytes:
        piece = await self.reader.readexactly(size)
        self.taken += size
        return piece

    def reset(self) -> None:
        """Abort the connection with RST."""
        socket = self.writer.get_extra_info("socket")
        socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> bool:
        """Wait until the other side has closed the connection."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            pass
        return True


Responding = Callable[[Asked], Awaitable[None]]


async def ok(asked: Asked) -> None:
    """Read the body, then respond 200."""
    await asked.body()
    await asked.send(OK)


def saying(data: bytes) -> Responding:
    """Read the body, then respond with these bytes."""

    async def response(asked: Asked) -> None:
        await asked.body()
        await asked.send(data)

    return response


@dataclass
class Upstream:
    """A local server that records its requests."""

    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    answering: Responding = ok
    greeting: bytes = b""
    """Sent before any request."""
    in_progress: int = 0
    """Requests whose response, and whatever follows it, is not sent yet."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def latest(self) -> Asked:
        return self.asked[-1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(self.greeting)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, *lines = head.decode("latin-1").rstrip().split("\r\n")
                headers = [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)]
                asked = Asked(reader, writer, line, headers)
                self.asked.append(asked)
                self.in_progress += 1
                try:
                    await self.answering(asked)
                finally:
                    self.in_progress -= 1
        except (EOFError, ConnectionError, asyncio.LimitOverrunError):
            pass  # disconnected, or not a request
        finally:
            writer.close()


@asynccontextmanager
async def upstream(answering: Responding = ok) -> AsyncIterator[Upstream]:
    """A running upstream."""
    made, serving = Upstream(answering=answering), set[asyncio.Task[None]]()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(made.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in [*serving]:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@dataclass(frozen=True)
class Protected:
    """A client of an API with this upstream, with a token."""

    party: Party
    token: str
    subject: str = "alice"

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def at(self, path: str) -> str:
        return self.party.at(path)

    async def __call__(self, method: str, path: str, **request: Any) -> Response:
        """Call a path under the listen path with the token."""
        headers = self.bearer | request.pop("headers", {})
        return await self.party.system.call(method, self.at(path), headers=headers, **request)

    def head(self, method: str, path: str, *lines: str, bearer: bool = True) -> bytes:
        """The head of such a request with these header lines."""
        token = (f"Authorization: Bearer {self.token}",) if bearer else ()
        return "\r\n".join((f"{method} {self.at(path)} HTTP/1.1", "Host: api.example", *token, *lines, "", "")).encode()

    async def raw(
        self, method: str, path: str, *lines: str, bearer: bool = True, body: bytes = b"", connection: str = "close"
    ) -> bytes:
        """Send raw bytes; return the response's bytes. `connection`: the options of `Connection`."""
        head = self.head(method, path, f"Connection: {connection}", *lines, bearer=bearer)
        return await raw(self.party.system.call, head + body)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to the gateway."""
        http = self.party.system.call.http
        reader, writer = await asyncio.open_connection(http.host, http.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def protected(system: System, url: str, **changes: Any) -> Protected:
    """Create an API with this upstream, a client and a token."""
    party = await system.party(document(**{"x-tyk-api-gateway__upstream__url": url}, **changes))
    return Protected(party, (await party.tokens(subject="alice", scope="a b")).access)
