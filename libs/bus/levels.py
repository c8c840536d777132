"""How full the pools' queues are, as metrics of whoever consumes them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web

from libs.bus.port import Bus, BusUnavailable
from libs.telemetry import MESSAGES_PARKED, MESSAGES_WAITING

EVERY = 15.0


@dataclass(frozen=True, slots=True)
class Levels:
    """The gauges of the pools that this process subscribes to; without a broker there are none."""

    bus: Bus

    def add_to(self, app: web.Application) -> None:
        """Measure while the application runs."""
        app.cleanup_ctx.append(self._run)

    async def measure(self) -> None:
        """The gauges say how it is now."""
        for pool in self.bus.pools:
            try:
                waiting, parked = await self.bus.waiting(pool), await self.bus.parked(pool)
            except BusUnavailable:
                MESSAGES_WAITING.clear()
                MESSAGES_PARKED.clear()
                return
            MESSAGES_WAITING.labels(pool).set(waiting)
            MESSAGES_PARKED.labels(pool).set(parked)

    async def _run(self, _: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._forever(), name="levels")
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self.measure()
