"""Rate limits of single endpoints in policies (Tyk's `access_rights.<api>.endpoints`).

As in Tyk, an endpoint's own limit replaces the rate of the policies and has its own counter; the quota stays as it is.
Pure functions: the gateway finds the rule that matches a call.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from contracts.guards import RateRule
from contracts.limits import Limits
from contracts.policies import AccessRight
from libs.allowances import Allowance, highest, limits_of, quota_allowance, rate_allowance, rate_of, strictest

_PARAMETER = re.compile(r"\{[^}]+\}")
_UNLIMITED = Allowance(-1, 1)
_NO_QUOTA = quota_allowance(0, 0)


class HolderRates(NamedTuple):
    """What the policies of one holder say about single endpoints of an API."""

    lists: tuple[tuple[RateRule, ...], ...] = ()
    """One list per policy. The first rule of a list that matches a call is what its policy says, and the most generous
    of what the policies say applies."""
    is_rated: bool = False
    """Whether calls of all other endpoints have a rate limit by this holder."""


def endpoint_pattern(path: str) -> str:
    """The regular expression of an endpoint's path, as in Tyk.

    `{parameter}` matches one segment, `/*` anything; the rest is a regular expression.
    """
    pattern = _PARAMETER.sub("([^/]+)", path) if path.count("{") == path.count("}") else path
    return pattern.replace("/*/", "/[^/]+/").replace("/*", "/.*")


def holder_rates(rights: Sequence[AccessRight], *, is_rated: bool) -> HolderRates:
    """Combine the rights that one holder's policies give on one API.

    Of two limits for the same path and method the higher one counts, as in Tyk.
    """
    allowances: dict[str, list[Allowance]] = {}
    for right in rights:
        for name, _, _, allowance in _entries(right):
            allowances.setdefault(name, []).append(allowance)
    limits = {name: _limits(highest(found)) for name, found in allowances.items()}
    lists = (
        tuple(
            RateRule(pattern=pattern, methods=(method,), name=name, limits=limits[name])
            for name, pattern, method, _ in _entries(right)
        )
        for right in rights
    )
    return HolderRates(tuple(rules for rules in lists if rules), is_rated)


def common_limits(holders: Sequence[HolderRates]) -> dict[str, Limits]:
    """For each rule's name, a limit that is within those of every holder that has the rule."""
    allowances: dict[str, set[Allowance]] = {}
    for holder in holders:
        for rule in (rule for rules in holder.lists for rule in rules):
            allowances.setdefault(rule.name, set()).add(rate_of(rule.limits))
    return {name: _limits(strictest(found)) for name, found in allowances.items()}


def _entries(right: AccessRight) -> Iterator[tuple[str, str, str, Allowance]]:
    """Name, pattern, method and rate of each entry. As in Tyk, a rate that is not positive means unlimited."""
    for endpoint in right.endpoints:
        for method in endpoint.methods:
            rate, per = method.limit.rate, method.limit.per
            if rate > 0 and per <= 0:
                continue  # says nothing: calls without a period
            name = hashlib.sha256(f"{method.name.upper()}:{endpoint.path}".encode()).hexdigest()[:24]
            allowance = rate_allowance(rate, per) if rate > 0 else _UNLIMITED
            yield name, endpoint_pattern(endpoint.path), method.name.upper(), allowance


def _limits(rate: Allowance) -> Limits:
    return limits_of(rate, _NO_QUOTA)
