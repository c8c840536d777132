"""Upstreams that do not answer, or not in time, and callers that do not wait for them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.gateway.proxy import PASSES
from tests.builders import Answer
from tests.eventually import eventually
from tests.ports import free_port
from tests.services.system import System, open_system
from tests.services.upstreams import OK, Asked, Protected, Upstream, protected, saying, upstream


@pytest.fixture(scope="module", name="hasty")
async def _hasty(mongodb_url: str) -> AsyncIterator[System]:
    """A system whose gateway has little patience with upstreams."""
    async with open_system(mongodb_url, upstream_timeout=0.3, upstream_connect_timeout=0.3) as system:
        yield system


@pytest.fixture(name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


@pytest.fixture(name="api")
async def _api(system: System, behind: Upstream) -> Protected:
    return await protected(system, behind.url)


def failed(answer: Answer, status: int, message: str) -> bool:
    """Whether this is the gateway's own answer: its shape, and for nobody's cache."""
    assert (answer.status, answer.body) == (status, {"error": message}), answer.raw
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "WWW-Authenticate" not in answer.headers
    return True


# No answer


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://127.0.0.1:<free>/", id="nobody-listens"),
        pytest.param("http://no-such-host.invalid/", id="no-such-host"),
    ],
)
async def test_an_upstream_that_cannot_be_reached_is_502(system: System, url: str) -> None:
    """In the gateway's words."""
    api = await protected(system, url.replace("<free>", str(free_port())))
    answer = await api("POST", "x", data=b"body")
    assert failed(answer, 502, "The upstream cannot be reached")


async def test_an_upstream_without_tls_is_not_asked_in_the_clear(system: System) -> None:
    """`https:` means it."""
    taken: list[bytes] = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.read(65_536))
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    api = await protected(system, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    answer = await api("POST", "x", data=b"body")
    server.close()
    assert failed(answer, 502, "The upstream cannot be reached")
    assert taken
    assert all(said.startswith(b"\x16\x03") for said in taken)  # a TLS handshake


async def test_an_upstream_that_does_not_take_a_connection_is_504(hasty: System) -> None:
    """`upstream_connect_timeout`: an address to which packets go and from which none come."""
    api = await protected(hasty, "http://192.0.2.1/")  # for documentation only (RFC 5737)
    answer = await api("GET", "x")
    assert answer.status in {502, 504}  # where there is no route at all it is known at once
    assert set(answer.body) == {"error"}


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_an_upstream_that_breaks_off_before_it_answers_is_502(
    api: Protected, behind: Upstream, method: str, reset: bool
) -> None:
    """And what may have been done is not done again (RFC 9110 §9.2.2)."""

    async def break_off(asked: Asked) -> None:
        asked.reset() if reset else asked.writer.close()
        raise EOFError

    behind.answering = break_off
    assert failed(await api(method, "x", data=b"body"), 502, "The upstream broke off before it answered")
    assert len(behind.asked) == 1


async def test_an_answer_that_is_no_http_is_502(api: Protected, behind: Upstream) -> None:
    """And nothing of it gets out."""
    behind.answering = saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    assert failed(await api("POST", "x"), 502, "The upstream's answer is not HTTP")


async def test_a_switch_that_nobody_asked_for_is_502(api: Protected, behind: Upstream) -> None:
    """101 answers an Upgrade, and nothing else."""
    behind.answering = saying(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    assert failed(await api("GET", "x"), 502, "The upstream's answer is not HTTP")


async def test_an_upstream_that_says_nothing_is_504(hasty: System) -> None:
    """`upstream_timeout`: the upstream's connection is ended, too."""

    async def sleep(asked: Asked) -> None:
        await asked.body()
        await asked.gone()
        raise EOFError

    async with upstream(sleep) as behind:
        api = await protected(hasty, behind.url)
        for request in ({}, {"data": b"body"}):
            assert failed(await api("PUT", "x", **request), 504, "The upstream did not answer in time")
        await eventually(lambda: all(asked.writer.is_closing() for asked in behind.asked))


async def test_an_upstream_that_takes_nothing_is_504(hasty: System) -> None:
    """The time counts while a body cannot be sent on."""

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


async def test_the_time_counts_for_the_beginning_only(hasty: System) -> None:
    """A caller that sends slowly, and an answer that comes slowly, may take longer than the upstream's silence."""

    async def answer(asked: Asked) -> None:
        await asked.body()
        await asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await asyncio.sleep(0.6)
        await asked.send(b"k")

    async with upstream(answer) as behind:
        api = await protected(hasty, behind.url)

        async def slowly() -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.sleep(0.6)
            yield b"b"

        answered = await api("POST", "x", data=slowly())
    assert (answered.status, answered.raw) == (200, b"ok")


# Connections that are kept


async def test_a_connection_serves_many_calls(api: Protected, behind: Upstream) -> None:
    """Of different APIs, too."""
    other = await protected(api.party.system, behind.url)
    for party in (api, other, api):
        assert (await party("GET", "x")).status == 200
    assert behind.connections == 1


@pytest.mark.parametrize(
    ("method", "body", "again"),
    [("GET", None, True), ("DELETE", None, True), ("POST", None, False), ("PATCH", b"x", False), ("PUT", b"x", False)],
)
async def test_a_stale_connection_is_nobody_s_fault(
    api: Protected, behind: Upstream, method: str, body: bytes | None, again: bool
) -> None:
    """What may be done twice is sent again, once, on a new one; a body that has begun is not sent again."""
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
async def test_what_nobody_asked_for_reaches_nobody(api: Protected, behind: Upstream, pause: float) -> None:
    """An answer too many is not the answer to the next caller, whoever that is."""

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
    assert behind.connections == 2


async def test_an_upstream_that_speaks_first_is_502(api: Protected, behind: Upstream) -> None:
    """It speaks something else."""
    behind.greeting = b"220 mail.example ESMTP\r\n"
    for _ in range(2):
        assert failed(await api("GET", "x"), 502, "The upstream's answer is not HTTP")
    assert behind.connections == 2


# Callers that leave


@pytest.mark.parametrize("when", ["before the answer", "in the middle of it"])
async def test_a_caller_that_leaves_takes_its_call_along(api: Protected, behind: Upstream, when: str) -> None:
    """The upstream's connection is closed soon, also while nothing passes on either."""
    left = asyncio.Event()

    async def answer(asked: Asked) -> None:
        if when != "before the answer":
            await asked.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await asked.gone()
        left.set()
        raise EOFError

    behind.answering = answer
    async with api.connection() as (reader, writer):
        writer.write(api.head("GET", "x"))
        await eventually(lambda: len(behind.asked) == 1)
        if when != "before the answer":
            await reader.readuntil(b"1\r\nx\r\n")
        assert not left.is_set()
    async with asyncio.timeout(5):
        await left.wait()


# Circles


async def test_a_call_that_comes_again_and_again_is_stopped(system: System, behind: Upstream) -> None:
    """An upstream that leads back to the gateway: 508 (RFC 5842 §7.2) instead of every connection there is."""
    api = await protected(system, behind.url)
    assert (await api.raw("GET", "x", "Via: " + ", ".join(["1.1 tokenwire"] * (PASSES - 1)))).startswith(
        b"HTTP/1.1 200 "
    )
    answer = await api.raw("GET", "x", *["Via: 1.1 tokenwire"] * PASSES)
    assert answer.startswith(b"HTTP/1.1 508 ")
    assert answer.endswith(b'{"error":"The call came here before: the upstream leads back"}\n')
    assert len(behind.asked) == 1
