"""What a grant may do on an API: its client's policies combined as Tyk combines them, narrowed by its `key_rules`.

Pure: the policies and rules arrive as values, whoever asks keeps them fresh.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import re2
from pydantic import BaseModel, ConfigDict

from contracts.apis import Api
from contracts.base import PublicId
from contracts.limits import Limits
from contracts.policies import AccessRight, AllowedUrl, Policy, Quota, Rate

_LONGEST = 2.0**63
"""Seconds; longer than anything is remembered."""
_LONGEST_REMEMBERED = 256
"""Characters of a path."""
_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 20


class KeyRules(BaseModel):
    """The part of Tyk's session JSON that means something here; other fields are ignored."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    access_rights: dict[PublicId, AccessRight] | None = None
    rate: Rate | None = None
    per: Rate | None = None
    quota_max: Quota | None = None
    quota_renewal_rate: Quota | None = None
    tags: tuple[str, ...] | None = None
    meta_data: dict[str, Any] | None = None


class Pattern(Protocol):
    """A compiled regular expression over UTF-8."""

    def search(self, text: bytes) -> object | None:
        """A match anywhere, or None."""

    def __hash__(self) -> int: ...


@lru_cache(maxsize=4096)
def compiled(url: str) -> Pattern:
    """The expression of an allowed URL, matched in time linear in the path's length. Raises ValueError."""
    try:
        pattern: Pattern = re2.compile(url.encode(), _OPTIONS)  # of bytes: no positions are counted in characters
    except re2.error as error:
        raise ValueError(f"'{url}' is no regular expression of RE2: {_said(error)}") from None
    return pattern


def _said(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


def first_unusable(rights: Iterable[AccessRight]) -> str | None:
    """Why the first of their URLs that cannot be matched cannot be; None where all can."""
    for right in rights:
        for allowed in right.allowed_urls:
            try:
                compiled(allowed.url)
            except ValueError as error:
                return f"access_rights.{right.api_id}.allowed_urls: {error}"
    return None


@dataclass(frozen=True, slots=True)
class Allowance:
    """So many requests in so many seconds; not positive: without limit."""

    most: float
    seconds: float
    unset: float = 0
    """What `seconds` that are not positive mean: infinity for a quota, which is then never renewed."""

    @property
    def period(self) -> float:
        """Seconds; 0 where there is no limit."""
        return self.seconds if self.seconds > 0 else self.unset

    @property
    def is_unlimited(self) -> bool:
        """Whether it admits everything."""
        return self.most <= 0 or self.period == 0

    @property
    def pace(self) -> float:
        """Requests a second in the long run."""
        return math.inf if self.is_unlimited else self.most / self.period

    def is_within(self, other: "Allowance") -> bool:
        """Whether it never admits more than the other does in any period of the other's."""
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
        """With what is given in place of its own, where that is no wider; else as it is."""
        if most is None and seconds is None:
            return self
        given = Allowance(self.most if most is None else most, self.seconds if seconds is None else seconds, self.unset)
        return given if given.is_within(self) else self


def rate_allowance(rate: float, per: float) -> Allowance:
    """`rate` requests in any `per` seconds."""
    return Allowance(rate, per)


def quota_allowance(most: float, seconds: float) -> Allowance:
    """`most` requests in a window of so many seconds."""
    return Allowance(most, seconds, math.inf)


def _is_match(pattern: Pattern, path: str) -> bool:
    """Whether the expression matches somewhere in the path; the paths that come again and again are remembered."""
    return _remembered(pattern, path) if len(path) <= _LONGEST_REMEMBERED else _searched(pattern, path)


def _searched(pattern: Pattern, path: str) -> bool:
    return pattern.search(path.encode()) is not None


_remembered = lru_cache(maxsize=8192)(_searched)


@dataclass(frozen=True, slots=True)
class UrlRules:
    """Which paths and methods; without any rule, all of them."""

    rules: tuple[tuple[Pattern, frozenset[str]], ...] = ()

    @classmethod
    def of(cls, allowed: Iterable[AllowedUrl]) -> "UrlRules":
        """From a policy's words. An expression that cannot be matched opens nothing."""
        return cls(tuple((_pattern(url.url), frozenset(url.methods)) for url in allowed))

    def allow(self, method: str, path: str) -> bool:
        """Whether a rule matches (RFC 9110 §9.1: a method is case-sensitive)."""
        if not self.rules:
            return True
        for pattern, methods in self.rules:  # noqa: SIM110 - a generator would cost as much as the look-up
            if (not methods or method in methods) and _is_match(pattern, path):
                return True
        return False


class _Nothing:
    """Matches nothing."""

    def search(self, text: bytes) -> object | None:
        return None


def _pattern(url: str) -> Pattern:
    try:
        return compiled(url)
    except ValueError:
        return _Nothing()


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """What one grant may do on one API."""

    urls: tuple[UrlRules, ...] = ()
    """Each of them must allow a call: the policies' together, and the key_rules'."""
    versions: tuple[frozenset[str], ...] = ()
    """Each of them must hold the version of a call, on an API that has versions."""
    limits: Limits = field(default_factory=Limits)
    own_limits: bool = False
    """True: counted for this API alone; False: with all that the grant calls."""
    meta_data: dict[str, Any] = field(default_factory=dict)
    inactive: bool = False

    def allows(self, method: str, paths: Iterable[str]) -> bool:
        """Whether the method is allowed on every reading of the path."""
        for rules in self.urls:
            for path in paths:
                if not rules.allow(method, path):
                    return False
        return True

    def allows_version(self, version: str) -> bool:
        """Whether this version of the API is open."""
        return all(version in versions for versions in self.versions)


def counted_under(grant_id: str, api_id: str, access: ApiAccess) -> str:
    """The name of the counter of the grant's calls: its own, or its own on this API."""
    return f"{grant_id}.{api_id}" if access.own_limits else grant_id


def access_on(
    api: Api, issued_by: str, policies: Sequence[Policy] | None, rules: KeyRules | None, meta_data: dict[str, Any]
) -> ApiAccess | None:
    """What a grant issued by that API may do on this one; None: nothing.

    `policies` are the active ones, None where the client has none: then its tokens open the issuing API alone, and
    without limit. `meta_data` is the client's: it fills what the rules leave out, and the policies overwrite both.
    """
    if issued_by != api.api_id and not api.auth_token:
        return None
    if policies is None:
        if issued_by != api.api_id:
            return None
        granted = ApiAccess(meta_data=_meta_data(meta_data, rules, ()))
        return _narrowed(granted, api, rules)
    rights = [policy.access_rights[api.api_id] for policy in policies if _grants(policy, api.api_id)]
    if not rights:
        return None
    limits, own = _limits(policies, api.api_id)
    granted = ApiAccess(
        urls=(UrlRules.of(url for right in rights for url in right.allowed_urls),),
        versions=(frozenset(version for right in rights for version in right.versions),) if api.versioning else (),
        limits=limits,
        own_limits=own,
        meta_data=_meta_data(meta_data, rules, policies),
        inactive=any(policy.is_inactive for policy in policies),
    )
    return _narrowed(granted, api, rules)


def _counts(policy: Policy, part: str) -> bool:
    """Whether this part of the policy applies: `acl`, `rate_limit` or `quota`; without partitions all do."""
    partitions = policy.partitions
    if not (partitions.quota or partitions.rate_limit or partitions.acl or partitions.complexity):
        return True
    return bool(getattr(partitions, part))


def _grants(policy: Policy, api_id: str) -> bool:
    return api_id in policy.access_rights and _counts(policy, "acl")


def _limits(policies: Sequence[Policy], api_id: str) -> tuple[Limits, bool]:
    """The highest rate and the highest quota of those that say one; an API's own stand in place of the common ones."""
    own = [_own(policy, policy.access_rights[api_id]) for policy in policies if _has_own(policy, api_id)]
    if own:
        rates, quotas = [rate for rate, _ in own], [quota for _, quota in own]
    else:
        rates = [_rate_of(policy) for policy in policies if _counts(policy, "rate_limit")]
        quotas = [_quota_of(policy) for policy in policies if _counts(policy, "quota")]
    return limits_of(_highest(rates), _highest(quotas)), bool(own)


def _has_own(policy: Policy, api_id: str) -> bool:
    if not _grants(policy, api_id):
        return False
    return policy.partitions.per_api or policy.access_rights[api_id].limit is not None


def _own(policy: Policy, right: AccessRight) -> tuple[Allowance, Allowance]:
    """The API's own limit; what it leaves unsaid is as in the whole policy."""
    limit = right.limit
    rate = rate_allowance(limit.rate, limit.per) if limit and limit.rate and limit.per else _rate_of(policy)
    quota = quota_allowance(limit.quota_max, limit.quota_renewal_rate) if limit and limit.quota_max else None
    return rate, quota or _quota_of(policy)


def _rate_of(policy: Policy) -> Allowance:
    return rate_allowance(policy.rate, policy.per)


def _quota_of(policy: Policy) -> Allowance:
    return quota_allowance(policy.quota_max, policy.quota_renewal_rate)


def _highest(allowances: Sequence[Allowance]) -> Allowance:
    """The widest of those that say something; 0 says nothing, -1 is the widest of all."""
    said = [allowance for allowance in allowances if allowance.most != 0 and allowance.period != 0]
    return max(said, key=_width, default=Allowance(0, 0))


def _width(allowance: Allowance) -> tuple[float, float]:
    if allowance.most < 0:
        return math.inf, math.inf
    return allowance.pace, allowance.most


def limits_of(rate: Allowance, quota: Allowance) -> Limits:
    """In whole requests: half a request a second is one in two."""
    most, per = (0.0, 0.0) if rate.is_unlimited else (rate.most, rate.period)
    if 0 < most < 1:
        most, per = 1, min(per / most, _LONGEST)
    unlimited = quota.most <= 0
    return Limits(
        rate=int(most),
        per=per,
        quota_max=-1 if unlimited else int(quota.most),
        quota_renewal_rate=0 if unlimited or quota.period == math.inf else int(quota.period),
    )


def _narrowed(granted: ApiAccess, api: Api, rules: KeyRules | None) -> ApiAccess | None:
    if rules is None:
        return granted
    urls, versions = granted.urls, granted.versions
    if rules.access_rights is not None:
        right = rules.access_rights.get(api.api_id)
        if right is None:
            return None
        urls += (UrlRules.of(right.allowed_urls),)
        if api.versioning and right.versions:
            versions += (frozenset(right.versions),)
    limits = granted.limits
    rate = rate_allowance(limits.rate, limits.per).narrowed(rules.rate, rules.per)
    quota = quota_allowance(limits.quota_max, limits.quota_renewal_rate).narrowed(
        rules.quota_max, rules.quota_renewal_rate
    )
    return ApiAccess(
        urls=urls,
        versions=versions,
        limits=limits_of(rate, quota),
        own_limits=granted.own_limits,
        meta_data=granted.meta_data,
        inactive=granted.inactive,
    )


def _meta_data(client: dict[str, Any], rules: KeyRules | None, policies: Sequence[Policy]) -> dict[str, Any]:
    merged = {**client, **((rules.meta_data if rules else None) or {})}
    for policy in policies:
        merged |= policy.meta_data
    return merged
