"""Time that stands still until a test moves it."""

import asyncio
from datetime import UTC, datetime, timedelta


class Clock:
    """What `now` and `sleep` of a process can be; all who sleep wake when their time has come."""

    def __init__(self, start: datetime = datetime(2026, 3, 1, 12, tzinfo=UTC)) -> None:
        self._now = start
        self._moved = asyncio.Condition()

    def now(self) -> datetime:
        """The time."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Return when the clock is so much further."""
        until = self._now + timedelta(seconds=seconds)
        async with self._moved:
            await self._moved.wait_for(lambda: self._now >= until)

    async def move(self, by: timedelta) -> None:
        """It is later now."""
        await self.move_to(self._now + by)

    async def move_to(self, moment: datetime) -> None:
        """It is then now; never earlier than before."""
        async with self._moved:
            self._now = max(self._now, moment)
            self._moved.notify_all()
