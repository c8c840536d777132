"""Upstreams that fail or are slow, and callers that disconnect."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.gateway.proxy import PASSES
from tests.builders import Response
from tests.eventually import eventually
from tests.ports import free_port
from tests.services.system import THROUGH_THE_EDGE, System, open_system
from tests.services.upstreams import OK, Asked, Protected, Upstream, protected, saying, upstream


@pytest.fixture(scope="module", name="hasty")
async def _hasty(mongodb_url: str, way: str) -> AsyncIterator[System]:
    """A system whose gateway has short upstream time-outs."""
    async with open_system(mongodb_url, upstream_timeout=0.3, upstream_connect_timeout=0.3) as system:
        yield system


@pytest.fixture(name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


@pytest.fixture(name="api")
async def _api(system: System, behind: Upstream) -> Protected:
    return await protected(system, behind.url)


def failed(response: Response, status: int, message: str) -> bool:
    """Whether this is the gateway's own error, uncacheable."""
    assert (response.status, response.body) == (status, {"error": message}), response.raw
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert "WWW-Authenticate" not in response.headers
    return True


# No response


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://127.0.0.1:<free>/", id="nobody-listens"),
        pytest.param("http://no-such-host.invalid/", id="no-such-host"),
    ],
)
async def test_an_upstream_that_cannot_be_reached_is_502(system: System, url: str) -> None:
    """An unreachable upstream gives the gateway's 502."""
    api = await protected(system, url.replace("<free>", str(free_port())))
    response = await api("POST", "x", data=b"body")
    assert failed(response, 502, "The upstream cannot be reached")


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest/", "http://[::ffff:169.254.169.254]/", "http://168.63.129.16"]
)
async def test_a18_an_upstream_on_the_denylist_is_502_at_once(system: System, url: str) -> None:
    """An upstream on the denylist gives 502 at once, in any spelling: metadata services hand out credentials (SSRF)."""
    api = await protected(system, url)
    async with asyncio.timeout(2):
        response = await api("GET", "x")
    assert failed(response, 502, "The upstream's address is not allowed")


async def test_an_upstream_without_tls_is_not_asked_in_the_clear(system: System) -> None:
    """An `https:` upstream is never contacted without TLS."""
    taken: list[bytes] = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.read(65_536))
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    api = await protected(system, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    response = await api("POST", "x", data=b"body")
    server.close()
    assert failed(response, 502, "The upstream cannot be reached")
    assert taken
    assert all(said.startswith(b"\x16\x03") for said in taken)  # a TLS handshake


async def test_an_upstream_that_accepts_no_connection_is_504(hasty: System) -> None:
    """`upstream_connect_timeout`: an unreachable address gives 504."""
    api = await protected(hasty, "http://192.0.2.1/")  # reserved for documentation (RFC 5737)
    response = await api("GET", "x")
    assert response.status in {502, 504}  # 502 if there is no route at all
    assert set(response.body) == {"error"}


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_an_upstream_that_breaks_off_before_it_answers_is_502(
    api: Protected, behind: Upstream, method: str, reset: bool
) -> None:
    """If the upstream closes before it responds: 502, without a retry, because it may have taken effect (RFC 9110
    §9.2.2).
    """

    async def break_off(asked: Asked) -> None:
        asked.reset() if reset else asked.writer.close()
        raise EOFError

    behind.answering = break_off
    assert failed(await api(method, "x", data=b"body"), 502, "The upstream closed the connection before it responded")
    assert len(behind.asked) == 1


@pytest.mark.built_in_only("nginx passes it on as HTTP/0.9, and closes the connection")
async def test_a_response_that_is_no_http_is_502(api: Protected, behind: Upstream) -> None:
    """A response that is not HTTP gives 502, and none of it is forwarded."""
    behind.answering = saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    assert failed(await api("POST", "x"), 502, "The upstream's response is not HTTP")


LENGTH = b"Content-Length: 2\r\n"
CONTRADICTING = "The upstream's response has malformed or contradictory headers"
TOO_LARGE = "The upstream's response has a header over 16 KiB, or more than 256 headers"


@pytest.mark.built_in_only("nginx judges response heads by its own rules, and does not tell what is wrong")
@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        pytest.param(LENGTH + b"Transfer-Encoding: chunked\r\n", CONTRADICTING, id="length-and-chunks"),
        pytest.param(LENGTH * 2, CONTRADICTING, id="one-length-twice"),
        pytest.param(LENGTH + b"Content-Length: 3\r\n", CONTRADICTING, id="two-lengths"),
        pytest.param(b"Content-Length: two\r\n", CONTRADICTING, id="length-that-is-no-number"),
        pytest.param(b"no header\r\n", CONTRADICTING, id="no-header"),
        pytest.param(b"X-Large: " + b"x" * 20_000 + b"\r\n", TOO_LARGE, id="large-header"),
        pytest.param(b"x" * 20_000 + b": x\r\n", TOO_LARGE, id="large-name"),
        pytest.param(b"".join(b"X-%d: y\r\n" % n for n in range(300)), TOO_LARGE, id="many-headers"),
    ],
)
async def test_d3_an_invalid_response_head_is_explained(
    api: Protected, behind: Upstream, head: bytes, sentence: str
) -> None:
    """If the response's head is invalid, the error says what (RFC 9112 §6.3)."""
    behind.answering = saying(b"HTTP/1.1 200 OK\r\n" + head + b"\r\nok")
    assert failed(await api("POST", "x"), 502, sentence)


@pytest.mark.built_in_only("nginx passes on the status")
async def test_an_unrequested_upgrade_is_502(api: Protected, behind: Upstream) -> None:
    """101 without a requested upgrade gives 502."""
    behind.answering = saying(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    assert failed(await api("GET", "x"), 502, "The upstream's response is not HTTP")


async def test_a_silent_upstream_is_504(hasty: System) -> None:
    """`upstream_timeout`: a silent upstream gives 504, and its connection is closed."""

    async def sleep(asked: Asked) -> None:
        await asked.body()
        await asked.gone()
        raise EOFError

    async with upstream(sleep) as behind:
        api = await protected(hasty, behind.url)
        for request in ({}, {"data": b"body"}):
            assert failed(await api("PUT", "x", **request), 504, "The upstream did not respond in time")
        await eventually(lambda: all(asked.writer.is_closing() for asked in behind.asked))


async def test_an_upstream_that_reads_nothing_is_504(hasty: System) -> None:
    """An upstream that stops reading the body gives 504."""

    async def sleep(asked: Asked) -> None:
        await asyncio.sleep(30)

    async with upstream(sleep) as behind:
        api = await protected(hasty, behind.url)
        async with api.connection() as (reader, writer), asyncio.timeout(20):
            writer.write(api.head("POST", "x", "Content-Length: 1000000000"))
            pouring = asyncio.create_task(pour(writer))
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 504 ")
            pouring.cancel()


async def pour(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


@pytest.mark.built_in_only("nginx limits every pause of a response")
async def test_the_time_counts_for_the_beginning_only(hasty: System) -> None:
    """The time-out covers silence only: slow uploads and slow responses may take longer."""

    async def response(asked: Asked) -> None:
        await asked.body()
        await asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await asyncio.sleep(0.6)
        await asked.send(b"k")

    async with upstream(response) as behind:
        api = await protected(hasty, behind.url)

        async def slowly() -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.sleep(0.6)
            yield b"b"

        answered = await api("POST", "x", data=slowly())
    assert (answered.status, answered.raw) == (200, b"ok")


# Connection reuse


@pytest.mark.built_in_only("connections are kept only to upstreams with a name in upstreams.conf")
async def test_a_connection_serves_many_calls(api: Protected, behind: Upstream) -> None:
    """A connection is reused, by different APIs too."""
    other = await protected(api.party.system, behind.url)
    for party in (api, other, api):
        assert (await party("GET", "x")).status == 200
    assert behind.connections == 1


@pytest.mark.built_in_only("connections are kept only to upstreams with a name in upstreams.conf")
@pytest.mark.parametrize(
    ("method", "body", "again"),
    [("GET", None, True), ("DELETE", None, True), ("POST", None, False), ("PATCH", b"x", False), ("PUT", b"x", False)],
)
async def test_a_stale_connection_is_retried(
    api: Protected, behind: Upstream, method: str, body: bytes | None, again: bool
) -> None:
    """On a stale connection an idempotent request is repeated once; a request whose body has begun is not."""
    assert (await api("GET", "x")).status == 200
    first = len(behind.asked)

    async def once_in_vain(asked: Asked) -> None:
        if len(behind.asked) == first + 1:
            asked.reset()
            raise EOFError
        await asked.body()
        await asked.send(OK)

    behind.answering = once_in_vain
    request: dict[str, Any] = {} if body is None else {"data": body}
    assert (await api(method, "x", **request)).status == (200 if again else 502)
    assert len(behind.asked) == first + (2 if again else 1)


@pytest.mark.parametrize("pause", [0, 0.05], ids=["at-once", "later"])
async def test_an_unrequested_response_reaches_no_caller(
    api: Protected, behind: Upstream, way: str, pause: float
) -> None:
    """An unrequested response is never given to the next caller."""

    async def say_too_much(asked: Asked) -> None:
        first = len(behind.asked) == 1
        await asked.send(OK)
        if first:
            await asyncio.sleep(pause)
            await asked.send(OK.replace(b": 2", b": 6").replace(b"ok", b"others"))

    behind.answering = say_too_much
    assert (await api("GET", "x")).raw == b"ok"
    await asyncio.sleep(3 * pause)
    other = await protected(api.party.system, behind.url)
    for _ in range(2):
        assert (await other("GET", "x")).raw == b"ok"
    assert behind.connections == (3 if way == THROUGH_THE_EDGE else 2)


@pytest.mark.built_in_only("nginx passes it on as HTTP/0.9, and closes the connection")
async def test_an_upstream_that_speaks_first_is_502(api: Protected, behind: Upstream) -> None:
    """An upstream that sends before it is asked gives 502."""
    behind.greeting = b"220 mail.example ESMTP\r\n"
    for _ in range(2):
        assert failed(await api("GET", "x"), 502, "The upstream's response is not HTTP")
    assert behind.connections == 2


# Callers that leave


@pytest.mark.parametrize("when", ["before the answer", "in the middle of it"])
async def test_a_call_is_cancelled_when_its_caller_disconnects(api: Protected, behind: Upstream, when: str) -> None:
    """If the caller disconnects, the upstream's connection is closed soon, even when idle."""
    left = asyncio.Event()

    async def response(asked: Asked) -> None:
        if when != "before the answer":
            await asked.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await asked.gone()
        left.set()
        raise EOFError

    behind.answering = response
    async with api.connection() as (reader, writer):
        writer.write(api.head("GET", "x"))
        await eventually(lambda: len(behind.asked) == 1)
        if when != "before the answer":
            await reader.readuntil(b"1\r\nx\r\n")
        assert not left.is_set()
    async with asyncio.timeout(5):
        await left.wait()


# Loops


async def test_a_call_in_a_loop_is_stopped(system: System, behind: Upstream) -> None:
    """An upstream that leads back to the gateway gives 508 (RFC 5842 §7.2)."""
    api = await protected(system, behind.url)
    assert (await api.raw("GET", "x", "Via: " + ", ".join(["1.1 tokenwire"] * (PASSES - 1)))).startswith(
        b"HTTP/1.1 200 "
    )
    response = await api.raw("GET", "x", *["Via: 1.1 tokenwire"] * PASSES)
    assert response.startswith(b"HTTP/1.1 508 ")
    assert response.endswith(b'{"error":"Loop detected: the upstream sends the call back to this gateway"}\n')
    assert len(behind.asked) == 1
