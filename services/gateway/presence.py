"""Is the caller still there? A call whose caller has gone is given up."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

LOOK_EVERY = 0.25
"""Seconds. The server tells nobody that a connection ended; only a read or a write would notice."""


@contextmanager
def given_up_without_caller(request: web.Request) -> Iterator[None]:
    """What runs inside is cancelled soon after the caller's connection ended."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer
        if request.transport is None and task is not None:
            task.cancel()
        else:
            timer = loop.call_later(LOOK_EVERY, look)

    timer = loop.call_later(LOOK_EVERY, look)
    try:
        yield
    finally:
        timer.cancel()
