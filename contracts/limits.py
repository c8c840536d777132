"""How much a grant may call."""

from typing import Annotated

from pydantic import Field

from contracts.base import Contract, Response


class Limits(Contract):
    """What a grant's policies allow it in number, on one API or on all of them together."""

    rate: Annotated[int, Field(ge=0)] = 0
    """Requests in any `per` seconds; 0: not limited."""
    per: Annotated[float, Field(ge=0)] = 0
    quota_max: Annotated[int, Field(ge=-1)] = -1
    """Requests in one window; -1: not limited."""
    quota_renewal_rate: Annotated[int, Field(ge=0)] = 0
    """Seconds of the window, which begins with its first request; 0: it never ends."""


class Standing(Contract):
    """How much of its limits a grant has left, on one API or on all of them together."""

    rate: int
    per: float
    quota_max: int
    quota_remaining: int
    """Requests left in the window; what a gateway holds in reserve counts as made until it is given back."""
    quota_renews: int
    """When the window ends (Unix time); 0 where it never does, or has not begun."""


class QuotaStanding(Response):
    """Tyk's words for a quota; -1: none, and then 0 for when it is renewed."""

    quota_max: int
    quota_remaining: int
    quota_renews: int
    """Unix seconds."""


class RateLimit(Response):
    """So many requests in any so many seconds; 0: not limited."""

    requests: int
    per_unit: float


class RateLimits(Response):
    """GET /<listen-path>/tyk/rate-limits."""

    quota: QuotaStanding
    rate_limit: RateLimit
