"""Metrics of the process as the event loop and the container see it: how late timers run, and the memory limit."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from libs.supervision import Supervisor
from libs.telemetry import EVENT_LOOP_LAG, MEMORY_LIMIT

EVERY = 1.0
"""Seconds between two measurements of the lag."""
REMEMBERED = 30
"""Measurements of which the gauge shows the worst: more than one scrape interval, so that none is missed."""
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass
class EventLoopLag:
    """How much later than asked the event loop ran a timer: requests wait at least as long before they are read."""

    every: float = EVERY
    _lags: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def add_to(self, app: web.Application, supervisor: Supervisor) -> None:
        """Measure while the application runs, and report the memory limit."""
        MEMORY_LIMIT.set(memory_limit() or 0)
        supervisor.start_with(app, lambda: supervisor.start("event-loop-lag", self.watch, essential=False))

    async def watch(self) -> None:
        """Measure forever; the gauge has the worst of the last REMEMBERED measurements."""
        while True:
            due = time.monotonic() + self.every
            await asyncio.sleep(self.every)
            self._lags.append(max(0.0, time.monotonic() - due))
            EVENT_LOOP_LAG.set(max(self._lags))


def memory_limit(file: Path = _CGROUP_LIMIT) -> int | None:
    """The memory limit of this container in bytes (cgroup v2), or None without one."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
