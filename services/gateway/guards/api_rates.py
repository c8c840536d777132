"""Rate limits of an API and of its endpoints, shared by all callers."""

from dataclasses import dataclass

from contracts.apis import Api
from contracts.guards import PathGuards, RateRule
from contracts.limits import Limits
from services.gateway.guards.guard_input import GuardInput
from services.gateway.guards.path_lists import CompiledRule, compiled_rules, readings_of
from services.gateway.refusals import Denial

RATE_LIMIT = Denial("api_rate_limit", 429, "API Rate Limit Exceeded", challenges=False)


@dataclass(frozen=True, slots=True)
class RateGuard:
    """The rate limits of one version. An endpoint's own limit replaces the API's, as in Tyk."""

    common: Limits | None
    endpoints: tuple[CompiledRule[RateRule], ...]

    @classmethod
    def of(cls, common: Limits | None, guards: PathGuards) -> "RateGuard | None":
        """The guard, or None if there are no limits."""
        return cls(common, compiled_rules(guards.rates)) if common or guards.rates else None

    def counters(self, call: GuardInput, api: Api) -> dict[str, Limits]:
        """The limits that the call counts against, by the name of the counter: those of all readings of it."""
        found: dict[str, Limits] = {}
        if not self.endpoints and self.common is not None:
            return {_name(api): self.common}
        for method, spellings in readings_of(call, api):
            rule = next((rule.rule for rule in self.endpoints if rule.matches(method, spellings)), None)
            if rule is not None:
                found[f"{_name(api)}.{rule.name}"] = rule.limits
            elif self.common is not None:
                found[_name(api)] = self.common
        return found


def _name(api: Api) -> str:
    """The name of the API's counter; the prefix keeps it apart from the counters of clients and grants."""
    return f"api:{api.api_id}"
