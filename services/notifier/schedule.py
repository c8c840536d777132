"""When a failed delivery is tried again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

RUNGS = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=10),
)
"""The pauses before the second and every later attempt."""
JITTER = 0.2
SLACK = timedelta(hours=1)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Ladder:
    """The pauses between attempts; each is drawn from `jitter` around its rung."""

    rungs: Sequence[timedelta] = RUNGS
    jitter: float = JITTER

    def pause(self, rung: int, chance: float, retry_after: timedelta | None = None) -> timedelta | None:
        """How long to wait after the failure on this rung (0: of the first attempt), in whole milliseconds.

        None: the ladder is at its end.

        `chance` is uniform in [0, 1). What the endpoint asks for by `Retry-After` can lengthen the pause to the longest
        rung, and never shortens it.
        """
        if rung >= len(self.rungs):
            return None
        planned = self.rungs[rung] * (1 + self.jitter * (2 * chance - 1))
        granted = min(retry_after or timedelta(), max(self.rungs))
        return timedelta(milliseconds=round(max(planned, granted) / _MILLISECOND))

    @property
    def patience(self) -> timedelta:
        """No delivery takes longer, whatever its endpoint asks for."""
        return max(self.rungs, default=timedelta()) * (1 + self.jitter) * len(self.rungs) + SLACK


LADDER = Ladder()
"""The product's."""


def retry_after(value: str | None, now: datetime) -> timedelta | None:
    """What `Retry-After` says, in seconds or as an HTTP date (RFC 9110 §10.2.3); None for the past and for nonsense."""
    if not value:
        return None
    value = value.strip()
    try:
        if value.replace(".", "", 1).isdecimal() and value.isascii():
            wait = timedelta(seconds=float(value))
        else:
            moment = parsedate_to_datetime(value)
            wait = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError):
        return None
    return wait if wait > timedelta() else None
