"""The connections to endpoints: which are kept, for how long, and what a slow one costs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from services.notifier import posting
from services.notifier.posting import Answer, Poster
from tests.eventually import eventually

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
WITHIN = 1.0


@dataclass
class Endpoint:
    """Answers every request with the same bytes, and counts who is connected."""

    answer: bytes = ANSWER
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
                writer.write(self.answer)
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
    monkeypatch.setattr(posting, "IDLE_SECONDS", 0.1)


@pytest.fixture
async def poster() -> AsyncIterator[Poster]:
    poster = Poster(WITHIN, allow_private=True)
    yield poster
    await poster.close()


async def post(poster: Poster, endpoint: Endpoint) -> Answer:
    return await poster.post(endpoint.url, {"webhook-id": "evt_1"}, b"{}")


async def sent(poster: Poster, endpoint: Endpoint) -> int:
    """The status of a webhook, whose connection is free again."""
    answer = await post(poster, endpoint)
    await answer.let_go()
    return answer.status


async def test_a_connection_is_used_again(poster: Poster, endpoint: Endpoint) -> None:
    """As many as were needed at once, and no more."""
    assert [await sent(poster, endpoint) for _ in range(3)] == [204] * 3
    assert endpoint.made == 1
    assert await asyncio.gather(*(sent(poster, endpoint) for _ in range(3))) == [204] * 3
    assert await asyncio.gather(*(sent(poster, endpoint) for _ in range(3))) == [204] * 3
    assert endpoint.made == 3


@pytest.mark.usefixtures("_short_idling")
async def test_a_connection_that_nobody_uses_is_closed(poster: Poster, endpoint: Endpoint) -> None:
    """Sooner those that were needed only once, then the one that was used on."""
    assert await asyncio.gather(*(sent(poster, endpoint) for _ in range(3))) == [204] * 3
    assert endpoint.made == 3

    async def one_is_left() -> bool:
        assert await sent(poster, endpoint) == 204
        return len(endpoint.open) == 1

    await eventually(one_is_left)
    await eventually(lambda: not endpoint.open)


async def test_closing_leaves_no_connection(poster: Poster, endpoint: Endpoint) -> None:
    """Neither one that is kept nor one that is let go of afterwards."""
    answers = [await post(poster, endpoint) for _ in range(2)]
    await answers[0].let_go()
    await poster.close()
    await answers[1].let_go()
    await eventually(lambda: not endpoint.open)
    assert endpoint.made == 2


async def test_of_endpoints_that_are_not_remembered_no_connection_is_kept(
    poster: Poster, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was used least recently is forgotten first."""
    monkeypatch.setattr(posting, "REMEMBERED", 1)
    held = await post(poster, endpoint)
    assert await sent(poster, endpoint) == 204
    async with listening() as other:
        assert await sent(poster, other) == 204
        await eventually(lambda: len(endpoint.open) == 1)
        await held.let_go()
        await eventually(lambda: not endpoint.open)
        assert len(other.open) == 1
    assert await sent(poster, endpoint) == 204
    assert endpoint.made == 3


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True, id="short"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True, id="chunked"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + bytes(20_000), False, id="long"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", False, id="to be closed"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False, id="of HTTP 1.0"),
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n", False, id="upgraded"
        ),
    ],
)
async def test_what_an_answer_costs(poster: Poster, endpoint: Endpoint, answer: bytes, kept: bool) -> None:
    """A short body is read to keep the connection; where that would take long, or cannot be, it is closed."""
    endpoint.answer = answer
    for _ in range(2):
        await sent(poster, endpoint)
    assert endpoint.made == (1 if kept else 2)
    await eventually(lambda: len(endpoint.open) == int(kept))


@pytest.mark.parametrize("kept", [False, True], ids=["on a new connection", "on a kept connection"])
async def test_an_attempt_ends_in_time(poster: Poster, endpoint: Endpoint, kept: bool) -> None:
    """However far it came, and the connection with it: what came later would be taken for the next one's answer."""
    if kept:
        assert await sent(poster, endpoint) == 204
    endpoint.answer = b"HTTP/1.1 100 Continue\r\n\r\n"
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        await post(poster, endpoint)
    assert WITHIN - 0.01 <= loop.time() - began < 5 * WITHIN
    await eventually(lambda: not endpoint.open)
    assert endpoint.made == 1


async def test_an_attempt_that_is_cut_off_takes_its_connection_along(poster: Poster, endpoint: Endpoint) -> None:
    """When the notifier stops."""
    endpoint.answer = b""
    task = asyncio.create_task(post(poster, endpoint))
    await eventually(lambda: endpoint.made == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await eventually(lambda: not endpoint.open)
