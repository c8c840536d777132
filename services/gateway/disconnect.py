"""Cancels a call when its caller disconnects, so that the upstream does no unnecessary work."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

CHECK_EVERY = 0.25
"""Seconds between checks. aiohttp does not tell a handler that the connection was closed, so it is polled."""


@contextmanager
def cancel_on_disconnect(request: web.Request) -> Iterator[None]:
    """Cancel the block within CHECK_EVERY seconds after the caller has disconnected."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    timer: asyncio.TimerHandle

    def check() -> None:
        nonlocal timer
        if request.transport is None and task is not None:
            task.cancel()
        else:
            timer = loop.call_later(CHECK_EVERY, check)

    timer = loop.call_later(CHECK_EVERY, check)
    try:
        yield
    finally:
        timer.cancel()
