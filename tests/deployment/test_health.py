"""The health check of the containers."""

import asyncio
import sys

import pytest
from aiohttp import web

from tests.ports import free_port


async def check(url: str) -> tuple[int, str]:
    """The status and the complaint of `python -m services.health`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.health", url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert out == b""
    return process.returncode or 0, err.decode()


@pytest.mark.parametrize(
    ("status", "code", "complaint"), [(200, 0, ""), (503, 1, '503 {"bus":"topology missing"}'), (302, 1, "302")]
)
async def test_only_200_is_well(status: int, code: int, complaint: str) -> None:
    """Docker sees the exit status; whoever inspects the container reads the service's own words."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text='{"bus":"topology missing"}')

    app = web.Application()
    app.router.add_get("/readyz", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    returned, said = await check(f"http://127.0.0.1:{runner.addresses[0][1]}/readyz")
    await runner.cleanup()
    assert returned == code
    assert complaint in said
    assert said.count("\n") == code


async def test_no_answer_is_not_well() -> None:
    """A service that does not listen is one line, and status 1."""
    returned, said = await check(f"http://127.0.0.1:{free_port()}/readyz")
    assert (returned, said.count("\n")) == (1, 1)
