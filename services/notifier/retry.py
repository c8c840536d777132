"""Retry schedule of webhooks: the backoff before each retry, its jitter, `Retry-After`, and when retries end."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

DELAYS = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=10),
)
"""Backoff before the first retry and each later one."""
JITTER = 0.2
"""Each delay is drawn from this share below to this share above the scheduled one, so that retries do not pile up."""
MAX_AGE_MARGIN = timedelta(hours=1)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """The delays between the attempts of one delivery."""

    delays: Sequence[timedelta] = DELAYS
    jitter: float = JITTER

    def delay(self, attempt: int, chance: float, retry_after: timedelta | None = None) -> timedelta | None:
        """Backoff after failed attempt number `attempt` (0: the first), in whole milliseconds; None: no more retries.

        `chance` is uniform in [0, 1) and places the delay within the jitter. `retry_after`, what the endpoint asked
        for, can lengthen the delay up to the longest one of the schedule, and never shortens it.
        """
        if attempt >= len(self.delays):
            return None
        scheduled = self.delays[attempt] * (1 + self.jitter * (2 * chance - 1))
        requested = min(retry_after or timedelta(), max(self.delays))
        return timedelta(milliseconds=round(max(scheduled, requested) / _MILLISECOND))

    @property
    def max_age(self) -> timedelta:
        """Age at which a delivery is exhausted, even if its endpoint's circuit breaker kept it from its attempts.

        No delivery that is attempted on schedule reaches this age, whatever its endpoint asks for by `Retry-After`.
        """
        longest = max(self.delays, default=timedelta())
        return longest * (1 + self.jitter) * len(self.delays) + MAX_AGE_MARGIN


RETRY_SCHEDULE = RetrySchedule()
"""The schedule that is used in production."""


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """The wait that a `Retry-After` header asks for, in seconds or as an HTTP date (RFC 9110 §10.2.3).

    None if the header is missing or malformed, or the date is past.
    """
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
