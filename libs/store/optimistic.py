"""Optimistic concurrency: a record is read, changed, and written only if its version is still the one that was read.

If another writer was first, the write finds another version and changes nothing; then the record is read and the change
decided again. No lock is held, so a process that dies in between blocks no other.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

ATTEMPTS = 6
"""Losing so often in a row takes as many other successful changes of the same record within milliseconds."""

T = TypeVar("T")


async def retry_on_conflict(
    attempt: Callable[[], Awaitable[T | None]], *, exhausted: Callable[[], Exception], attempts: int = ATTEMPTS
) -> T:
    """The result of the first attempt that was not overtaken by another writer.

    `attempt` reads the record again each time, and returns None or False if its compare-and-set found another version.
    Raises what `exhausted` returns after that many attempts.
    """
    for _ in range(attempts):
        outcome = await attempt()
        if outcome is not None and outcome is not False:
            return outcome
    raise exhausted()
