"""Limits as policies state them: which of two is stricter, what satisfies several, and which is the most generous.

Pure functions.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from contracts.limits import Limits

_LONGEST = 2.0**63
"""Seconds; longer than any counter is kept."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """A limit: `most` requests in `seconds`; unlimited if `most` is not positive."""

    most: float
    seconds: float
    unset: float = 0
    """The period if `seconds` is not positive: infinity for a quota, which is then never renewed."""

    @property
    def period(self) -> float:
        """Seconds; 0 if there is no limit."""
        return self.seconds if self.seconds > 0 else self.unset

    @property
    def is_unlimited(self) -> bool:
        """Whether there is no limit."""
        return self.most <= 0 or self.period == 0

    @property
    def pace(self) -> float:
        """Requests per second on average."""
        return math.inf if self.is_unlimited else self.most / self.period

    def is_within(self, other: "Allowance") -> bool:
        """Whether it is at least as strict: in any period of the other limit it admits no more than that one."""
        if other.is_unlimited:
            return True
        if self.is_unlimited:
            return False
        return self.most * self._periods_in(other.period) <= other.most

    def _periods_in(self, seconds: float) -> float:
        if self.period == math.inf:
            return 1
        periods = seconds / self.period
        return periods if periods == math.inf else math.ceil(periods)

    def narrowed(self, most: float | None, seconds: float | None) -> "Allowance":
        """Replace the given values if the result is at least as strict; otherwise leave it unchanged."""
        if most is None and seconds is None:
            return self
        given = Allowance(self.most if most is None else most, self.seconds if seconds is None else seconds, self.unset)
        return given if given.is_within(self) else self


def strictest(allowances: Iterable[Allowance]) -> Allowance:
    """A limit that never admits more than any of these: the strictest one, or one within all if they cross.

    The order makes no difference, and with a further limit the result never admits more than without it. To have both,
    the limits of every smaller selection are combined first, and the result is within all of them.
    """
    return _within_all(frozenset(allowances))


@lru_cache(maxsize=1024)
def _within_all(allowances: frozenset[Allowance]) -> Allowance:
    if len(allowances) == 1:
        return next(iter(allowances))
    smaller = [_within_all(allowances - {each}) for each in allowances]
    for each in smaller:
        if all(map(each.is_within, smaller)):
            return each
    limits = [each for each in smaller if not each.is_unlimited]
    most = min(each.most for each in limits)
    # `most` requests in a share of each period satisfy all of them; counters have a precision of milliseconds.
    share = max(each.period / (each.most // most) for each in limits)
    found = Allowance(most, share if share == math.inf else math.ceil(share * 1000) / 1000, limits[0].unset)
    while not all(map(found.is_within, limits)):  # by a rounding error
        found = replace(found, seconds=found.seconds + 0.001)
    return found


def rate_allowance(rate: float, per: float) -> Allowance:
    """`rate` requests in any `per` seconds."""
    return Allowance(rate, per)


def quota_allowance(most: float, seconds: float) -> Allowance:
    """`most` requests in a window of so many seconds."""
    return Allowance(most, seconds, math.inf)


def rate_of(limits: Limits) -> Allowance:
    """The rate in these limits."""
    return rate_allowance(limits.rate, limits.per)


def quota_of(limits: Limits) -> Allowance:
    """The quota in these limits."""
    return quota_allowance(limits.quota_max, limits.quota_renewal_rate)


def highest(allowances: Sequence[Allowance]) -> Allowance:
    """The most generous limit; 0 means not set, -1 means unlimited."""
    said = [allowance for allowance in allowances if allowance.most != 0 and allowance.period != 0]
    return max(said, key=width, default=Allowance(0, 0))


def width(allowance: Allowance) -> tuple[float, float]:
    """Orders limits by how many calls they admit on average, then at once; unlimited ones are the greatest."""
    if allowance.most < 0:
        return math.inf, math.inf
    return allowance.pace, allowance.most


def limits_of(rate: Allowance, quota: Allowance) -> Limits:
    """Convert to whole requests: half a request per second becomes one in two seconds."""
    most, per = (0.0, 0.0) if rate.is_unlimited else (rate.most, rate.period)
    if 0 < most < 1:
        most, per = 1, min(per / most, _LONGEST)
    unlimited = quota.most <= 0
    return Limits(
        rate=int(most),
        per=per,
        quota_max=-1 if unlimited else int(quota.most),
        quota_renewal_rate=0 if unlimited or quota.period == math.inf else math.ceil(quota.period),
    )
