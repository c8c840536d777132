"""Bodies are streamed through the proxy in both directions, with backpressure, and a truncated one never looks
complete.
"""

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest

from tests.eventually import eventually
from tests.services.system import THROUGH_THE_EDGE, System
from tests.services.upstreams import OK, Asked, Protected, Upstream, protected, saying, upstream

CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


@pytest.fixture(name="api")
async def _api(system: System, behind: Upstream) -> Protected:
    return await protected(system, behind.url)


class Echoed:
    """Remembers bodies."""

    def __init__(self, behind: Upstream) -> None:
        self.bodies: list[bytes] = []
        behind.answering = self.response

    async def response(self, asked: Asked) -> None:
        self.bodies.append(await asked.body())
        await asked.send(OK)


# To the upstream


@pytest.mark.parametrize(
    ("lines", "sent", "arrived"),
    [
        pytest.param(["Content-Length: 5"], b"a\0b\xff\n", b"a\0b\xff\n", id="length"),
        pytest.param(["Content-Length: 0"], b"", b"", id="empty"),
        pytest.param([CHUNKED], b"2\r\nab\r\n1;ext=1\r\nc\r\n0\r\n\r\n", b"abc", id="chunked"),
        pytest.param(
            [CHUNKED, "Trailer: X-Sum"],
            b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Tokenwire-Scope: 2\r\n\r\n",
            b"abc",
            id="trailers",
        ),
    ],
)
async def test_a_body_arrives_framed_as_it_was(
    api: Protected, behind: Upstream, way: str, lines: list[str], sent: bytes, arrived: bytes
) -> None:
    """A body keeps its framing, by length or chunked; trailers are dropped, because they could smuggle headers."""
    echoed = Echoed(behind)
    response = await api.raw("POST", "x", *lines, body=sent)
    assert response.startswith(b"HTTP/1.1 200 "), response
    assert echoed.bodies == [arrived]
    framing = [behind.latest.all(name) for name in ("Content-Length", "Transfer-Encoding")]
    known = [[str(len(arrived))], []]  # by its length; nginx counts a chunked body that has arrived as a whole
    assert framing == ([[], ["chunked"]] if CHUNKED in lines and framing != known else known)
    assert way == THROUGH_THE_EDGE or (framing == known) is (CHUNKED not in lines)
    assert behind.latest.all("X-Sum") == []


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
async def test_a_compressed_body_is_forwarded_compressed(api: Protected, behind: Upstream, encoding: str) -> None:
    """Content-Encoding is end-to-end in both directions."""
    packed = gzip.compress(b"x" * 1000)
    echoed = Echoed(behind)
    response = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (
        encoding.encode(),
        len(packed),
    )
    length = f"Content-Length: {len(packed)}"
    await api.raw("POST", "x", f"Content-Encoding: {encoding}", length, body=packed)
    assert echoed.bodies == [packed]
    assert behind.latest.one("Content-Encoding") == encoding
    behind.answering = saying(response + packed)
    assert (await api.raw("GET", "x")).partition(b"\r\n\r\n")[2] == packed


async def test_a_body_is_forwarded_while_it_is_received(api: Protected, behind: Upstream) -> None:
    """The upstream gets the first piece before the caller sends the second, and may respond early."""

    async def echo(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        async for piece in asked.pieces():
            await asked.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await asked.send(b"0\r\n\r\n")

    behind.answering = echo
    async with api.connection() as (reader, writer), asyncio.timeout(10):
        writer.write(api.head("POST", "x", CHUNKED))
        for word in (b"one", b"two", b"three"):
            writer.write(b"%x\r\n%b\r\n" % (len(word), word))
            await reader.readuntil(word)
        writer.write(b"0\r\n\r\n")
        assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")


@pytest.mark.built_in_only("nginx asks for the body before it knows the upstream")
async def test_a_body_is_asked_for_when_an_upstream_takes_it(api: Protected, behind: Upstream) -> None:
    """`Expect: 100-continue`: if the call is refused or the upstream is down, the body is never requested."""
    echoed = Echoed(behind)
    expecting = ("Expect: 100-continue", "Content-Length: 4")
    async with api.connection() as (reader, writer), asyncio.timeout(10):
        writer.write(api.head("PUT", "x", *expecting))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert echoed.bodies == [b"body"]
    assert behind.latest.all("Expect") == []

    closed = await protected(api.party.system, "http://127.0.0.1:1/")
    for party, bearer, status in ((api, False, 400), (closed, True, 502)):
        async with party.connection() as (reader, writer), asyncio.timeout(10):
            writer.write(party.head("PUT", "x", *expecting, bearer=bearer))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(f"HTTP/1.1 {status} ".encode())
            assert b"\r\nConnection: close\r\n" in head


@pytest.mark.built_in_only("nginx refuses it itself, with 400")
@pytest.mark.parametrize("malformed", [b"zz\r\nab\r\n", b"2\r\nabc\r\n"], ids=["no-size", "wrong-size"])
async def test_a_malformed_body_is_the_caller_s_fault(
    api: Protected, behind: Upstream, monkeypatch: pytest.MonkeyPatch, malformed: bytes
) -> None:
    """A malformed chunk gets 408, and the upstream never sees a complete body."""
    monkeypatch.setattr("services.gateway.upstream.CALLER_IDLE_TIMEOUT", 0.5)
    echoed = Echoed(behind)
    async with api.connection() as (reader, writer), asyncio.timeout(10):
        writer.write(api.head("POST", "x", CHUNKED) + b"2\r\nab\r\n")
        await eventually(lambda: behind.asked and behind.latest.taken)
        writer.write(malformed)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408 ")
    assert echoed.bodies == []


@pytest.mark.built_in_only("client_body_timeout of nginx is a constant of its files")
async def test_a_body_that_stops_coming_is_not_waited_for(
    api: Protected, behind: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stalled body gets 408, and the upstream's connection is closed."""
    monkeypatch.setattr("services.gateway.upstream.CALLER_IDLE_TIMEOUT", 0.2)
    echoed = Echoed(behind)
    async with api.connection() as (reader, writer), asyncio.timeout(10):
        writer.write(api.head("POST", "x", "Content-Length: 4") + b"bo")
        response = await reader.readuntil(b"}\n")
    assert response.startswith(b"HTTP/1.1 408 ")
    assert response.endswith(b'{"error":"The request body did not arrive in time"}\n')
    await eventually(lambda: behind.latest.writer.is_closing())
    assert echoed.bodies == []


@pytest.mark.parametrize("lines", [["Content-Length: 10"], [CHUNKED]], ids=["length", "chunked"])
async def test_a_body_that_ends_early_never_looks_whole(api: Protected, behind: Upstream, lines: list[str]) -> None:
    """If the caller disconnects during the body, the upstream's connection is closed."""
    echoed = Echoed(behind)
    cut = asyncio.Event()

    async def response(asked: Asked) -> None:
        try:
            await echoed.response(asked)
        except (EOFError, ConnectionError):
            cut.set()
            raise

    behind.answering = response
    async with api.connection() as (_, writer):
        writer.write(api.head("POST", "x", *lines) + b"2\r\nab\r\n")
        await eventually(lambda: behind.asked and behind.latest.taken)
    async with asyncio.timeout(5):
        await cut.wait()
    assert echoed.bodies == []


async def test_a_response_may_come_before_the_body_is_read(api: Protected, behind: Upstream) -> None:
    """An upstream's 413 reaches a caller that is still sending."""

    async def refuse(asked: Asked) -> None:
        await anext(asked.pieces())
        await asked.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")

    behind.answering = refuse
    async with api.connection() as (reader, writer), asyncio.timeout(10):
        writer.write(api.head("POST", "x", "Content-Length: 1000000") + b"x" * 1000)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")


# To the caller


@pytest.mark.parametrize(
    ("head", "body", "arrived"),
    [
        pytest.param(b"Content-Length: 5", b"a\0b\xff\n", b"a\0b\xff\n", id="length"),
        pytest.param(
            b"Transfer-Encoding: chunked", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", id="chunked"
        ),
        pytest.param(
            b"Transfer-Encoding: chunked\r\nTrailer: X-Sum",
            b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
            b"3\r\nabc\r\n0\r\n\r\n",
            id="trailers",
        ),
        pytest.param(b"X: until-the-end", b"abc", b"3\r\nabc\r\n0\r\n\r\n", id="until-the-end"),
    ],
)
async def test_a_response_s_body_arrives_whole(
    api: Protected, behind: Upstream, head: bytes, body: bytes, arrived: bytes
) -> None:
    """A response body keeps its length, or is chunked if it has none; trailers are dropped."""
    answering = saying(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body)

    async def response(asked: Asked) -> None:
        await answering(asked)
        asked.writer.close()

    behind.answering = response
    assert (await api.raw("GET", "x")).partition(b"\r\n\r\n")[2] == arrived


async def test_a_response_is_streamed(api: Protected, behind: Upstream) -> None:
    """Headers and pieces of a response are forwarded at once, for server-sent events and long polls."""
    going_on = asyncio.Event()

    async def response(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await going_on.wait()
        await asked.send(b"6\r\ndata:1\r\n")
        await asked.gone()

    behind.answering = response
    async with api.connection() as (reader, writer), asyncio.timeout(10):
        writer.write(api.head("GET", "x"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        going_on.set()
        await reader.readuntil(b"data:1")


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"Content-Length: 10", id="length"),
        pytest.param(b"Transfer-Encoding: chunked", id="chunked"),
        pytest.param(b"X: until-the-end", id="until-the-end"),
    ],
)
async def test_a_response_that_breaks_off_is_never_ended_cleanly(
    api: Protected, behind: Upstream, head: bytes, reset: bool
) -> None:
    """If the upstream breaks off, the caller's connection is closed without a last chunk or the full length."""
    going_on = asyncio.Event()

    async def response(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n5\r\nabcde")
        await going_on.wait()
        asked.reset() if reset else asked.writer.close()

    behind.answering = response
    async with api.connection() as (reader, writer), asyncio.timeout(10):
        writer.write(api.head("GET", "x", "Connection: close"))
        await reader.readuntil(b"\r\n\r\n")
        going_on.set()
        try:
            rest = await reader.read()
        except ConnectionResetError:
            return
        if head.startswith(b"X") and not reset:
            assert rest.endswith(b"0\r\n\r\n")  # the normal end of such a response
        else:
            assert not rest.endswith(b"0\r\n\r\n")
            assert len(rest) < 20


async def test_a_slow_caller_makes_the_upstream_wait(api: Protected, behind: Upstream) -> None:
    """If the caller does not read, the upstream is not read: a few megabytes at most are buffered."""
    sent = 0

    async def pour(asked: Asked) -> None:
        nonlocal sent
        await asked.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await asked.send(b"x" * 65_536)
            sent += 65_536

    behind.answering = pour
    async with api.connection() as (reader, writer), asyncio.timeout(20):
        writer.write(api.head("GET", "x"))
        await reader.readuntil(b"\r\n\r\n")
        await stands_still(lambda: sent)
        assert 0 < sent < 32 * 1024 * 1024


async def test_a_slow_upstream_makes_the_caller_wait(api: Protected, behind: Upstream) -> None:
    """The same for request bodies."""
    sent = 0
    done = asyncio.Event()

    async def sleep(asked: Asked) -> None:
        await done.wait()
        asked.reset()

    behind.answering = sleep
    async with api.connection() as (_, writer), asyncio.timeout(20):
        writer.write(api.head("POST", "x", "Content-Length: 1000000000"))

        async def pour() -> None:
            nonlocal sent
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536

        pouring = asyncio.create_task(pour())
        await stands_still(lambda: sent)
        pouring.cancel()
        assert 0 < sent < 32 * 1024 * 1024
    done.set()


async def stands_still(measure: object) -> None:
    """The number has not changed for a while."""
    seen: list[int] = []

    def still() -> bool:
        seen.append(measure())  # type: ignore[operator]
        return seen[-1] > 0 and len(seen) > 15 and len(set(seen[-15:])) == 1

    await eventually(still)
