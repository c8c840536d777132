"""WebSockets through the proxy: the token is checked, then frames pass unchanged."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from tests.builders import Served
from tests.eventually import eventually
from tests.services.system import THROUGH_THE_EDGE, System, open_system
from tests.services.upstreams import Protected, Upstream, protected, saying, upstream


class Talker:
    """A WebSocket upstream that records how each conversation ended."""

    def __init__(self) -> None:
        self.talks: list[web.WebSocketResponse] = []
        self.heard: list[aiohttp.WSMessage] = []
        self.requests: list[web.Request] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/base"

    async def talk(self, request: web.Request) -> web.WebSocketResponse:
        talk = web.WebSocketResponse(protocols=("chat", "news"), autoping=False, max_msg_size=0)
        self.requests.append(request)
        await talk.prepare(request)
        self.talks.append(talk)
        async for message in talk:
            self.heard.append(message)
            await self._reply(talk, message)
        return talk

    async def _reply(self, talk: web.WebSocketResponse, message: aiohttp.WSMessage) -> None:
        match message.type:
            case WSMsgType.TEXT if message.data == "leave":
                await talk.close(code=4002, message=b"enough")
            case WSMsgType.TEXT if message.data == "die":
                assert self.requests[-1].transport is not None
                self.requests[-1].transport.abort()
            case WSMsgType.TEXT:
                await talk.send_str(message.data)
            case WSMsgType.BINARY:
                await talk.send_bytes(message.data)
            case WSMsgType.PING:
                await talk.pong(message.data)


@pytest.fixture(name="talker")
async def _talker() -> AsyncIterator[Talker]:
    talker = Talker()
    app = web.Application()
    app.router.add_get("/base/talk", talker.talk)
    server = Served(app)
    await server.start_server()
    talker.port = server.port or 0
    yield talker
    await server.close()


@pytest.fixture(name="api")
async def _api(system: System, talker: Talker) -> Protected:
    return await protected(system, talker.url)


@asynccontextmanager
async def talking(api: Protected, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket through the gateway."""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            str(api.party.system.call.http.make_url(api.at("talk"))),
            headers=api.bearer,
            autoping=False,
            max_msg_size=0,
            **options,
        ) as talk,
        asyncio.timeout(20),
    ):
        yield talk


@pytest.mark.parametrize("compress", [0, 15], ids=["plain", "permessage-deflate"])
async def test_messages_of_every_kind_go_both_ways(api: Protected, talker: Talker, compress: int) -> None:
    """Text, binary, ping and pong, empty ones too, with or without compression."""
    async with talking(api, compress=compress) as talk:
        assert talk.compress == compress
        for text in ("hello", "", "ü" * 1000):
            await talk.send_str(text)
            assert await talk.receive_str() == text
        for data in (b"\0\xff", b"", os.urandom(200_000)):
            await talk.send_bytes(data)
            assert await talk.receive_bytes() == data
        await talk.ping(b"there?")
        response = await talk.receive()
        assert (response.type, response.data) == (WSMsgType.PONG, b"there?")
        await talk.pong(b"unasked")
        await eventually(lambda: talker.heard[-1].type is WSMsgType.PONG and talker.heard[-1].data == b"unasked")


async def test_a_message_may_have_any_size(api: Protected) -> None:
    """Messages of any size pass, because they are not assembled."""
    async with talking(api) as talk:
        data = os.urandom(1024) * 20 * 1024
        await talk.send_bytes(data)
        assert await talk.receive_bytes(timeout=20) == data


@pytest.mark.parametrize(("offered", "chosen"), [(["news", "chat"], "news"), (["other"], None), ([], None)])
async def test_the_upstream_chooses_the_subprotocol(api: Protected, offered: list[str], chosen: str | None) -> None:
    """The upstream selects the subprotocol (RFC 6455 §1.9)."""
    async with talking(api, protocols=offered) as talk:
        assert talk.protocol == chosen


async def test_the_upstream_gets_identity_headers(api: Protected, talker: Talker) -> None:
    """The handshake has identity headers, no token, and the upstream's path."""
    async with talking(api):
        (request,) = talker.requests
        assert request.path == "/base/talk"
        assert request.headers["X-Tokenwire-Subject"] == "alice"
        assert "Authorization" not in request.headers


async def test_a_caller_s_close_reaches_the_upstream(api: Protected, talker: Talker) -> None:
    """The caller's close code and reason reach the upstream."""
    async with talking(api) as talk:
        await talk.close(code=4001, message=b"bye")
    await eventually(lambda: talker.talks[0].close_code == 4001)


async def test_an_upstream_s_close_reaches_the_caller(api: Protected) -> None:
    """The upstream's close code and reason reach the caller."""
    async with talking(api) as talk:
        await talk.send_str("leave")
        message = await talk.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4002, "enough")


async def test_the_tunnel_closes_when_the_upstream_is_lost(api: Protected) -> None:
    """If the upstream dies, the caller sees 1006: no Close frame is invented."""
    async with talking(api) as talk:
        await talk.send_str("die")
        assert (await talk.receive()).type in {WSMsgType.CLOSED, WSMsgType.ERROR}
        assert talk.close_code == 1006


async def test_data_sent_just_before_closing_arrives(system: System) -> None:
    """Data that an upstream sends immediately before closing reaches the caller."""
    said = b"\x81\x02hi\x88\x02\x03\xe8"

    async def response(_: object) -> None:
        agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        await behind.latest.send(agreed + said)
        raise EOFError

    async with upstream(response) as behind:
        api = await protected(system, behind.url)
        for _ in range(20):
            async with api.connection() as (reader, writer), asyncio.timeout(5):
                writer.write(api.head("GET", "x", "Upgrade: websocket", "Connection: upgrade"))
                assert (await reader.read()).endswith(b"\r\n\r\n" + said)


async def test_the_tunnel_closes_when_the_caller_is_lost(api: Protected, talker: Talker) -> None:
    """If the caller dies, the upstream's connection ends."""
    async with api.connection() as (reader, writer):
        handshake = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
        writer.write(api.head("GET", "talk", *handshake, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await eventually(lambda: len(talker.talks) == 1)
    await eventually(lambda: talker.talks[0].close_code == 1006)


async def test_frames_directly_after_the_handshake_are_not_lost(api: Protected) -> None:
    """Frames sent right after the handshake are not lost."""
    async with api.connection() as (reader, writer), asyncio.timeout(10):
        handshake = ("Upgrade: websocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Version: 13")
        head = api.head("GET", "talk", *handshake, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
        writer.write(head + b"\x81\x82\0\0\0\0hi")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(4) == b"\x81\x02hi"


@pytest.mark.parametrize(
    ("bearer", "status", "body"),
    [(False, 400, b"Authorization field missing"), (True, 426, b"upgrade later")],
    ids=["no-token", "upstream-refuses"],
)
async def test_a_handshake_that_is_refused_is_a_response(
    system: System, bearer: bool, status: int, body: bytes
) -> None:
    """A refused handshake is a normal response: the gateway's for a bad token, the upstream's with its body."""
    refusal = b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 13\r\n\r\nupgrade later"
    async with upstream(saying(refusal)) as behind:
        api = await protected(system, behind.url)
        lines = ("Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
        response = await api.raw("GET", "x", *lines, bearer=bearer, connection="close, upgrade")
        assert response.startswith(f"HTTP/1.1 {status} ".encode())
        assert body in response
        assert len(behind.asked) == int(bearer)
        if bearer:
            told = behind.latest
            assert (told.one("Upgrade"), told.one("Connection")) == ("websocket", "Upgrade")


@pytest.mark.parametrize("protocol", ["h2c", "tcp", "TLS/1.0", "websocket, h2c"])
async def test_no_other_protocol_is_switched_to(system: System, way: str, protocol: str) -> None:
    """An upgrade to another protocol is not forwarded, because it would bypass all checks."""
    async with upstream() as behind:
        api = await protected(system, behind.url)
        response = await api.raw("GET", "x", f"Upgrade: {protocol}", connection="close, upgrade")
        assert response.startswith(b"HTTP/1.1 200 ")
        assert behind.latest.all("Upgrade") == []
        assert behind.latest.all("Connection") == (["close"] if way == THROUGH_THE_EDGE else [])


async def test_a_slow_end_makes_the_other_wait(system: System) -> None:
    """A slow reader stops the other end: a few megabytes at most are buffered."""
    sent = 0

    async def pour(asked: object) -> None:
        nonlocal sent
        told = behind.latest
        await told.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while True:
            await told.send(b"\x82\x7f" + (65_536).to_bytes(8, "big") + b"x" * 65_536)
            sent += 65_536

    async with upstream(pour) as behind:
        api = await protected(system, behind.url)
        async with api.connection() as (reader, writer), asyncio.timeout(20):
            writer.write(api.head("GET", "x", "Upgrade: websocket", "Connection: upgrade"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            seen: list[int] = []
            await eventually(lambda: stands_still(seen, sent))
            assert 0 < sent < 32 * 1024 * 1024


def stands_still(seen: list[int], now: int) -> bool:
    seen.append(now)
    return now > 0 and len(seen) > 15 and len(set(seen[-15:])) == 1


@pytest.mark.built_in_only("the edge has the tunnel, and does not stop with the gateway")
async def test_a_stopping_gateway_sends_going_away(mongodb_url: str, talker: Talker) -> None:
    """A stopping gateway sends 1001 to both ends, between frames."""
    async with open_system(mongodb_url) as system:
        api = await protected(system, talker.url)
        async with talking(api) as talk:
            await talk.send_str("hello")
            assert await talk.receive_str() == "hello"
            stopping = asyncio.create_task(system.call.http.app.shutdown())
            message = await talk.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)
            await stopping
        await eventually(lambda: talker.talks[0].close_code == 1001)


@pytest.mark.built_in_only("the edge has the tunnel, and does not stop with the gateway")
async def test_a_frame_in_progress_ends_before_the_close_frame(mongodb_url: str) -> None:
    """A frame in progress is completed before the Close frame, and nothing follows it."""

    async def response(_: object) -> None:
        told: Upstream = behind
        await told.latest.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await told.latest.send(b"\x82\x04ab")
        assert (await told.latest.reader.readexactly(8)).startswith(b"\x88\x82")  # in the other direction
        await told.latest.send(b"cd\x82\x01x")
        await told.latest.gone()
        raise EOFError

    async with open_system(mongodb_url) as system, upstream(response) as behind:
        api = await protected(system, behind.url)
        async with api.connection() as (reader, writer), asyncio.timeout(20):
            writer.write(api.head("GET", "x", "Upgrade: websocket", "Connection: upgrade"))
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(4) == b"\x82\x04ab"
            await system.call.http.app.shutdown()
            assert await reader.readexactly(6) == b"cd\x88\x02\x03\xe9"
            assert await reader.read() == b""
