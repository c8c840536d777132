"""Many waits of the same length with one timer: a timer of its own costs each of them some microseconds."""

import asyncio
import itertools
from collections.abc import Callable

Alarm = int
"""To call it off by."""


class Alarms:
    """Calls back `seconds` after an alarm was set, unless it is off by then."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._numbers = itertools.count()
        self._set: dict[Alarm, tuple[float, Callable[[], None]]] = {}
        """In the order in which they go off."""
        self._timer: asyncio.TimerHandle | None = None

    def set(self, call: Callable[[], None]) -> Alarm:
        """Call then. The call must not raise."""
        loop = asyncio.get_running_loop()
        alarm = next(self._numbers)
        self._set[alarm] = (loop.time() + self._seconds, call)
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._ring)
        return alarm

    def off(self, alarm: Alarm) -> None:
        """Do not call. Idempotent, also where it has been called."""
        self._set.pop(alarm, None)

    def close(self) -> None:
        """All are off."""
        self._set.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _ring(self) -> None:
        loop = asyncio.get_running_loop()
        while self._set:
            alarm = next(iter(self._set))
            when, call = self._set[alarm]
            if when > loop.time():
                break
            del self._set[alarm]
            call()
        self._timer = loop.call_at(when, self._ring) if self._set else None
