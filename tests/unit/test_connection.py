"""A client's connection: how long it may take for what, and what is said to what is not HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from libs.addresses import TrustedProxies
from libs.http import connection, forms
from libs.http.context import Drain, surroundings
from libs.http.errors import ErrorRenderer
from libs.http.forms import read_body
from libs.http.headers import CONSTANT_HEADERS, constant_headers
from libs.serving import connections

SHORT = 0.3
"""Seconds that a head and a body get in these tests."""
SOON = 5.0
HEAD = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await read_body(request))


async def ponder(_request: web.Request) -> web.Response:
    await asyncio.sleep(3 * SHORT)  # what is tested is that taking long is no fault of the client's
    return web.Response(text="done")


@dataclass
class Wire:
    """A connection, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(SOON):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            body = await self.reader.readexactly(int(headers["Content-Length"]))
        return int(lines[0].split(" ")[1]), headers, body

    async def is_cut(self) -> bool:
        """Whether the other side closes, without a word."""
        async with asyncio.timeout(SOON):
            return await self.reader.read() == b""


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    """A new connection to an application that is served as every service is."""
    monkeypatch.setattr(connection, "HEAD_WITHIN", SHORT)
    monkeypatch.setattr(forms, "BODY_WITHIN", SHORT)
    async with served() as port:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
        yield wire
        wire.writer.close()


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    constant = constant_headers("https://auth.example.test")
    app = web.Application(middlewares=[surroundings(ErrorRenderer(), 0, Drain(), TrustedProxies(), constant)])
    app[CONSTANT_HEADERS] = constant
    app.add_routes([web.post("/echo", echo), web.post("/api/echo", echo), web.get("/ponder", ponder)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    door = await asyncio.get_running_loop().create_server(connections(runner), "127.0.0.1", 0)
    try:
        yield door.sockets[0].getsockname()[1]
    finally:
        door.close()
        await runner.cleanup()


async def test_a_connection_that_says_nothing_is_cut(wire: Wire) -> None:
    """From connecting on there is a time in which a request must come."""
    assert await wire.is_cut()


async def test_a_head_that_drips_is_cut(wire: Wire) -> None:
    """Bytes that keep coming buy no time: the head as a whole has to be there."""
    wire.writer.write(HEAD[:-2])
    cut = asyncio.create_task(wire.is_cut())
    while not cut.done():
        wire.writer.write(b"X-More: 1\r\n")
        await asyncio.sleep(SHORT / 10)
    assert await cut


async def test_the_second_head_has_no_more_time_than_the_first(wire: Wire) -> None:
    """A good request earns nothing for what follows it on the same connection."""
    wire.writer.write(HEAD + b"good")
    assert (await wire.answer())[2] == b"good"
    wire.writer.write(HEAD[:20])
    assert await wire.is_cut()


async def test_an_idle_connection_stays_open(wire: Wire) -> None:
    """Between requests nothing is awaited, so nothing is late; whoever comes back finds the connection."""
    wire.writer.write(HEAD + b"good")
    await wire.answer()
    await asyncio.sleep(2 * SHORT)  # the time that a head would have had
    wire.writer.write(HEAD + b"more")
    assert (await wire.answer())[2] == b"more"


async def test_a_body_that_drips_is_refused(wire: Wire) -> None:
    """408 in the OAuth shape, and the connection closed, since the rest may still come (RFC 9110 §15.5.9)."""
    wire.writer.write(HEAD + b"n")
    answer = asyncio.create_task(wire.answer())
    await asyncio.sleep(SHORT / 2)
    wire.writer.write(b"o")
    status, headers, body = await answer
    assert (status, json.loads(body)["error"]) == (408, "invalid_request")
    assert (headers["Connection"], headers["Cache-Control"]) == ("close", "no-store")
    assert await wire.is_cut()


async def test_a_management_body_that_drips_is_refused_in_the_envelope(wire: Wire) -> None:
    """The same under /api, as everything is said there."""
    wire.writer.write(HEAD.replace(b"/echo", b"/api/echo"))
    status, _, body = await wire.answer()
    assert (status, json.loads(body)["Status"]) == (408, "Error")


async def test_a_service_may_take_its_time(wire: Wire) -> None:
    """The limits are the client's: an answer that is long in the making is no reason to close."""
    wire.writer.write(b"GET /ponder HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await wire.answer())[2] == b"done"


async def test_where_clients_come_by_tls_they_are_told_to_stay_there(wire: Wire) -> None:
    """Strict-Transport-Security with every answer where the public URL is https (RFC 6797), beside what all carry."""
    for request in (HEAD + b"good", b"nonsense\r\n\r\n"):
        wire.writer.write(request)
        _, headers, _ = await wire.answer()
        assert headers["Strict-Transport-Security"] == "max-age=63072000; includeSubDomains"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Server"] == ""
