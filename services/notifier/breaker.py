"""Whether an endpoint is worth another attempt now."""

from dataclasses import dataclass
from datetime import datetime, timedelta

THRESHOLD = 5
"""So many failures in a row, and the endpoint counts as down."""
FIRST_PAUSE = timedelta(seconds=2)
LONGEST_PAUSE = timedelta(seconds=30)


@dataclass(slots=True)
class Breaker:
    """Closed: as many attempts at once as the endpoint's share. Open: none until a pause is over, then one to probe.

    A failed probe doubles the pause, up to LONGEST_PAUSE. After a good one the share grows again from one, doubling
    with each success, so that an endpoint that has just come back is not run over.
    """

    most: int
    """Attempts at once while all is well."""
    failures: int = 0
    """In a row."""
    share: int = 0
    """Attempts at once, while growing again; 0: `most`."""
    open_until: datetime | None = None
    pause: timedelta = timedelta()

    def limit(self, now: datetime) -> int:
        """How many attempts may be under way at once."""
        if self.open_until is not None:
            return 1 if now >= self.open_until else 0
        return self.share or self.most

    @property
    def healthy(self) -> bool:
        """True when nothing is remembered against the endpoint."""
        return not self.failures and not self.share and self.open_until is None

    def succeeded(self) -> None:
        """The endpoint answered as one that lives."""
        if self.open_until is not None:
            self.open_until, self.share = None, 1
        elif self.share:
            self.share = self.share * 2 if self.share * 2 < self.most else 0
        self.failures, self.pause = 0, timedelta()

    def failed(self, now: datetime) -> None:
        """No answer, or one that says that the endpoint is in trouble."""
        self.failures += 1
        if self.open_until is not None and now < self.open_until:
            return  # under way before it opened
        if self.failures >= THRESHOLD or self.open_until is not None or self.share:
            self.pause = min(self.pause * 2, LONGEST_PAUSE) or FIRST_PAUSE
            self._open(now + self.pause)

    def throttled(self, now: datetime, wait: timedelta) -> None:
        """The endpoint asked to be left alone for a while; LONGEST_PAUSE at most is granted."""
        self._open(now + min(wait, LONGEST_PAUSE))

    def _open(self, until: datetime) -> None:
        self.open_until = max(until, self.open_until) if self.open_until else until
        self.share = 0
