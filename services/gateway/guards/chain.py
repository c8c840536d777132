"""Runs the guards of an API in Tyk's order: host, version, expiry, paths, address, size; rates after the token."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from contracts.apis import Api
from contracts.guards import Guards, PathGuards
from contracts.limits import Limits
from services.gateway.calls import Call
from services.gateway.guards.api_rates import RATE_LIMIT, RateGuard
from services.gateway.guards.domains import DomainGuard
from services.gateway.guards.guard_input import GuardInput, guard_input
from services.gateway.guards.ip_lists import AddressGuard
from services.gateway.guards.path_lists import FORBIDDEN, PathListGuard, Verdict
from services.gateway.guards.sizes import SizeGuard
from services.gateway.rate_limit_result import Exceeded, LimitKind
from services.gateway.rate_limiter import RateLimiter, note_refusal
from services.gateway.refusals import NO_API, UNCOUNTED, Denial

SIZE = 10_000
"""APIs whose compiled guards are cached."""
EXPIRED = Denial(
    "api_expired", 403, "API has expired, please check documentation or contact administrator", challenges=False
)
NO_VERSION = Denial("no_version", 403, "This API version does not seem to exist", challenges=False)


class GuardResult:
    """The guards admitted the call."""

    __slots__ = ("counters", "needs_no_token")

    def __init__(self, counters: Callable[[], Mapping[str, Limits]], *, needs_no_token: bool = False) -> None:
        self.counters = counters
        """Rate limits that the call counts against, by the name of the counter."""
        self.needs_no_token = needs_no_token
        """True: the definition lists the path as one that needs no token."""


NO_GUARDS = GuardResult(dict)
"""The result for an API without guards."""


class _VersionGuards:
    """The compiled guards of one version."""

    __slots__ = ("_expires_at", "lists", "rates", "sizes")

    def __init__(self, guards: PathGuards, common: Limits | None) -> None:
        self._expires_at = guards.expires_at
        self.lists = PathListGuard.of(guards)
        self.sizes = SizeGuard.of(guards)
        self.rates = RateGuard.of(common, guards)

    def has_expired(self, now: datetime) -> bool:
        """Whether the version has expired."""
        return self._expires_at is not None and self._expires_at <= now


class ApiGuards:
    """The compiled guards of one API."""

    def __init__(self, api: Api, guards: Guards) -> None:
        self._api = api
        self._internal = guards.internal
        self._domain = DomainGuard.of(guards)
        self._addresses = AddressGuard.of(guards)
        self._fall_back = guards.fall_back
        self._versions = {paths.version: _VersionGuards(paths, guards.limits) for paths in guards.paths}
        self._common = _VersionGuards(PathGuards(), guards.limits)

    def host_refusal(self, hosts: Callable[[], tuple[str, ...]]) -> Denial | None:
        """NO_API if the API is internal or not served on these hosts."""
        if self._internal:
            return NO_API
        return self._domain.refusal(hosts()) if self._domain else None

    def is_unreachable(self, now: datetime) -> bool:
        """Whether no call can be admitted, whatever it is: the API is internal, or all its versions have expired."""
        versions = self._versions.values()
        return self._internal or (bool(versions) and all(version.has_expired(now) for version in versions))

    def address_refusal(self, address: str) -> Denial | None:
        """The refusal if this address may not call the API."""
        return self._addresses.refusal(address) if self._addresses else None

    def check(self, call: GuardInput, now: datetime) -> GuardResult | Denial:
        """Run the guards that do not need the token. If servers may read several versions, all must admit the call."""
        versions = self._of_versions(call)
        if isinstance(versions, Denial):
            return versions
        if any(version.has_expired(now) for version in versions):
            return EXPIRED
        verdicts = {version.lists.verdict(call, self._api) if version.lists else None for version in versions}
        if Verdict.CLOSED in verdicts:
            return FORBIDDEN
        if refusal := self.address_refusal(call.address):
            return refusal
        for version in versions:
            if version.sizes and (refusal := version.sizes.refusal(call, self._api)):
                return refusal
        return GuardResult(lambda: self._counters(versions, call), needs_no_token=verdicts == {Verdict.OPEN})

    def _counters(self, versions: Iterable[_VersionGuards], call: GuardInput) -> Mapping[str, Limits]:
        counters: dict[str, Limits] = {}
        for version in versions:
            if version.rates:
                counters |= version.rates.counters(call, self._api)
        return counters

    def _of_versions(self, call: GuardInput) -> list[_VersionGuards] | Denial:
        """Those of every version that the call may be taken to be for."""
        if not self._versions:
            return [self._common]
        if (always := self._versions.get(None)) is not None:
            return [always]
        found = []
        for name in call.versions:
            version = self._versions.get(name) or (self._versions.get(self._fall_back) if self._fall_back else None)
            if version is None:
                return NO_VERSION
            found.append(version)
        return found or NO_VERSION


class GuardChain:
    """The guards of all APIs, compiled when first needed. An API without guards costs one attribute access."""

    def __init__(self, limiter: RateLimiter, now: Callable[[], datetime]) -> None:
        self._limiter = limiter
        self._now = now
        self._known: OrderedDict[str, tuple[Api, ApiGuards]] = OrderedDict()

    def host_refusal(self, api: Api, hosts: Callable[[], tuple[str, ...]]) -> Denial | None:
        """NO_API if the API is internal or not served on these hosts."""
        return None if api.guards is None else self._ready(api, api.guards).host_refusal(hosts)

    def is_unreachable(self, api: Api) -> bool:
        """Whether no call can be admitted, whatever it is: the API is internal, or has expired."""
        return api.guards is not None and self._ready(api, api.guards).is_unreachable(self._now())

    def check(self, api: Api, call: Call) -> GuardResult | Denial:
        """Run the guards that do not need the token."""
        if api.guards is None:
            return NO_GUARDS
        known = guard_input(call, api)
        return known if isinstance(known, Denial) else self._ready(api, api.guards).check(known, self._now())

    async def count(self, guard_result: GuardResult) -> Denial | None:
        """Count the call against the rate limits of the API; a Denial if one is exceeded.

        An endpoint's own limit comes first: a call that it refuses must not use up the API's limit.
        """
        for scope, limits in sorted(guard_result.counters().items(), key=_length_of_name, reverse=True):
            counted = self._limiter.take(scope, limits) or await self._limiter.reserve(scope, limits)
            if isinstance(counted, Exceeded):
                note_refusal(counted.kind)
                denial = UNCOUNTED if counted.kind is LimitKind.UNAVAILABLE else RATE_LIMIT
                return replace(denial, retry_after=counted.retry_after)
        return None

    def address_refusal(self, api: Api, address: str) -> Denial | None:
        """The refusal if this address may not call the API."""
        return None if api.guards is None else self._ready(api, api.guards).address_refusal(address)

    def _ready(self, api: Api, guards: Guards) -> ApiGuards:
        known = self._known.get(api.api_id)
        if known is None or known[0] is not api:
            known = self._known[api.api_id] = (api, ApiGuards(api, guards))
            if len(self._known) > SIZE:
                self._known.popitem(last=False)
        return known[1]


def _length_of_name(counter: tuple[str, Limits]) -> int:
    return len(counter[0])
