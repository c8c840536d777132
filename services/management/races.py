"""Changes are compare-and-set on the record's version: whoever comes second looks again."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from libs.http.errors import Taken

ATTEMPTS = 6

T = TypeVar("T")


async def settled(attempt: Callable[[], Awaitable[T | None]]) -> T:
    """The first outcome that is not None or False, which mean that another writer was first.

    The attempt reads the record anew each time. Raises Taken after ATTEMPTS.
    """
    for _ in range(ATTEMPTS):
        outcome = await attempt()
        if outcome is not None and outcome is not False:
            return outcome
    raise Taken("this is being changed by others at the same time; look again and repeat")
