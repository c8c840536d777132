"""Rate limits and quotas of grants."""

from typing import Annotated

from pydantic import Field

from contracts.base import Contract, Response


class Limits(Contract):
    """The rate limit and quota of a grant, for one API or for all of them together."""

    rate: Annotated[int, Field(ge=0)] = 0
    """Requests in any period of `per` seconds; 0: not limited."""
    per: Annotated[float, Field(ge=0)] = 0
    quota_max: Annotated[int, Field(ge=-1)] = -1
    """Requests in one window; -1: not limited."""
    quota_renewal_rate: Annotated[int, Field(ge=0)] = 0
    """Length of the window in seconds; it begins with its first request. 0: it never ends."""


class LimitStatus(Contract):
    """The limits of a grant and what is left of them, for one API or for all of them together."""

    rate: int
    per: float
    quota_max: int
    quota_remaining: int
    """Requests left in the window; requests that a gateway has leased count as made until it gives them back."""
    quota_renews: int
    """When the window ends (Unix seconds); 0 if it never ends or has not begun."""


class QuotaStatus(Response):
    """A quota in Tyk's format. Without a quota, `quota_max` is -1 and `quota_renews` is 0."""

    quota_max: int
    quota_remaining: int
    quota_renews: int
    """Unix seconds."""


class RateLimit(Response):
    """A rate limit: `requests` in any period of `per_unit` seconds; 0: not limited."""

    requests: int
    per_unit: float


class RateLimits(Response):
    """GET /<listen-path>/tyk/rate-limits."""

    quota: QuotaStatus
    rate_limit: RateLimit
