"""Which rate limits of single endpoints, from policies, a call counts against."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from contracts.apis import Api
from contracts.guards import RateRule
from contracts.limits import Limits
from libs.allowances import rate_of, width
from libs.policies import ApiAccess
from services.gateway.calls import Call
from services.gateway.guards.path_lists import CompiledRule, Spellings, compiled_rules

Rules = tuple[CompiledRule[RateRule], ...]


class CountedRates(NamedTuple):
    """What a call counts against, besides the quota."""

    limits: dict[str, Limits]
    """Limits of endpoints, by the rules' names."""
    counts_for_rate: bool
    """Whether it also counts against the rate for all other endpoints."""


class EndpointRates:
    """The rate limits of endpoints in one grant's policies, compiled."""

    __slots__ = ("_holders", "_limits", "quota")

    def __init__(self, access: ApiAccess) -> None:
        self._holders = [([*map(compiled_rules, holder.lists)], holder.is_rated) for holder in access.endpoints]
        self._limits = access.endpoint_limits
        self.quota = access.limits.model_copy(update={"rate": 0, "per": 0.0})
        """The limits of a call that does not count against the common rate."""

    @classmethod
    def of(cls, access: ApiAccess) -> "EndpointRates | None":
        """The compiled limits, or None if the policies have none for single endpoints."""
        return cls(access) if access.endpoints else None

    def counted(self, call: Call, api: Api) -> CountedRates:
        """The limits of the rules that match the call: of every holder, and for every reading of the call."""
        names: set[str] = set()
        counts_for_rate = False
        methods = [method.upper() for method in call.methods(overridable=api.method_override)]
        for path in call.paths:
            spellings = Spellings(path, api)
            for method in methods:
                for lists, is_rated in self._holders:
                    found = _applicable(lists, method, spellings)
                    if found is None:
                        counts_for_rate = counts_for_rate or is_rated
                    else:
                        names.add(found.name)
        return CountedRates({name: self._limits[name] for name in sorted(names)}, counts_for_rate)


def _applicable(lists: Iterable[Rules], method: str, spellings: Spellings) -> RateRule | None:
    """Of what each policy says, the most generous; None if no policy says anything about this call."""
    return max(_said(lists, method, spellings), key=_generosity, default=None)


def _said(lists: Iterable[Rules], method: str, spellings: Spellings) -> Iterator[RateRule]:
    # A rule for GET also covers HEAD, which most upstreams answer with the same code (RFC 9110 §9.3.2).
    alike = (method, "GET") if method == "HEAD" else (method,)
    for rules in lists:
        found = (rule.rule for each in alike for rule in rules if rule.matches(each, spellings))
        if (first := next(found, None)) is not None:
            yield first


def _generosity(rule: RateRule) -> tuple[tuple[float, float], str]:
    return width(rate_of(rule.limits)), rule.name
