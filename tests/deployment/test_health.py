"""The containers' health check."""

import asyncio
import sys

import pytest
from aiohttp import web

from tests.ports import free_port


async def check(*words: str) -> tuple[int, str]:
    """Exit status and output of `python -m services.health`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.health", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert not (out and err)
    return process.returncode or 0, (out or err).decode()


@pytest.mark.parametrize(
    ("status", "code", "complaint"), [(200, 0, ""), (503, 1, '503 {"bus":"topology missing"}'), (302, 1, "302")]
)
async def test_only_status_200_is_healthy(status: int, code: int, complaint: str) -> None:
    """Only 200 is healthy. Docker sees the exit status; the output is the service's own text."""
    returned, said = await checked(status, '{"bus":"topology missing"}')
    assert returned == code
    assert complaint in said
    assert said.count("\n") == code


async def test_b5_a_degraded_service_is_healthy_and_says_why() -> None:
    """Without RabbitMQ a container stays healthy; the output says why the service is degraded."""
    returned, said = await checked(200, '{"status":"degraded","bus":"not connected"}')
    assert returned == 0
    assert '"bus":"not connected"' in said


async def checked(status: int, text: str) -> tuple[int, str]:
    """Run the check against a service that responds like this."""

    async def response(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_get("/readyz", response)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        return await check(f"http://127.0.0.1:{runner.addresses[0][1]}/readyz")
    finally:
        await runner.cleanup()


async def test_no_response_is_unhealthy() -> None:
    """If the service does not listen, the check prints one line and exits with 1."""
    returned, said = await check(f"http://127.0.0.1:{free_port()}/readyz")
    assert (returned, said.count("\n")) == (1, 1)


async def test_with_wait_a_service_that_becomes_ready_is_healthy() -> None:
    """The first check of a container that is still starting ends when the service is ready."""
    answers = [503, 503, 200]

    async def response(_: web.Request) -> web.Response:
        return web.Response(status=answers.pop(0), text="{}")

    app = web.Application()
    app.router.add_get("/readyz", response)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/readyz"
        assert await check("--wait=60", url) == (0, "")
        assert answers == []
    finally:
        await runner.cleanup()


async def test_with_wait_the_last_answer_counts() -> None:
    """When the time is over, the check says why the service is not ready."""
    returned, said = await check("--wait=0.5", f"http://127.0.0.1:{free_port()}/readyz")
    assert (returned, said.count("\n")) == (1, 1)


@pytest.mark.parametrize("words", [(), ("--wait=6",), ("--wait=x", "http://h/"), ("--other=1", "http://h/")])
async def test_a_wrong_call_says_how_it_is_called(words: tuple[str, ...]) -> None:
    """One line, and the status of an unhealthy container."""
    returned, said = await check(*words)
    assert (returned, said) == (1, "usage: python -m services.health [--wait=SECONDS] URL\n")
