"""A clock that stands still until a test advances it."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta


class Clock:
    """Replaces `now` and `sleep` of a process. Sleepers wake when the clock reaches their time."""

    def __init__(self, start: datetime = datetime(2026, 3, 1, 12, tzinfo=UTC)) -> None:
        self._now = start
        self._moved = asyncio.Condition()

    def now(self) -> datetime:
        """The current time of this clock."""
        return self._now

    def sleep(self, seconds: float) -> Coroutine[None, None, None]:
        """Return when the clock has advanced by this much since the call, even if it is awaited later."""
        return self._until(self._now + timedelta(seconds=seconds))

    async def _until(self, until: datetime) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self._now >= until)

    async def move(self, by: timedelta) -> None:
        """Advance the clock by this much."""
        await self.move_to(self._now + by)

    async def move_to(self, moment: datetime) -> None:
        """Set the clock; it never goes back."""
        async with self._moved:
            self._now = max(self._now, moment)
            self._moved.notify_all()
