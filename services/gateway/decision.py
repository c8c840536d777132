"""The access decision: whether a call to a protected API is admitted.

The reverse proxy (`proxy`) and forward authentication (`verify`) both use it, so they cannot disagree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from contracts.apis import Api
from contracts.clients import Client
from libs.catalog import Catalog, SeveralApis
from libs.policies import counted_under
from services.gateway.access_rights import Right, Rights
from services.gateway.bearer_token import presented_token
from services.gateway.calls import Call
from services.gateway.guards.chain import NO_GUARDS, GuardChain, GuardResult
from services.gateway.guards.guard_input import requested_hosts
from services.gateway.injected_headers import injected_headers
from services.gateway.leases import QUOTA_ONLY
from services.gateway.rate_limit_result import UNLIMITED, Exceeded, LimitKind, QuotaState, RateLimitResult
from services.gateway.rate_limiter import RateLimiter, note_refusal
from services.gateway.refusal_counter import RefusalCounter
from services.gateway.refusals import (
    AMBIGUOUS,
    API_DISALLOWED,
    CLIENT_GONE,
    EXPIRED,
    NO_API,
    QUOTA,
    RATE_LIMIT,
    TOO_MANY_READINGS,
    UNCOUNTED,
    UNKNOWN_TOKEN,
    URL_DISALLOWED,
    Denial,
)
from services.gateway.token_grants import TokenGrant, TokenGrants
from services.gateway.usage_counter import UsageCounter
from services.gateway.versions import requested_versions

_OVER = {LimitKind.RATE: RATE_LIMIT, LimitKind.QUOTA: QUOTA, LimitKind.UNAVAILABLE: UNCOUNTED}


class TokenHolder(NamedTuple):
    """The grant and the client behind a valid access token."""

    grant: TokenGrant
    client: Client


class Admitted(NamedTuple):
    """The call is admitted. `grant` is None if no token was needed."""

    api: Api
    grant: TokenGrant | None = None
    injected: Mapping[str, str] = MappingProxyType({})
    """Headers that the API definition sets; with an empty value, the upstream must not get a header of this name."""
    quota: QuotaState = UNLIMITED
    """For the `X-RateLimit-*` response headers."""


class Passed(NamedTuple):
    """A call that is admitted if the limits allow it. Nothing is counted or recorded yet."""

    admitted: Admitted
    """Without the state of the quota."""
    guard_result: GuardResult = NO_GUARDS
    right: Right | None = None
    """None if no token was needed."""
    counter: str = ""
    """Under whose name the limits of `right` are counted."""

    @property
    def has_rates(self) -> bool:
        """Whether the call may count against limits of its API or of an endpoint, besides those of its grant."""
        if self.right is not None and self.right.endpoint_rates is not None:
            return True
        return self.guard_result is not NO_GUARDS and bool(self.guard_result.counters())


@dataclass(frozen=True, slots=True)
class TokenAccess:
    """A valid access token's grant, and the APIs that the token opens, starting with the one that issued it."""

    grant: TokenGrant
    apis: tuple[Api, ...]


class _UsageLabels:
    """The API, client and grant that the usage counters attribute the call to; filled in as soon as each is known.

    All are ids of existing records, never text from the request: a caller could otherwise create endless counters.
    """

    __slots__ = ("api_id", "client_id", "grant_id")

    def __init__(self) -> None:
        self.api_id: str | None = None
        self.client_id: str | None = None
        self.grant_id: str | None = None


@dataclass(frozen=True, slots=True)
class AccessDecision:
    """Decides about calls, from cached tokens, clients and policies; with everything cached there is no I/O."""

    catalog: Catalog
    tokens: TokenGrants
    rights: Rights
    limiter: RateLimiter
    usage: UsageCounter
    refusals: RefusalCounter
    now: Callable[[], datetime]
    guards: GuardChain
    """Checks of API definitions besides the token."""

    async def decide(self, call: Call, api: Api | Denial | None = None) -> Admitted | Denial:
        """Admit the call and count it against the limits of its grant, or say why it is refused.

        `api` is the result of `requested_api`, if the caller has it already.
        """
        labels = _UsageLabels()
        passed = await self._checked(call, labels, api)
        outcome = passed if isinstance(passed, Denial) else await self._counted(call, passed)
        if isinstance(outcome, Denial):
            self.usage.refused(labels.api_id, labels.client_id, outcome.reason)
            if labels.grant_id is not None:
                self.refusals.count(labels.grant_id, outcome.reason)
        else:
            self._record(outcome)
        return outcome

    async def check(self, call: Call, api: Api) -> Passed | Denial:
        """Whether the call is admitted if the limits allow it. A refusal is not recorded: the call is decided again."""
        return await self._checked(call, _UsageLabels(), api)

    async def admit(self, call: Call, passed: Passed) -> Admitted | None:
        """Admit a checked call and count it against the limits of its grant; None, and nothing is recorded, if they are
        exceeded. A call that `has_rates` must not come here: it may be counted under one limit, and refused by another.
        """
        admitted, _, right, counter = passed
        if right is not None:
            quota = await self._count(call, admitted.api, right, counter)
            if isinstance(quota, Exceeded):
                return None
            admitted = Admitted(admitted.api, admitted.grant, admitted.injected, quota)
        self._record(admitted)
        return admitted

    def _record(self, admitted: Admitted) -> None:
        if admitted.grant is not None:
            self.usage.verified(admitted.api.api_id, admitted.grant.client_id)

    async def _checked(self, call: Call, labels: _UsageLabels, api: Api | Denial | None) -> Passed | Denial:
        # The order is part of the behaviour (a caller sees the first refusal) and of the security:
        # 1. API and host. An internal API must look as if it did not exist, whatever else is wrong with the call.
        # 2. The definition's own checks. A blocked address or path learns nothing about the validity of its token.
        # 3. Token, then rights: only the holder of a valid token learns what it may do.
        # 4. Limits last: a refused call must not use up anybody's quota. The grant's limits come before the API's, so
        #    that a caller over its own limit does not use up the limit that all callers share.
        api = api or await self.requested_api(call)
        if isinstance(api, Denial):
            return api
        labels.api_id = api.api_id
        guard_result = NO_GUARDS if api.guards is None else self.guards.check(api, call)
        if isinstance(guard_result, Denial):
            return guard_result
        if guard_result.needs_no_token or (api.oauth is None and not api.auth_token):
            return Passed(Admitted(api, injected=injected_headers(api, {})), guard_result)
        token = presented_token(call, api)
        if isinstance(token, Denial):
            return token
        holder = await self.token_holder(token, labels)
        if isinstance(holder, Denial):
            return holder
        right = await self.rights.of(holder.grant, holder.client, api)
        if isinstance(right, Denial):
            return right
        refusal = _refusal(right, call, api)
        if refusal is not None:
            return refusal
        return Passed(Admitted(api, holder.grant, right.injected), guard_result, right, holder.grant.counter)

    async def _counted(self, call: Call, passed: Passed) -> Admitted | Denial:
        admitted, guard_result, right, counter = passed
        if right is not None:
            counted = await self._count(call, admitted.api, right, counter)
            if isinstance(counted, Exceeded):
                note_refusal(counted.kind)
                return replace(_OVER[counted.kind], retry_after=counted.retry_after, quota=counted.quota)
            admitted = Admitted(admitted.api, admitted.grant, admitted.injected, counted)
        refusal = None if guard_result is NO_GUARDS else await self.guards.count(guard_result)
        return refusal or admitted

    async def _count(self, call: Call, api: Api, right: Right, counter: str) -> RateLimitResult:
        """Count the call against the limits of its grant, or say which one is exceeded."""
        limits, scope = right.access.limits, counted_under(counter, api.api_id, right.access)
        if right.endpoint_rates is not None:
            rates = right.endpoint_rates.counted(call, api)
            # Before the quota: a call over the limit of its endpoint must not use up anything else.
            for name, endpoint in rates.limits.items():
                of_endpoint = f"{counter}.{api.api_id}/{name}"
                taken = self.limiter.take(of_endpoint, endpoint) or await self.limiter.reserve(of_endpoint, endpoint)
                if isinstance(taken, Exceeded):
                    return taken._replace(quota=None)
            if not rates.counts_for_rate:
                limits, scope = right.endpoint_rates.quota, scope + QUOTA_ONLY
        return self.limiter.take(scope, limits) or await self.limiter.reserve(scope, limits)

    async def admit_without_token(self, call: Call, admitted: Admitted) -> Admitted | Denial:
        """Admit a CORS preflight for the upstream, unless a check of the API definition refuses it."""
        guard_result = self.guards.check(admitted.api, call)
        return guard_result if isinstance(guard_result, Denial) else await self.guards.count(guard_result) or admitted

    async def requested_api(self, call: Call) -> Api | Denial:
        """The API that the call is for. AMBIGUOUS if servers on the way could read the path as one of another API."""
        paths = call.paths
        if not paths:
            return TOO_MANY_READINGS
        try:
            api = await self.catalog.api_serving(paths)
        except SeveralApis:
            return AMBIGUOUS
        if api is None or not api.active:
            return NO_API
        return api if api.guards is None else self.guards.host_refusal(api, partial(requested_hosts, call)) or api

    async def token_holder(self, token: str, labels: _UsageLabels | None = None) -> TokenHolder | Denial:
        """The grant and client of an access token; a Denial if it is unknown, revoked or expired."""
        grant = self.tokens.cached(token) or await self.tokens.read(token)
        if grant is None:
            return UNKNOWN_TOKEN
        if labels is not None:
            labels.client_id, labels.grant_id = grant.client_id, grant.grant_id
        whose = grant.client_id, grant.api_id
        client = self.catalog.cached_client(*whose) or await self.catalog.client(*whose)
        if client is None:
            return CLIENT_GONE
        # `revoked_before` revokes all of a client's tokens with one write; the grants are ended one by one afterwards.
        if not grant.live or (client.revoked_before is not None and grant.created_at <= client.revoked_before):
            return UNKNOWN_TOKEN
        return EXPIRED if grant.expires_at <= self.now() else TokenHolder(grant, client)

    async def token_access(self, token: str) -> TokenAccess | Denial:
        """The APIs on which some call with this token would be admitted, limits aside; nothing is counted."""
        holder = await self.token_holder(token)
        if isinstance(holder, Denial):
            return holder
        reachable = await self._reachable(holder)
        opened = [api for api in reachable if isinstance(await self.rights.of(holder.grant, holder.client, api), Right)]
        return TokenAccess(holder.grant, tuple(opened)) if opened else API_DISALLOWED

    async def _reachable(self, holder: TokenHolder) -> list[Api]:
        """The candidates: active APIs that need a token and issued this one, or that a policy names."""
        grant = holder.grant
        named = await self.rights.named_apis(grant, holder.client)
        apis = [await self.catalog.api(api_id) for api_id in (grant.api_id, *sorted(named - {grant.api_id}))]
        asking = (api for api in apis if api and api.active and (api.oauth or api.auth_token))
        return [api for api in asking if not self.guards.is_unreachable(api)]


def _refusal(right: Right, call: Call, api: Api) -> Denial | None:
    """Why the right does not cover this call's version, method or path; None if it does.

    Every reading of the call must be covered: the upstream may read it in any of these ways.
    """
    access = right.access
    if api.versioning:
        versions = requested_versions(call, api, api.versioning)
        if isinstance(versions, Denial):
            return versions
        if not all(map(access.allows_version, versions)):
            return API_DISALLOWED
    if not access.lists_urls:
        return None
    for method in call.methods(overridable=api.method_override):
        if not access.allows(method, call.paths):
            return URL_DISALLOWED
    return None
