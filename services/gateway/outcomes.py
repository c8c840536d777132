"""What the limits say of one call."""

from enum import StrEnum
from typing import NamedTuple

from multidict import istr

_LIMIT, _REMAINING, _RESET = (istr(f"X-RateLimit-{name}") for name in ("Limit", "Remaining", "Reset"))


class Kind(StrEnum):
    """Which limit refuses."""

    RATE = "rate"
    QUOTA = "quota"
    UNAVAILABLE = "unavailable"
    """The counters cannot be asked, and the setting says that nothing passes uncounted."""


class Ticket(NamedTuple):
    """A call is admitted; the figures of its quota, as Tyk's `X-RateLimit-*` show them."""

    quota_max: int
    quota_remaining: int
    """Exact where one gateway serves the grant; with several, what the others hold in reserve is not in it."""
    quota_renews: int
    """Unix time; 0 where there is no quota, or it never renews."""


UNLIMITED = Ticket(-1, -1, 0)
"""Of a call that no quota counts."""


class Exceeded(NamedTuple):
    """A call is refused."""

    kind: Kind
    retry_after: int | None
    """Seconds, at least one; None where waiting does not help."""
    figures: Ticket = UNLIMITED


def rate_limit_headers(figures: Ticket) -> dict[str, str]:
    """Tyk's, in its mode `quotas`."""
    most, remaining, renews = figures
    return {_LIMIT: str(most), _REMAINING: str(remaining), _RESET: str(renews)}
