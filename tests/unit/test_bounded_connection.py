"""Client connections: time-outs, memory limits, and responses to malformed HTTP."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
from aiohttp import web

from libs import serving
from libs.client_address import TrustedProxies
from libs.http import bounded_connection, forms, open_connections
from libs.http.context import Drain, request_middleware
from libs.http.error_responses import ErrorRenderer
from libs.http.forms import read_body
from libs.http.open_connections import OPEN_CONNECTIONS, OpenConnections
from libs.http.routing import routed_application
from libs.http.security_headers import SECURITY_HEADERS, security_headers
from libs.serving import connections
from tests.eventually import eventually

SHORT = 0.3
"""Seconds allowed for a head and for a body in these tests."""
SOON = 30.0
HEAD = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await read_body(request))


async def ponder(_request: web.Request) -> web.Response:
    await asyncio.sleep(3 * SHORT)  # a slow handler is not the client's fault
    return web.Response(text="done")


@dataclass
class Wire:
    """A raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next response."""
        async with asyncio.timeout(SOON):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            body = await self.reader.readexactly(int(headers["Content-Length"]))
        return int(lines[0].split(" ")[1]), headers, body

    async def is_cut(self) -> bool:
        """Whether the other side closes without sending anything."""
        async with asyncio.timeout(SOON):
            return await self.reader.read() == b""


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    """A new connection to an application served like every service."""
    monkeypatch.setattr(bounded_connection, "HEAD_WITHIN", SHORT)
    monkeypatch.setattr(forms, "BODY_WITHIN", SHORT)
    async with served() as port:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
        yield wire
        wire.writer.close()


@asynccontextmanager
async def served(everything: OpenConnections | None = None) -> AsyncIterator[int]:
    constant = security_headers("https://auth.example.test")
    app = routed_application(middlewares=[request_middleware(ErrorRenderer(), 0, Drain(), TrustedProxies(), constant)])
    app[SECURITY_HEADERS] = constant
    app[OPEN_CONNECTIONS] = everything if everything is not None else OpenConnections(100, 100)
    app.add_routes([web.post("/echo", echo), web.post("/api/apis", echo), web.get("/ponder", ponder)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    door = await asyncio.get_running_loop().create_server(connections(runner), "127.0.0.1", 0)
    try:
        yield door.sockets[0].getsockname()[1]
    finally:
        door.close()
        await runner.cleanup()


async def test_a_silent_connection_is_closed(wire: Wire) -> None:
    """A connection without a request is closed after a time."""
    assert await wire.is_cut()


async def test_a_head_that_is_sent_too_slowly_is_refused(wire: Wire) -> None:
    """Slowly arriving bytes do not extend the time for the head; it ends with 408."""
    wire.writer.write(HEAD[:-2])
    response = asyncio.create_task(wire.response())
    while not response.done():
        wire.writer.write(b"X-More: 1\r\n")
        await asyncio.sleep(SHORT / 10)
    status, headers, body = await response
    assert (status, json.loads(body)["error"]) == (408, "invalid_request")
    assert (headers["Connection"], headers["Cache-Control"]) == ("close", "no-store")


async def test_the_second_head_has_no_more_time_than_the_first(wire: Wire) -> None:
    """A second request on the connection has the same time limit."""
    wire.writer.write(HEAD + b"good")
    assert (await wire.response())[2] == b"good"
    wire.writer.write(HEAD[:20])
    assert (await wire.response())[0] == 408
    assert await wire.is_cut()


async def test_an_idle_connection_stays_open(wire: Wire) -> None:
    """Between requests an idle connection stays open."""
    wire.writer.write(HEAD + b"good")
    await wire.response()
    await asyncio.sleep(2 * SHORT)  # longer than the time for a head
    wire.writer.write(HEAD + b"more")
    assert (await wire.response())[2] == b"more"


async def test_a_body_that_is_sent_too_slowly_is_refused(wire: Wire) -> None:
    """A slow body gets 408 as an OAuth error, and the connection is closed (RFC 9110 §15.5.9)."""
    wire.writer.write(HEAD + b"n")
    response = asyncio.create_task(wire.response())
    await asyncio.sleep(SHORT / 2)
    wire.writer.write(b"o")
    status, headers, body = await response
    assert (status, json.loads(body)["error"]) == (408, "invalid_request")
    assert (headers["Connection"], headers["Cache-Control"]) == ("close", "no-store")
    assert await wire.is_cut()


async def test_a_slow_management_body_is_refused_in_the_envelope(wire: Wire) -> None:
    """The same in the management format under /api."""
    wire.writer.write(HEAD.replace(b"/echo", b"/api/apis"))
    status, _, body = await wire.response()
    assert (status, json.loads(body)["Status"]) == (408, "Error")


async def test_a_service_may_take_its_time(wire: Wire) -> None:
    """The limits apply to the client; a slow handler does not close the connection."""
    wire.writer.write(b"GET /ponder HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await wire.response())[2] == b"done"


async def test_hsts_is_sent_when_clients_use_tls(wire: Wire) -> None:
    """With an https public URL every response has Strict-Transport-Security (RFC 6797)."""
    for request in (HEAD + b"good", b"nonsense\r\n\r\n"):
        wire.writer.write(request)
        _, headers, _ = await wire.response()
        assert headers["Strict-Transport-Security"] == "max-age=63072000; includeSubDomains"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Server"] == ""


# Memory limits


def header(size: int) -> bytes:
    """A header line of this many bytes."""
    return b"X: " + b"a" * (size - 5) + b"\r\n"


BEGUN = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"


@pytest.mark.parametrize("pause", [0, 0.001], ids=["at-once", "in-pieces"])
@pytest.mark.parametrize("prelude", [b"", HEAD + b"good"], ids=["first", "second"])
async def test_a11_a_head_over_the_budget_is_refused(wire: Wire, prelude: bytes, pause: float) -> None:
    """Headers that are too large together are refused; the rest is neither stored nor parsed as a request."""
    wire.writer.write(prelude)
    if prelude:
        assert (await wire.response())[2] == b"good"
    wire.writer.write(BEGUN)
    for _ in range(6):
        wire.writer.write(header(14_000))
        await asyncio.sleep(pause)
    wire.writer.write(b"\r\nbody")
    status, headers, body = await wire.response()
    assert (status, json.loads(body)["error"]) == (431, "invalid_request")
    assert "65536" in json.loads(body)["error_description"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert await wire.is_cut()


async def test_a11_a_head_within_the_budget_is_taken(wire: Wire) -> None:
    """A head within the limit is accepted, however it is split."""
    wire.writer.write(BEGUN + header(14_000) * 4 + b"\r\ngood")
    assert (await wire.response())[2] == b"good"
    for piece in (BEGUN, header(14_000), header(14_000), header(14_000), b"\r\nmo", b"re"):
        wire.writer.write(piece)
        await asyncio.sleep(0.001)
    assert (await wire.response())[2] == b"more"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, id="request-line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n" + header(17_000) + b"\r\n", 431, id="header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431, id="headers"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no-host"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", 400, id="tls"),
        pytest.param(b"GET /ponder HTTP/1.1\r\nHost: x\r\nExpect: 200-maybe\r\n\r\n", 417, id="expect"),
        pytest.param(b"GET /nowhere HTTP/1.1\r\nHost: x\r\nExpect: 200-maybe\r\n\r\n", 417, id="expect-nowhere"),
    ],
)
async def test_d13_whatever_is_refused_early_has_the_shape_of_every_refusal(
    wire: Wire, request_bytes: bytes, status: int
) -> None:
    """Early refusals are JSON with security headers, no-store and request id, although no handler ran."""
    wire.writer.write(request_bytes)
    answered, headers, body = await wire.response()
    assert answered == status
    assert json.loads(body)["error"] == "invalid_request"
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["Cache-Control"] == "no-store"
    assert len(headers["X-Request-Id"]) == 16


async def begun(port: int, request: bytes) -> Wire:
    """A new connection on which this has been sent."""
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
    wire.writer.write(request)
    await wire.writer.drain()
    return wire


def is_open(everything: OpenConnections, expected: int) -> bool:
    """Whether this many connections are open."""
    return len(everything) == expected


async def test_a11_the_oldest_of_too_many_unfinished_heads_is_closed() -> None:
    """With too many unfinished heads the oldest connection is closed, and the newest served."""
    everything = OpenConnections(100, unfinished=4)
    async with served(everything) as port:
        wires = []
        for number in range(7):
            wires.append(await begun(port, HEAD[:-2] if number % 2 else b""))
            await eventually(partial(is_open, everything, min(number + 1, 4)))
        assert all([await wire.is_cut() for wire in wires[:3]])
        for wire, rest in zip(wires[3:], (HEAD[-2:], HEAD, HEAD[-2:], HEAD), strict=True):
            wire.writer.write(rest + b"good")
            assert (await wire.response())[2] == b"good"
        for wire in wires:
            wire.writer.close()


@pytest.mark.parametrize("kind", ["unfinished-heads", "slow-bodies"], ids=["unfinished-heads", "slow-bodies"])
async def test_a11_all_heads_share_a_budget_and_the_largest_are_closed_first(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Unfinished heads and bodies share a memory limit; the largest are closed first, others are served."""
    monkeypatch.setattr(open_connections, "HEAD_BYTES", 256 * 1024)
    large = BEGUN + header(14_000) * 4 + (b"\r\nbo" if kind == "slow-bodies" else b"")
    everything = OpenConnections(100, 100)
    async with served(everything) as port:
        complete = await begun(port, b"GET /ponder HTTP/1.1\r\nHost: x\r\n" + header(14_000) * 4 + b"\r\n")
        wires = [await begun(port, large) for _ in range(20)]
        small = await begun(port, HEAD + b"good")
        assert (await small.response())[2] == b"good"
        await eventually(lambda: len(everything) <= 7)
        assert (await complete.response())[2] == b"done"
        for wire in (*wires, small, complete):
            wire.writer.close()


async def test_a11_the_longest_idle_of_too_many_connections_are_closed() -> None:
    """With too many connections the longest idle ones are closed, never one being answered."""
    everything = OpenConnections(8, 8)
    async with served(everything) as port:
        busy = await begun(port, b"GET /ponder HTTP/1.1\r\nHost: x\r\n\r\n")
        idle = []
        for _ in range(12):
            wire = await begun(port, HEAD + b"good")
            assert (await wire.response())[2] == b"good"
            idle.append(wire)
        assert len(everything) <= 8
        assert await idle[0].is_cut()
        assert (await busy.response())[2] == b"done"
        for wire in (*idle, busy):
            wire.writer.close()


async def test_a11_requests_that_are_sent_ahead_wait_their_turn_unread() -> None:
    """Pipelined requests are read one by one and answered in order; few are kept in memory."""
    everything = OpenConnections(100, 100)
    async with served(everything) as port:
        request = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n" + header(3000) + b"\r\n%03d"
        wire = await begun(port, b"GET /ponder HTTP/1.1\r\nHost: x\r\n\r\n")
        wire.writer.write(b"".join(request % number for number in range(300)))
        (one,) = everything
        assert isinstance(one, bounded_connection.BoundedConnection)
        most = 0
        response = asyncio.create_task(wire.response())
        while not response.done():
            most = max(most, len(one._messages))
            await asyncio.sleep(0)
        assert (await response)[2] == b"done"
        assert most <= bounded_connection.QUEUED + bounded_connection.SLICE // 3000
        for number in range(300):
            assert (await wire.response())[2] == b"%03d" % number
        wire.writer.close()


@pytest.mark.parametrize("size", [10, 8192, 40_000, 65_536])
async def test_a_body_is_whole_however_it_was_cut(wire: Wire, size: int) -> None:
    """A body is complete however it is split, and so is what follows it."""
    body = bytes(range(256)) * (size // 256 + 1)
    request = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + body[:size]
    wire.writer.write(request * 8)
    for _ in range(8):
        assert (await wire.response())[2] == body[:size]


async def test_a11_all_unfinished_bodies_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies in progress share a memory limit; above it a new one gets 503, until others end."""
    monkeypatch.setattr(forms, "BODIES_IN_ALL", 100_000)
    everything = OpenConnections(100, 100)
    beginning = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"a" * 59_999
    async with served(everything) as port:
        first, second = await begun(port, beginning), await begun(port, beginning)
        done, _ = await asyncio.wait(
            [asyncio.create_task(wire.response()) for wire in (first, second)], return_when=asyncio.FIRST_COMPLETED
        )
        status, _, body = done.pop().result()
        assert (status, json.loads(body)["error"]) == (503, "temporarily_unavailable")
        for wire in (first, second):
            wire.writer.close()
        await eventually(lambda: forms._Room.taken == 0)
        third = await begun(port, beginning + b"b")
        assert (await third.response())[2].endswith(b"ab")
        third.writer.close()


# Graceful stop


async def test_b9_a_connection_is_closed_only_where_no_request_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is in the kernel's buffer but not read yet is still answered."""
    monkeypatch.setattr(serving, "IDLE_CLOSE_AFTER", SHORT)
    everything = OpenConnections(100, 100)
    async with served(everything) as port:
        silent, asking = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        late = await begun(port, HEAD[:-2])
        await eventually(partial(is_open, everything, 3))
        asking.sendall(HEAD + b"good")
        # In the same iteration of the loop, without reading in between.
        for one in everything:
            one.close_if_idle()
        await eventually(partial(is_open, everything, 2))
        stopping = asyncio.create_task(serving._close_idle(everything))
        late.writer.write(HEAD[-2:] + b"late")
        assert (await late.response())[2] == b"late"
        await stopping
        assert len(everything) == 0
        assert silent.recv(100) == b""
        assert asking.recv(1000).endswith(b"good")
        assert asking.recv(100) == b""
        for client in (silent, asking):
            client.close()
        late.writer.close()


def test_d13_every_address_is_every_address_of_both_protocols() -> None:
    """`--host ::` is reached over IPv4 too, and such addresses are shown as IPv4."""
    with serving.listening("::", 0, host_from="--host", port_from="--port") as listener:
        port = listener.getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, port), timeout=SOON) as client:
                listener.setblocking(True)
                accepted, peer = listener.accept()
                accepted.close()
                assert TrustedProxies().client(peer[0]) == address == client.getpeername()[0]
