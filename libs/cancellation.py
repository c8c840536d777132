"""Ending tasks for certain: a single cancellation can be lost."""

import asyncio
from typing import Any

AGAIN_AFTER = 2.0
"""Seconds that a cancelled task has for its clean-up before it is cancelled again."""


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks that still run, and wait until all have ended; their exceptions are not raised.

    A task that goes on is cancelled again. `asyncio.wait_for` of Python 3.11, which MongoDB's driver calls for every
    command, drops a cancellation that arrives just as what it waits for is done (CPython issue 86296).
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=AGAIN_AFTER)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # or asyncio would log it as never retrieved
