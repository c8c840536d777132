"""Connections to webhook endpoints: reuse, limits, and slow responses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from libs.runtime import utc_now
from services.notifier import client as client_module
from services.notifier.client import Response, WebhookClient
from tests.eventually import eventually

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
WITHIN = 1.0


@dataclass
class Endpoint:
    """Responds with the same bytes to every request, and counts connections."""

    response: bytes = ANSWER
    port: int = 0
    made: int = 0
    open: set[int] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.made
        self.made += 1
        self.open.add(number)
        try:
            while await reader.readuntil(b"{}"):
                writer.write(self.response)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open.discard(number)
            writer.close()


@asynccontextmanager
async def listening() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    async with await asyncio.start_server(endpoint.serve, "127.0.0.1", 0) as server:
        endpoint.port = server.sockets[0].getsockname()[1]
        yield endpoint


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with listening() as endpoint:
        yield endpoint


@pytest.fixture
def _short_idling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "KEEPALIVE_SECONDS", 0.1)


@pytest.fixture
async def client() -> AsyncIterator[WebhookClient]:
    client = WebhookClient(WITHIN, utc_now, allow_private=True)
    yield client
    await client.close()


async def post(client: WebhookClient, endpoint: Endpoint) -> Response:
    return await client.post(endpoint.url, {"webhook-id": "evt_1"}, b"{}")


async def sent(client: WebhookClient, endpoint: Endpoint) -> int:
    """Send a webhook and return the status, with its connection released."""
    response = await post(client, endpoint)
    await response.release()
    return response.status


async def test_a_connection_is_used_again(client: WebhookClient, endpoint: Endpoint) -> None:
    """Connections are reused; no more are opened than were needed at once."""
    assert [await sent(client, endpoint) for _ in range(3)] == [204] * 3
    assert endpoint.made == 1
    assert await asyncio.gather(*(sent(client, endpoint) for _ in range(3))) == [204] * 3
    assert await asyncio.gather(*(sent(client, endpoint) for _ in range(3))) == [204] * 3
    assert endpoint.made == 3


@pytest.mark.usefixtures("_short_idling")
async def test_an_idle_connection_is_closed(client: WebhookClient, endpoint: Endpoint) -> None:
    """Idle connections are closed after the keep-alive time."""
    assert await asyncio.gather(*(sent(client, endpoint) for _ in range(3))) == [204] * 3
    assert endpoint.made == 3
    await eventually(lambda: not endpoint.open)


async def test_closing_leaves_no_connection(client: WebhookClient, endpoint: Endpoint) -> None:
    """Closing the client closes idle connections, and those released later."""
    assert await asyncio.gather(*(sent(client, endpoint) for _ in range(2))) == [204] * 2
    endpoint.response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"
    response = await post(client, endpoint)
    await client.close()
    await response.release()
    await eventually(lambda: not endpoint.open)
    assert endpoint.made == 2


async def test_no_more_connections_are_kept_than_allowed(endpoint: Endpoint) -> None:
    """The number of idle connections is limited, to save file descriptors."""
    client = WebhookClient(WITHIN, utc_now, allow_private=True, max_kept=1)
    try:
        assert await sent(client, endpoint) == 204
        async with listening() as other:
            assert await sent(client, other) == 204
            await eventually(lambda: len(endpoint.open) + len(other.open) == 1)
            assert await asyncio.gather(*(sent(client, endpoint) for _ in range(3))) == [204] * 3
            await eventually(lambda: len(endpoint.open) <= 1)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("response", "kept"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True, id="short"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True, id="chunked"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000), False, id="long"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", False, id="to be closed"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False, id="of HTTP 1.0"),
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n", False, id="upgraded"
        ),
    ],
)
async def test_a_connection_is_kept_if_the_body_is_short(
    client: WebhookClient, endpoint: Endpoint, response: bytes, kept: bool
) -> None:
    """A short body is read to keep the connection; for a long or endless one it is closed."""
    endpoint.response = response
    for _ in range(2):
        await sent(client, endpoint)
    assert endpoint.made == (1 if kept else 2)
    await eventually(lambda: len(endpoint.open) == int(kept))


@pytest.mark.parametrize("kept", [False, True], ids=["on a new connection", "on a kept connection"])
async def test_an_attempt_ends_in_time(client: WebhookClient, endpoint: Endpoint, kept: bool) -> None:
    """A timed-out attempt closes its connection, so that a late response is not taken for the next one."""
    if kept:
        assert await sent(client, endpoint) == 204
    endpoint.response = b"HTTP/1.1 100 Continue\r\n\r\n"
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        await post(client, endpoint)
    assert WITHIN - 0.01 <= loop.time() - began < 5 * WITHIN
    await eventually(lambda: not endpoint.open)
    assert endpoint.made == 1


async def test_a_cut_off_attempt_closes_its_connection(client: WebhookClient, endpoint: Endpoint) -> None:
    """A cancelled attempt closes its connection."""
    endpoint.response = b""
    task = asyncio.create_task(post(client, endpoint))
    await eventually(lambda: endpoint.made == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await eventually(lambda: not endpoint.open)
