"""The fast path of complete responses, and what happens on another version of aiohttp."""

import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import ModuleType

import aiohttp
import pytest
import structlog
from aiohttp import web
from structlog.testing import capture_logs

from libs.http import aiohttp_version, responses

BODIES = [b"{}", b'{"key":"value"}', b"x" * 100_000]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is on a version of aiohttp that it was not tested with."""
    monkeypatch.setattr(aiohttp_version, "IS_TESTED", False)
    spec = importlib.util.find_spec("libs.http.responses")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def serving(*handlers: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[int]:
    """Serve the handlers at /0, /1, …; the port."""
    app = web.Application()
    for number, handler in enumerate(handlers):
        app.router.add_get(f"/{number}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def test_the_fast_path_is_on_with_the_pinned_aiohttp() -> None:
    """Whoever updates aiohttp has to look at the uses of its private attributes, and then change TESTED_VERSION."""
    assert aiohttp.__version__ == aiohttp_version.TESTED_VERSION
    assert "_start" in vars(responses.CompleteResponse)


def test_the_fast_path_is_off_with_another_aiohttp(elsewhere: ModuleType) -> None:
    """Nothing private of an unknown version is touched."""
    assert "_start" not in vars(elsewhere.CompleteResponse)


@pytest.mark.parametrize("status", [200, 401, 503])
@pytest.mark.parametrize("body", BODIES, ids=["empty-object", "small", "large"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_both_paths_send_the_same_bytes(elsewhere: ModuleType, method: str, body: bytes, status: int) -> None:
    """Status line, headers in the same number and with the same values, and body."""

    async def fast(_: web.Request) -> web.Response:
        return responses.json_bytes(body, status, {**responses.NO_STORE, "X-Extra": "yes"})

    async def slow(_: web.Request) -> web.Response:
        response: web.Response = elsewhere.json_bytes(body, status, {**responses.NO_STORE, "X-Extra": "yes"})
        return response

    async with serving(fast, slow) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        seen = []
        for path in ("/0", "/1"):
            async with session.request(method, path) as response:
                headers = {name: value for name, value in response.headers.items() if name not in {"Date", "Server"}}
                seen.append((response.status, response.reason, headers, await response.read()))
    assert seen[0] == seen[1]
    assert seen[0][3] == (b"" if method == "HEAD" else body + b"\n")


def test_another_version_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of a service names both versions when it starts."""
    monkeypatch.setattr(aiohttp_version, "log", structlog.get_logger("process"))
    with capture_logs() as lines:
        aiohttp_version.warn_if_untested()
        assert lines == []
        monkeypatch.setattr(aiohttp_version, "IS_TESTED", False)
        aiohttp_version.warn_if_untested()
    assert [line["event"] for line in lines] == ["aiohttp_version_untested"]
