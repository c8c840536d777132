"""Computes what a grant may do on an API from the policies of its client and its user, and from its `key_rules`.

Policies of one holder are merged as in Tyk: together they allow what any of them allows. The sets of different holders
are intersected: a call must be allowed by all of them. Pure functions: the caller passes current policies and rules.
"""

import base64
import enum
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, Protocol, TypeGuard

import re2
from pydantic import BaseModel, ConfigDict, Field

from contracts.apis import Api
from contracts.base import PublicId
from contracts.limits import Limits
from contracts.policies import AccessRight, AllowedUrl, Policy, Quota, Rate
from contracts.resource_owners import ResourceOwner
from libs.allowances import (
    Allowance,
    highest,
    limits_of,
    quota_allowance,
    quota_of,
    rate_allowance,
    rate_of,
    strictest,
)
from libs.endpoint_rates import HolderRates, common_limits, endpoint_pattern, holder_rates

_MAX_CACHED_LENGTH = 256
"""Longest path, in characters, whose match results are cached."""
MAX_CLASSES = 16
"""Unicode classes (`\\p`) in one expression. Each costs RE2 up to 0.5 ms, during which the whole process waits."""
_CLASS = re.compile(r"\\[pP]")
ExpiryTime = Annotated[int, Field(ge=-1, lt=2**63)]
_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 20


class KeyRules(BaseModel):
    """`key_rules`: what the identity server allows one grant; the supported part of Tyk's session JSON."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    apply_policies: tuple[PublicId, ...] = ()
    """Policies that must allow the grant as well, as a further set of `PolicySets`."""
    is_inactive: bool = False
    """True: the grant's tokens are refused everywhere."""
    expires: ExpiryTime = 0
    """Unix seconds at which the grant ends at the latest; 0 and -1: not limited."""
    access_rights: dict[PublicId, AccessRight] | None = None
    rate: Rate | None = None
    per: Rate | None = None
    quota_max: Quota | None = None
    quota_renewal_rate: Quota | None = None
    tags: tuple[str, ...] | None = None
    meta_data: dict[str, Any] | None = None


class Pattern(Protocol):
    """A compiled regular expression over UTF-8."""

    @property
    def pattern(self) -> bytes:
        """The expression."""

    def search(self, text: bytes) -> object | None:
        """A match anywhere, or None."""

    def __hash__(self) -> int: ...


@lru_cache(maxsize=1024)
def compiled(url: str) -> Pattern:
    """Compile the expression of an allowed URL. Raises ValueError.

    RE2 matches in time linear in the path's length, so no expression can be used for a denial of service (ReDoS).
    Compiling takes a few milliseconds at most, bounded by the memory limit and by MAX_CLASSES.
    """
    if len(_CLASS.findall(url)) > MAX_CLASSES:
        raise ValueError(f"an expression may contain at most {MAX_CLASSES} Unicode classes (\\p, \\P)")
    try:
        pattern: Pattern = re2.compile(url.encode(), _OPTIONS)  # of bytes: no positions are counted in characters
    except re2.error as error:
        raise ValueError(f"'{url}' is not a valid RE2 regular expression: {_reason(error)}") from None
    return pattern


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


def first_unusable(rights: Iterable[AccessRight]) -> str | None:
    """The error of the first allowed URL or endpoint that is not a valid expression; None if all are valid."""
    for right in rights:
        for endpoint in right.endpoints:
            try:
                compiled(endpoint_pattern(endpoint.path))
            except ValueError as error:
                return f"access_rights.{right.api_id}.endpoints: {error}"
        for allowed in right.allowed_urls:
            try:
                compiled(allowed.url)
            except ValueError as error:
                return f"access_rights.{right.api_id}.allowed_urls: {error}"
    return None


def _is_match(pattern: Pattern, path: str) -> bool:
    """Whether the expression matches anywhere in the path; results for short paths are cached."""
    return _cached_search(pattern, path) if len(path) <= _MAX_CACHED_LENGTH else _searched(pattern, path)


def _searched(pattern: Pattern, path: str) -> bool:
    return pattern.search(path.encode()) is not None


_cached_search = lru_cache(maxsize=8192)(_searched)


@dataclass(frozen=True, slots=True)
class UrlRules:
    """Allowed paths and methods; without any rule, all are allowed."""

    rules: tuple[tuple[Pattern, frozenset[str]], ...] = ()

    @classmethod
    def of(cls, allowed: Iterable[AllowedUrl]) -> "UrlRules":
        """Compile the allowed URLs of a policy. An invalid expression allows nothing (fail closed)."""
        return cls(tuple((_pattern(url.url), frozenset(url.methods)) for url in allowed))

    @property
    def listed(self) -> Sequence[AllowedUrl]:
        """The rules as a policy has them; empty: everything is allowed."""
        return [AllowedUrl(url=rule.pattern.decode(), methods=tuple(sorted(methods))) for rule, methods in self.rules]

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

    pattern = b"[^\\x00-\\x{10FFFF}]"

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
    """A call must be allowed by each of them: one for each policy set, and one for the key_rules."""
    versions: tuple[frozenset[str], ...] = ()
    """The version of a call must be in each of them, on an API with versions."""
    limits: Limits = field(default_factory=Limits)
    endpoints: tuple[HolderRates, ...] = ()
    """Rate limits of single endpoints, by holder; empty if no policy has any."""
    endpoint_limits: dict[str, Limits] = field(default_factory=dict)
    """The limits of these rules, by the rules' names; they are within the limits of every holder."""
    own_limits: bool = False
    """True: calls of this API have their own counter; False: they share one with all other APIs."""
    meta_data: dict[str, Any] = field(default_factory=dict)
    inactive: bool = False

    def allows(self, method: str, paths: Iterable[str]) -> bool:
        """Whether the method is allowed on every one of these readings of the path."""
        for rules in self.urls:
            for path in paths:
                if not rules.allow(method, path):
                    return False
        return True

    @property
    def lists_urls(self) -> bool:
        """Whether any rule restricts URLs; otherwise every method and path is allowed."""
        for rules in self.urls:  # noqa: SIM110 - asked for every call, and a generator would cost more than the loop
            if rules.rules:
                return True
        return False

    def allows_version(self, version: str) -> bool:
        """Whether this version of the API is allowed."""
        return all(version in versions for versions in self.versions)


class PolicySets(NamedTuple):
    """The active policies that apply to a grant, by holder. A call must be granted by every set."""

    client: Sequence[Policy] | None
    """None: the client has no policy; its tokens then open only the API that issued them, without limits."""
    others: tuple[Sequence[Policy], ...] = ()
    """Further sets: the resource owner's, and the one that `key_rules` apply. Where the client has no policy, they
    define the rights, and each of them must grant the issuing API."""


def is_holder(owner: ResourceOwner | None, since: datetime) -> TypeGuard[ResourceOwner]:
    """Whether the user still exists, is active, and is the same who logged in with the password set at `since`.

    A user who was deleted and created again under the same name is another one, and must not get the old one's access.
    """
    return owner is not None and owner.active and since >= owner.created_at


def counter_of(api_id: str, client_id: str, subject: str | None) -> str:
    """The name of the counter for calls with tokens that this API issued to the client for the subject (if known).

    It does not depend on the token or the grant: a refresh or a new login does not reset the limits.
    """
    return counter_name("calls", api_id, client_id, *(() if subject is None else (subject,)))


def counter_name(*parts: str) -> str:
    """A short digest that is different for different parts, whatever characters they contain."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=21).digest()
    return base64.urlsafe_b64encode(digest).decode()


def counted_under(counter: str, api_id: str, access: ApiAccess) -> str:
    """The counter for calls of this API: the common one, or one for this API if it has its own limits."""
    return f"{counter}.{api_id}" if access.own_limits else counter


class Refusal(enum.Enum):
    """Why a grant may do nothing on an API."""

    NO_ACTIVE_POLICY = "no_active_policy"
    """All policies of the client, of the user or of `key_rules` were deleted or switched off. To treat that as "no
    policies" would lift all limits."""
    INACTIVE = "inactive"
    """A policy, or `key_rules`, says `is_inactive`."""
    NOT_GRANTED = "not_granted"
    """They do not grant this API."""


def decide(
    api: Api,
    issued_by: str,
    holders: Sequence[Sequence[Policy | None]],
    rules: KeyRules | None,
    meta_data: dict[str, Any],
) -> ApiAccess | Refusal:
    """What a grant may do on this API, or why it may do nothing.

    `holders` are the policies that are assigned to the client, and then those of each other holder; None stands for a
    policy that was deleted.
    """
    of_client, *others = map(_active, holders)
    if any(policies is not None and not policies for policies in (of_client, *others)):
        return Refusal.NO_ACTIVE_POLICY
    sets = PolicySets(of_client, tuple(policies for policies in others if policies is not None))
    access = access_on(api, issued_by, sets, rules, meta_data)
    if any(policy.is_inactive for policies in holders for policy in policies if policy and policy.active):
        return Refusal.INACTIVE
    if rules is not None and rules.is_inactive:
        return Refusal.INACTIVE
    return Refusal.NOT_GRANTED if access is None else access


def _active(policies: Sequence[Policy | None]) -> Sequence[Policy] | None:
    """The active policies; None if no policy was assigned."""
    return [policy for policy in policies if policy and policy.active] if policies else None


def access_on(
    api: Api, issued_by: str, sets: PolicySets, rules: KeyRules | None, meta_data: dict[str, Any]
) -> ApiAccess | None:
    """What a grant that was issued by `issued_by` may do on this API; None: nothing.

    Every policy set must grant the API; paths, versions and limits are intersected. Metadata is merged: the client's
    (`meta_data`), overwritten by the rules', then by the policies', the client's first.
    """
    if issued_by != api.api_id and not (api.auth_token or api.oauth):
        return None
    if sets.client is None and not _open_to_all(sets.others, issued_by, api):
        return None
    applied = [*(() if sets.client is None else (sets.client,)), *sets.others]
    accesses = [access for policies in applied if (access := _of_set(policies, api)) is not None]
    if len(accesses) < len(applied):
        return None
    policies = [policy for policies in applied for policy in policies]
    granted = replace(_intersection(accesses, rules), meta_data=_meta_data(meta_data, rules, policies))
    return _narrowed(granted, api, rules)


def _open_to_all(others: Sequence[Sequence[Policy]], issued_by: str, api: Api) -> bool:
    """Whether a client without policies can have access to this API at all."""
    if not others:
        return issued_by == api.api_id
    return all(any(grants(policy, issued_by) for policy in policies) for policies in others)


def _of_set(policies: Sequence[Policy], api: Api) -> ApiAccess | None:
    """What the policies of one holder allow together; None: nothing."""
    rights = [policy.access_rights[api.api_id] for policy in policies if grants(policy, api.api_id)]
    if not rights:
        return None
    limits, own = _limits(policies, api.api_id)
    rated = [
        policy.access_rights[api.api_id]
        for policy in policies
        if api.api_id in policy.access_rights and _counts(policy, "rate_limit")
    ]
    return ApiAccess(
        urls=(UrlRules.of(url for right in rights for url in right.allowed_urls),),
        versions=(frozenset(version for right in rights for version in right.versions),) if api.versioning else (),
        limits=limits,
        endpoints=(holder_rates(rated, is_rated=limits.rate > 0),),
        own_limits=own,
        inactive=any(policy.is_inactive for policy in policies),
    )


def _intersection(accesses: Sequence[ApiAccess], rules: KeyRules | None) -> ApiAccess:
    """What all allow, with limits that are at least as strict as each one's, and as each one's narrowed by the rules.

    The API gets its own counter only if every limit is the API's own.
    """
    limiting = [access for access in accesses if access.limits != Limits()]
    endpoints = _endpoint_rates(accesses, rules)
    return ApiAccess(
        urls=tuple(rules for access in accesses for rules in access.urls),
        versions=tuple(versions for access in accesses for versions in access.versions),
        limits=_strictest_limits([access.limits for access in accesses] or [Limits()], rules),
        endpoints=endpoints,
        endpoint_limits=common_limits(endpoints),
        own_limits=bool(limiting) and all(access.own_limits for access in limiting),
        inactive=any(access.inactive for access in accesses),
    )


def _endpoint_rates(accesses: Sequence[ApiAccess], rules: KeyRules | None) -> tuple[HolderRates, ...]:
    holders = tuple(holder for access in accesses for holder in access.endpoints)
    if not any(holder.lists for holder in holders):
        return ()
    # A rate in the rules is for all calls: no endpoint of a policy is exempt from it.
    is_rated = rules is not None and (rules.rate is not None or rules.per is not None)
    return (*holders, HolderRates(is_rated=True)) if is_rated else holders


def _strictest_limits(limits: Iterable[Limits], rules: KeyRules | None) -> Limits:
    # Beside the narrowed limits, the original ones stay: the rules may not fit one of them.
    every = [*limits]
    if rules is not None:
        every += [_narrowed_limits(each, rules) for each in every]
    return limits_of(strictest(map(rate_of, every)), strictest(map(quota_of, every)))


def _narrowed_limits(limits: Limits, rules: KeyRules) -> Limits:
    rate = rate_of(limits).narrowed(rules.rate, rules.per)
    quota = quota_of(limits).narrowed(rules.quota_max, rules.quota_renewal_rate)
    return limits_of(rate, quota)


def _counts(policy: Policy, part: str) -> bool:
    """Whether this part of the policy applies (`acl`, `rate_limit` or `quota`); without partitions all parts do."""
    partitions = policy.partitions
    if not (partitions.quota or partitions.rate_limit or partitions.acl or partitions.complexity):
        return True
    return bool(getattr(partitions, part))


def grants(policy: Policy, api_id: str) -> bool:
    """Whether the policy grants access to the API."""
    return api_id in policy.access_rights and _counts(policy, "acl")


def _limits(policies: Sequence[Policy], api_id: str) -> tuple[Limits, bool]:
    """The highest rate and quota of these policies; limits for this API replace the common ones. True: its own."""
    own = [_own(policy, policy.access_rights[api_id]) for policy in policies if _has_own(policy, api_id)]
    if own:
        rates, quotas = [rate for rate, _ in own], [quota for _, quota in own]
    else:
        rates = [_rate_of(policy) for policy in policies if _counts(policy, "rate_limit")]
        quotas = [_quota_of(policy) for policy in policies if _counts(policy, "quota")]
    return limits_of(highest(rates), highest(quotas)), bool(own)


def _has_own(policy: Policy, api_id: str) -> bool:
    if not grants(policy, api_id):
        return False
    return policy.partitions.per_api or policy.access_rights[api_id].limit is not None


def _own(policy: Policy, right: AccessRight) -> tuple[Allowance, Allowance]:
    """The limits for this API; what they leave out is taken from the policy."""
    limit = right.limit
    rate = rate_allowance(limit.rate, limit.per) if limit and limit.rate and limit.per else _rate_of(policy)
    quota = quota_allowance(limit.quota_max, limit.quota_renewal_rate) if limit and limit.quota_max else None
    return rate, quota or _quota_of(policy)


def _rate_of(policy: Policy) -> Allowance:
    return rate_allowance(policy.rate, policy.per)


def _quota_of(policy: Policy) -> Allowance:
    return quota_allowance(policy.quota_max, policy.quota_renewal_rate)


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
    return replace(granted, urls=urls, versions=versions, inactive=granted.inactive or rules.is_inactive)


def _meta_data(client: dict[str, Any], rules: KeyRules | None, policies: Sequence[Policy]) -> dict[str, Any]:
    merged = {**client, **((rules.meta_data if rules else None) or {})}
    for policy in policies:
        merged |= policy.meta_data
    return merged
