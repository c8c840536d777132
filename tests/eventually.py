"""Wait for a condition, with a time limit, instead of sleeping for a fixed time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(predicate: Callable[[], Awaitable[T | None]], within: float = 60.0, every: float = 0.02) -> T: ...
@overload
async def eventually(predicate: Callable[[], T | None], within: float = 60.0, every: float = 0.02) -> T: ...
async def eventually(predicate: Callable[[], object], within: float = 60.0, every: float = 0.02) -> object:
    """Return the first truthy value of `predicate`, sync or async. An AssertionError inside it means "not yet".

    After `within` seconds, raise the last AssertionError, or one that shows the last value.
    """
    deadline = time.monotonic() + within
    while True:
        failure: AssertionError | None = None
        value: object = None
        try:
            outcome = predicate()
            value = await outcome if inspect.isawaitable(outcome) else outcome
        except AssertionError as not_yet:
            failure = not_yet
        if failure is None and value:
            return value
        if time.monotonic() >= deadline:
            raise failure or AssertionError(f"not true within {within} s; last value {value!r}")
        await asyncio.sleep(every)
