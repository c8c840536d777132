"""Calls of a protected API through the edge and a gateway process."""

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import WSMsgType

from tests.acceptance.stack import Stack, instances_of
from tests.acceptance.tenants import EXTENSION, NewTenant, Tenant
from tests.eventually import eventually
from tests.services.upstreams import OK, Asked, Upstream, upstream

SIZE = 100 * 1024 * 1024
PIECE = os.urandom(64 * 1024)
PIECES = SIZE // len(PIECE)
DIGEST = hashlib.sha256(PIECE * PIECES).hexdigest()
GATEWAYS = instances_of("gateway")
FLAT = 24 * 1024 * 1024
"""Bytes by which a gateway may grow while it forwards SIZE bytes."""


@pytest.fixture(name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


class Party:
    """A tenant whose API has this upstream, with a token."""

    def __init__(self, stack: Stack, tenant: Tenant, token: str) -> None:
        self.headers = {"Authorization": f"Bearer {token}"}
        self.http = stack.anybody.http
        self.tenant = tenant
        self._stack = stack

    def url(self, path: str) -> str:
        return f"{self._stack.url}{self.tenant.path}/{path}"


@pytest.fixture(name="party")
async def _party(stack: Stack, tenant_of: NewTenant, behind: Upstream) -> Party:
    tenant = await tenant_of(**{f"{EXTENSION}__upstream__url": behind.url})
    return Party(stack, tenant, (await tenant.pair()).access)


def resident(stack: Stack) -> int:
    """Memory of the gateways in bytes."""
    total = 0
    for name in GATEWAYS:
        status = Path(f"/proc/{stack.program(name).pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        total += int(line.split()[1]) * 1024
    return total


@asynccontextmanager
async def growth(stack: Stack) -> AsyncIterator[Callable[[], int]]:
    """The largest growth of a gateway since the beginning."""
    before, most = resident(stack), 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, resident(stack) - before)
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    try:
        yield lambda: most
    finally:
        watching.cancel()


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(PIECES):
        yield PIECE


# Bodies


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_large_upload_does_not_grow_the_gateway(
    stack: Stack, party: Party, behind: Upstream, chunked: bool
) -> None:
    """A 100 MB request body is streamed: every byte arrives and the gateway does not grow."""
    digests: list[str] = []

    async def take(asked: Asked) -> None:
        digest = hashlib.sha256()
        async for piece in asked.pieces():
            digest.update(piece)
        digests.append(digest.hexdigest())
        await asked.send(OK)

    behind.answering = take
    headers = party.headers | ({} if chunked else {"Content-Length": str(SIZE)})
    async with growth(stack) as grown, asyncio.timeout(240):
        async with party.http.post(party.url("up"), data=pieces(), headers=headers) as response:
            assert (response.status, await response.text()) == (200, "ok")
        assert digests == [DIGEST]
        assert grown() < FLAT


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_hundred_megabytes_come_down_and_the_gateway_does_not_grow(
    stack: Stack, party: Party, behind: Upstream, chunked: bool
) -> None:
    """The same for a response, even if the caller reads slowly at first."""

    async def give(asked: Asked) -> None:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % SIZE
        await asked.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        for _ in range(PIECES):
            await asked.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE)
        await asked.send(b"0\r\n\r\n" if chunked else b"")

    behind.answering = give
    digest = hashlib.sha256()
    async with growth(stack) as grown, asyncio.timeout(240):
        async with party.http.get(party.url("down"), headers=party.headers) as response:
            assert response.status == 200
            async for piece in response.content.iter_chunked(256 * 1024):
                digest.update(piece)
                if response.content.total_bytes < SIZE // 20:
                    await asyncio.sleep(0.02)
        assert digest.hexdigest() == DIGEST
        assert grown() < FLAT


async def test_bodies_are_streamed(party: Party, behind: Upstream) -> None:
    """Neither edge nor gateway buffers a body, in either direction."""
    going_on = asyncio.Event()

    async def echo(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        async for piece in asked.pieces():
            await asked.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await asked.send(b"0\r\n\r\n")

    async def two() -> AsyncIterator[bytes]:
        yield b"first"
        await going_on.wait()
        yield b"second"

    behind.answering = echo
    async with asyncio.timeout(120), party.http.post(party.url("x"), data=two(), headers=party.headers) as response:
        assert await response.content.readexactly(5) == b"first"
        going_on.set()
        assert await response.content.read() == b"second"


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
async def test_a_response_that_breaks_off_is_an_error_to_the_caller(
    party: Party, behind: Upstream, framing: bytes
) -> None:
    """A truncated response is an error for the caller, never taken as complete, at edge, gateway and upstream."""
    going_on = asyncio.Event()

    async def break_off(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nabcde\r\n")
        await going_on.wait()
        asked.reset()
        raise EOFError

    behind.answering = break_off
    async with asyncio.timeout(120), party.http.get(party.url("x"), headers=party.headers) as response:
        assert response.status == 200
        going_on.set()
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_a_call_is_cancelled_when_its_caller_disconnects(party: Party, behind: Upstream) -> None:
    """If the caller disconnects from the edge, the connection to the upstream is closed soon."""
    left = asyncio.Event()

    async def wait(asked: Asked) -> None:
        await asked.gone()
        left.set()
        raise EOFError

    behind.answering = wait

    async def call() -> None:
        async with party.http.get(party.url("x"), headers=party.headers):
            raise AssertionError("there is no response")

    calling = asyncio.create_task(call())
    await eventually(lambda: len(behind.asked) == 1)
    calling.cancel()
    async with asyncio.timeout(120):
        await left.wait()


async def test_the_gateway_reports_an_upstream_that_is_down(stack: Stack, tenant_of: NewTenant) -> None:
    """An unreachable upstream gives the gateway's 502, which the edge does not replace."""
    tenant = await tenant_of(**{f"{EXTENSION}__upstream__url": "http://127.0.0.1:1/"})
    headers = {"Authorization": f"Bearer {(await tenant.pair()).access}"}
    response = await tenant.edge("POST", f"{tenant.path}/x", headers=headers, data=b"body")
    assert (response.status, response.body) == (502, {"error": "The upstream cannot be reached"})


# Forwarded information and logs


async def test_the_upstream_knows_the_caller_by_the_edge(stack: Stack, party: Party, behind: Upstream) -> None:
    """The upstream learns the caller's address from the edge, not from the caller's headers."""
    said = {"X-Forwarded-For": "10.1.1.1", "X-Forwarded-Proto": "https", "X-Tokenwire-Client-Id": "evil"}
    async with party.http.get(party.url("a%2Fb?x=%20"), headers=party.headers | said) as response:
        assert response.status == 200
    told = behind.latest
    assert told.target == "/a%2Fb?x=%20"
    assert told.one("X-Forwarded-For") == "127.0.0.1, 127.0.0.1"
    assert told.one("X-Forwarded-Proto") == "http"
    assert told.one("X-Forwarded-Host") == stack.url.removeprefix("http://")
    assert told.one("X-Tokenwire-Client-Id") == party.tenant.client_id
    assert told.all("Authorization") == []


async def test_an_access_line_shows_nothing_of_the_call_but_its_api(stack: Stack, party: Party) -> None:
    """The access line omits path and query below the listen path, which may contain secrets of the API."""
    headers = party.headers | {"X-Request-Id": "watched-by-a-test"}
    async with party.http.get(party.url("patients/of-ward-seven?name=alice-of-the-query"), headers=headers) as response:
        assert response.status == 200
    (name,) = await eventually(lambda: [name for name in GATEWAYS if "watched-by-a-test" in stack.logs(name)])
    (line,) = [orjson.loads(line) for line in stack.logs(name).splitlines() if "watched-by-a-test" in line]
    assert (line["path"], line["method"], line["status"]) == (f"{party.tenant.path}/{{path}}", "GET", 200)
    assert "of-ward-seven" not in stack.logs(name)
    assert "alice-of-the-query" not in stack.logs(name)
    metrics = (await stack.service(name)("GET", "/metrics")).raw.decode()
    assert 'tokenwire_http_requests_total{method="GET",route="/{path}",status="200"}' in metrics


# WebSockets and graceful stop


async def talk(asked: Asked) -> None:
    """Accept a WebSocket, and echo every frame unmasked."""
    accept = accepted(asked.one("Sec-WebSocket-Key"))
    lines = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Protocol: chat")
    await asked.send(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + accept + b"\r\n")
    await asked.send(b"\r\n".join((*lines, b"", b"")))
    while True:
        opcode, size = await asked.reader.readexactly(2)
        mask = await asked.reader.readexactly(4)
        payload = await asked.reader.readexactly(size & 0x7F)
        plain = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        await asked.send(bytes((opcode, len(plain))) + plain)
        if opcode & 0x0F == WSMsgType.CLOSE:
            raise EOFError


def accepted(key: str) -> bytes:
    """Sec-WebSocket-Accept for this key (RFC 6455 §4.2.2)."""
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest)


async def test_a_websocket_is_forwarded(party: Party, behind: Upstream) -> None:
    """Text, binary, ping and close code pass through edge and gateway."""
    behind.answering = talk
    connect = party.http.ws_connect(party.url("talk"), headers=party.headers, protocols=["chat"], autoping=False)
    async with asyncio.timeout(120), connect as talking:
        assert talking.protocol == "chat"
        await talking.send_str("hello")
        assert await talking.receive_str() == "hello"
        await talking.send_bytes(b"\0\xff")
        assert await talking.receive_bytes() == b"\0\xff"
        await talking.ping(b"x")
        assert (await talking.receive()).type is WSMsgType.PING
        await talking.close(code=4001)
        assert talking.close_code == 4001


async def test_a_websocket_needs_a_token(party: Party, behind: Upstream) -> None:
    """A WebSocket request without a token does not reach the upstream."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await party.http.ws_connect(party.url("talk"))
    assert refused.value.status == 400
    assert behind.asked == []


async def test_a_stopping_gateway_finishes_its_calls(stack: Stack, party: Party, behind: Upstream) -> None:
    """A stopping gateway finishes running calls, closes WebSockets with 1001, and exits with 0."""
    going_on = asyncio.Event()

    async def response(asked: Asked) -> None:
        if asked.all("Upgrade"):
            await talk(asked)
        await asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        await going_on.wait()
        await asked.send(b"half")

    behind.answering = response
    url = stack.urls["gateway"] + party.tenant.path
    async with (
        asyncio.timeout(180),
        party.http.ws_connect(f"{url}/talk", headers=party.headers) as talking,
        party.http.get(f"{url}/slow", headers=party.headers) as calling,
    ):
        assert await calling.content.readexactly(4) == b"half"
        restarting = asyncio.create_task(stack.restart("gateway"))
        goodbye = await talking.receive()
        assert (goodbye.type, goodbye.data) == (WSMsgType.CLOSE, 1001)
        going_on.set()
        assert await calling.content.read() == b"half"
        await restarting
