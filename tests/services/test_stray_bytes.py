"""Servers that send extra bytes: the response read counts, and no caller gets another's bytes."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from libs.outbound.connector import MAX_HEADER_BYTES, MAX_HEADERS
from libs.outbound.ssrf import DeniedAddress
from libs.runtime import utc_now
from services.notifier.client import WebhookClient
from tests.eventually import eventually
from tests.services.system import System
from tests.services.upstreams import Asked, Protected, Responding, Upstream, protected, upstream

CLOSE = b"Connection: close\r\n"
STRAY = [
    pytest.param("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n" + CLOSE, b"{}", id="204-length-close"),
    pytest.param("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n", b"{}", id="204-length-kept"),
    pytest.param("GET", b"HTTP/1.1 204 No Content\r\n", b"{}", id="204-no-length"),
    pytest.param("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n", id="204-no-chunks"),
    pytest.param(
        "GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n", id="204-chunked"
    ),
    pytest.param("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n", b"test", id="304-length"),
    pytest.param("GET", b"HTTP/1.1 304 Not Modified\r\n", b"<html></html>", id="304-no-length"),
    pytest.param("GET", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n", b"{}", id="103-204"),
    pytest.param("GET", b"\r\nHTTP/1.1 204 No Content\r\n", b"{}", id="blank-line-204"),
    pytest.param("GET", b"HTTP/1.1 204\n", b"{}", id="204-bare-line-feeds"),
    pytest.param("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + CLOSE, b"hello", id="HEAD-length-close"),
    pytest.param("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", b"hello", id="HEAD-length-kept"),
    pytest.param("HEAD", b"HTTP/1.1 200 OK\r\n", b"hello", id="HEAD-no-length"),
    pytest.param(
        "HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", id="HEAD-chunked"
    ),
    pytest.param("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", b"okEXTRA", id="200-longer-than-announced"),
    pytest.param("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", b"EXTRA", id="200-empty-and-more"),
    pytest.param("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", b"ok\r\n", id="200-line-break-after-the-body"),
]


def saying(head: bytes, stray: bytes, pause: float) -> Responding:
    """Respond, and send extra bytes in the same segment or a moment later."""

    async def response(asked: Asked) -> None:
        await asked.body()
        if pause:
            await asked.send(head + b"\r\n")
            await asyncio.sleep(pause)
            await asked.send(stray)
        else:
            await asked.send(head + b"\r\n" + stray)

    return response


def status_of(head: bytes) -> int:
    """The final response's status."""
    return int(head.rstrip().rpartition(b"HTTP/1.1 ")[2][:3])


@pytest.fixture(name="behind", scope="module")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


@pytest.fixture(name="api", scope="module")
async def _api(system: System, behind: Upstream) -> Protected:
    return await protected(system, behind.url)


ANOTHER_ANSWER = pytest.param(
    "GET", b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 500 Oops\r\n\r\n", id="204-and-another-answer"
)
"""Extra bytes that must not reach a caller. An endpoint that does this to itself gets the webhook again."""


@pytest.mark.parametrize("pause", [0.0, 0.03], ids=["at-once", "later"])
@pytest.mark.parametrize(("method", "head", "stray"), [*STRAY, ANOTHER_ANSWER])
async def test_d2_an_upstream_s_response_counts_whatever_follows_it(
    api: Protected, behind: Upstream, method: str, head: bytes, stray: bytes, pause: float
) -> None:
    """Each of three calls in a row gets its own response: neither 502 nor leftover bytes."""
    behind.answering = saying(head, stray, pause)
    responses = [(await api.raw(method, "x")).split(b"\r\n")[0] for _ in range(3)]
    assert [int(line.split(b" ")[1]) for line in responses] == [status_of(head)] * 3
    # Otherwise the next test's first call could get what this one's upstream sends late.
    await eventually(lambda: behind.in_progress == 0)


@pytest.mark.parametrize("pause", [0.0, 0.03], ids=["at-once", "later"])
@pytest.mark.parametrize(("head", "stray"), [param.values[1:] for param in STRAY if param.values[0] == "GET"])
async def test_d2_a_webhook_has_arrived_whatever_follows_the_status(
    behind: Upstream, head: bytes, stray: bytes, pause: float
) -> None:
    """Each of three webhooks on kept connections gets its own status."""
    behind.answering = saying(head, stray, pause)
    assert await _statuses(behind, 3) == [status_of(head)] * 3
    await eventually(lambda: behind.in_progress == 0)


TOO_LARGE = [
    pytest.param(b"X-Trace: " + b"x" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\n", id="header-beyond-the-limit"),
    pytest.param(b"X-Trace: " + b"x" * 1_000_000 + b"\r\n\r\n", id="header-of-a-megabyte"),
    pytest.param(b"".join(b"X-%d: y\r\n" % n for n in range(MAX_HEADERS + 1)) + b"\r\n", id="too-many-headers"),
    pytest.param(b"not a header\r\n\r\n", id="no-header"),
    pytest.param(b"Content-Length: one\r\n\r\n", id="length-that-is-no-number"),
    pytest.param(b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two-lengths"),
    pytest.param(b"Content-Length: 3\r\n\r\n{", id="body-cut-short"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", id="chunk-without-size"),
    pytest.param(b"X-Unfinished: ", id="head-cut-short"),
    pytest.param(b"", id="nothing-but-the-status"),
]


@pytest.mark.parametrize("rest", TOO_LARGE)
async def test_d3_a_webhook_has_arrived_when_its_status_was_read(behind: Upstream, rest: bytes) -> None:
    """A 2xx status counts, whatever follows."""

    async def response(asked: Asked) -> None:
        await asked.body()
        await asked.send(b"HTTP/1.1 202 Accepted\r\n" + rest)
        asked.writer.close()

    behind.answering = response
    assert await _statuses(behind, 2) == [202, 202]


async def test_d3_a_head_that_never_ends_does_not_undo_its_status(behind: Upstream) -> None:
    """A 200 in time counts even if the head never ends, so the webhook is not repeated."""

    async def response(asked: Asked) -> None:
        await asked.body()
        await asked.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        await asked.gone()

    behind.answering = response
    assert await _statuses(behind, 1) == [200]


@pytest.mark.parametrize(
    "header", [b"X-Long: " + b"y" * (MAX_HEADER_BYTES - 100), b"\r\n".join(b"X-%d: y" % n for n in range(200))]
)
async def test_d3_large_heads_within_the_gateway_s_limits_are_read(behind: Upstream, header: bytes) -> None:
    """Heads up to the gateway's limit are accepted for webhooks, too, and their connections kept."""

    async def response(asked: Asked) -> None:
        await asked.body()
        await asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + header + b"\r\n\r\n")

    behind.answering = response
    before = behind.connections
    assert await _statuses(behind, 3) == [200] * 3
    assert behind.connections == before + 1


async def _statuses(behind: Upstream, number: int) -> list[int]:
    """Statuses of this many webhooks in a row, over one client's connections."""
    client = WebhookClient(1.0, utc_now, allow_private=True)
    try:
        statuses = []
        for _ in range(number):
            response = await client.post(f"{behind.url}/hook", {"webhook-id": "evt_1"}, b"{}")
            await response.release()
            statuses.append(response.status)
        return statuses
    finally:
        await client.close()


@pytest.mark.parametrize(
    "target",
    [
        "/invoke?api-version=1&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=aB%2Bc%3D",
        "/hooks/a%3Ab/c%2Fd",
        "/h%28x%29?x=%21%27&y=%40z",
        "/h?a=b+c%20d",
        "/h?q=%7Etilde&r=[1]",
        "/x/../y/./z",
        "//double//slash",
        "/%7Euser/%41%2e%2e",
        "/h?url=https%3A%2F%2Fx.example.test%2F%3Fa%3Db%26c",
        "/h?empty=&flag&=x&&",
        "/h;v=1/a@b:c",
        "?only=query",
        "/h?q=a?b/c",
    ],
)
async def test_d4_a_webhook_s_url_is_asked_byte_for_byte(behind: Upstream, target: str) -> None:
    """A signed URL is requested byte for byte as registered."""

    async def response(asked: Asked) -> None:
        await asked.body()
        await asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    behind.answering = response
    client = WebhookClient(1.0, utc_now, allow_private=True)
    try:
        await (await client.post(f"{behind.url}{target}#fragment", {"webhook-id": "evt_1"}, b"{}")).release()
    finally:
        await client.close()
    assert behind.latest.target == (target if target.startswith("/") else f"/{target}")
    assert behind.latest.one("Host") == f"127.0.0.1:{behind.port}"


async def test_a18_a_webhook_obeys_the_denylist_of_the_upstreams(behind: Upstream) -> None:
    """The denylist for upstreams applies to webhooks too, even where private addresses are allowed."""
    client = WebhookClient(1.0, utc_now, allow_private=True, deny="127.0.0.0/8")
    try:
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await client.post(f"{behind.url}/hook", {"webhook-id": "evt_1"}, b"{}")
    finally:
        await client.close()
    assert isinstance(refused.value.os_error, DeniedAddress)
    assert "TOKENWIRE_UPSTREAM_DENY" in str(refused.value.os_error)
