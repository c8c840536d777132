"""The custom domain of an API: for any other host the API does not exist (404)."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from contracts.guards import Guards
from libs.policies import Pattern, compiled
from services.gateway.refusals import NO_API, Denial

_PORT = re.compile(r":\d*\Z")


@dataclass(frozen=True, slots=True)
class DomainGuard:
    """Admits calls whose host matches."""

    host: Pattern

    @classmethod
    def of(cls, guards: Guards) -> "DomainGuard | None":
        """The guard, or None if the API is served on every host."""
        return None if guards.domain is None else cls(compiled(rf"^(?:{guards.domain})\z"))

    def refusal(self, hosts: Collection[str]) -> Denial | None:
        """NO_API unless every one of these hosts is the API's; case and port do not matter."""
        return None if hosts and all(map(self._is_ours, hosts)) else NO_API

    def _is_ours(self, host: str) -> bool:
        plain = _PORT.sub("", host.strip().lower()).removesuffix(".")
        return self.host.search(plain.encode()) is not None
