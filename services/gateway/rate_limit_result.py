"""The result of asking the rate limiter about one call, and the headers that show it."""

from enum import StrEnum
from typing import NamedTuple

from multidict import istr

_LIMIT, _REMAINING, _RESET = (istr(f"X-RateLimit-{name}") for name in ("Limit", "Remaining", "Reset"))


class LimitKind(StrEnum):
    """Why the rate limiter refused a call."""

    RATE = "rate"
    QUOTA = "quota"
    UNAVAILABLE = "unavailable"
    """The counters cannot be reached, and `limits_on_failure` is `deny`."""


class QuotaState(NamedTuple):
    """The call is admitted. The fields are the state of its quota, for Tyk's `X-RateLimit-*` headers."""

    quota_max: int
    quota_remaining: int
    """Exact if only one gateway serves this scope. With several, calls leased to the others count as used."""
    quota_renews: int
    """Unix seconds; 0 if there is no quota or it never renews."""


UNLIMITED = QuotaState(-1, -1, 0)
"""The call is admitted and no quota applies to it."""


class Exceeded(NamedTuple):
    """The call is refused."""

    kind: LimitKind
    retry_after: int | None
    """Seconds, at least one; None if waiting does not help."""
    quota: QuotaState | None = UNLIMITED
    """None: not asked for."""


RateLimitResult = QuotaState | Exceeded


def rate_limit_headers(quota: QuotaState) -> dict[str, str]:
    """Tyk's `X-RateLimit-*` response headers, as in its mode `quotas`."""
    most, remaining, renews = quota
    return {_LIMIT: str(most), _REMAINING: str(remaining), _RESET: str(renews)}
