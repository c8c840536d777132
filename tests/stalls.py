"""Notices when the machine stands still for a while. A service may then refuse with 503 what it cannot finish in time,
so a test whose point is that nothing is refused must not blame the service for it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo.errors import PyMongoError

STALL = 1.0
"""Seconds. A loop that is idle wakes up, and MongoDB stores a tiny document, in a hundredth of this; a service has
several times as long for a request."""
INTERVAL = 0.05
"""Seconds between two measurements."""
TRIES = 5

T = TypeVar("T")


@dataclass
class Stalls:
    """The longest stall so far, in seconds."""

    longest: float = 0.0
    _awake: float = field(default_factory=time.monotonic)

    def stalled(self) -> bool:
        """Whether the machine stood still, up to now, for longer than services can be expected to bear."""
        return max(self.longest, self._late()) > STALL

    def woke(self) -> None:
        """This process runs, and was to do so every INTERVAL."""
        self.longest, self._awake = max(self.longest, self._late()), time.monotonic()

    def _late(self) -> float:
        return time.monotonic() - self._awake - INTERVAL


@asynccontextmanager
async def watching_for_stalls(
    collection: "AsyncIOMotorCollection[dict[str, Any]] | None" = None,
) -> AsyncIterator[Stalls]:
    """Measure, until the block ends, how late this process wakes up, and how long a write to this collection takes."""
    found = Stalls()
    tasks = [asyncio.create_task(_late_wakes(found), name="stalls")]
    if collection is not None:
        tasks.append(asyncio.create_task(_slow_writes(found, collection), name="slow-writes"))
    try:
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        found.woke()


async def undisturbed(scenario: Callable[[], Awaitable[T]]) -> T:
    """The scenario's result. If it fails and the machine stalled meanwhile, it is repeated, TRIES times in all."""
    for _ in range(TRIES - 1):
        async with watching_for_stalls() as stalls:
            try:
                return await scenario()
            except AssertionError:
                if not stalls.stalled():
                    raise
    return await scenario()


async def _late_wakes(found: Stalls) -> None:
    while True:
        await asyncio.sleep(INTERVAL)
        found.woke()


async def _slow_writes(found: Stalls, collection: "AsyncIOMotorCollection[dict[str, Any]]") -> None:
    while True:
        began = time.monotonic()
        try:
            await collection.update_one({"_id": "written"}, {"$inc": {"times": 1}}, upsert=True)
        except PyMongoError:
            await asyncio.sleep(INTERVAL)
        finally:
            found.longest = max(found.longest, time.monotonic() - began)
        await asyncio.sleep(0.1)
