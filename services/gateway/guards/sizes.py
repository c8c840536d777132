"""Limits on the size of request bodies."""

from dataclasses import dataclass

from contracts.apis import Api
from contracts.guards import PathGuards, SizeRule
from services.gateway.guards.guard_input import GuardInput
from services.gateway.guards.path_lists import CompiledRule, compiled_rules, readings_of
from services.gateway.refusals import Denial

TOO_LARGE = Denial("too_large", 413, "Request is too large", challenges=False)
LENGTH_REQUIRED = Denial("length_required", 411, "Content length is required for this request", challenges=False)


@dataclass(frozen=True, slots=True)
class SizeGuard:
    """The size limits of one version."""

    common: int
    """Bytes; 0: no limit for all calls."""
    endpoints: tuple[CompiledRule[SizeRule], ...]

    @classmethod
    def of(cls, guards: PathGuards) -> "SizeGuard | None":
        """The guard, or None if there are no limits."""
        return cls(guards.size, compiled_rules(guards.sizes)) if guards.size or guards.sizes else None

    def refusal(self, call: GuardInput, api: Api) -> Denial | None:
        """The refusal if the body exceeds the strictest limit, or its size is unknown (it could be too large)."""
        if call.size == 0:
            return None
        limits = [self.common] if self.common else []
        for method, spellings in readings_of(call, api):
            limits += [rule.rule.most for rule in self.endpoints if rule.matches(method, spellings)][:1]
        if not limits:
            return None
        if call.size is None:
            return LENGTH_REQUIRED
        return TOO_LARGE if call.size > min(limits) else None
