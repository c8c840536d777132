"""Metrics of the pools' queues: messages that wait, and dead letters."""

from dataclasses import dataclass

from aiohttp import web

from libs.bus.port import Bus, BusUnavailable
from libs.supervision import Supervisor
from libs.telemetry import DEAD_LETTERS, QUEUE_DEPTH

INTERVAL = 15.0
"""Seconds between two measurements."""


@dataclass(frozen=True, slots=True)
class QueueDepthMetrics:
    """Gauges of the pools that this process consumes. They have no value while the broker cannot be asked."""

    bus: Bus

    def add_to(self, app: web.Application, supervisor: Supervisor) -> None:
        """Measure every INTERVAL seconds while the application runs."""
        supervisor.start_with(app, lambda: supervisor.every("queue-depth", INTERVAL, self.measure, essential=False))

    async def measure(self) -> None:
        """Set the gauges once."""
        for pool in self.bus.pools:
            try:
                waiting, dead = (await self.bus.waiting(pool), await self.bus.dead_letters(pool))
            except BusUnavailable:
                QUEUE_DEPTH.clear()
                DEAD_LETTERS.clear()
                return
            QUEUE_DEPTH.labels(pool).set(waiting)
            DEAD_LETTERS.labels(pool).set(dead)
