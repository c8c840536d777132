"""May this call pass? The one decision behind every door of the gateway."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from contracts.apis import Api
from contracts.clients import Client
from libs.catalog import Catalog
from libs.policies import counted_under
from services.gateway.limits import Limiter
from services.gateway.outcomes import UNLIMITED, Exceeded, Kind, Ticket
from services.gateway.paths import readings
from services.gateway.presented import Call, presented_token
from services.gateway.refusals import (
    AMBIGUOUS,
    API_DISALLOWED,
    CLIENT_GONE,
    EXPIRED,
    NO_API,
    QUOTA,
    RATE_LIMIT,
    UNCOUNTED,
    UNKNOWN_TOKEN,
    URL_DISALLOWED,
    Denial,
)
from services.gateway.rights import Right, Rights
from services.gateway.token_grants import TokenGrant, TokenGrants
from services.gateway.usage import UsageCounter
from services.gateway.versions import requested_version

_OVER = {Kind.RATE: RATE_LIMIT, Kind.QUOTA: QUOTA, Kind.UNAVAILABLE: UNCOUNTED}


class Bearer(NamedTuple):
    """Who holds a living access token."""

    grant: TokenGrant
    client: Client


class Admitted(NamedTuple):
    """A call that may pass, and in whose name; grant None on an API that asks for no token."""

    api: Api
    grant: TokenGrant | None = None
    injected: Mapping[str, str] = MappingProxyType({})
    """Headers that the upstream gets."""
    figures: Ticket = UNLIMITED
    """What is left of its quota."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A living access token, and the APIs that it opens, the issuing one first."""

    grant: TokenGrant
    apis: tuple[Api, ...]


class _Case:
    """What is known of a call so far: whom it is counted for, however it ends."""

    __slots__ = ("api_id", "client_id")

    def __init__(self) -> None:
        self.api_id: str | None = None
        self.client_id: str | None = None


@dataclass(frozen=True, slots=True)
class AccessDecision:
    """Decides from what this process knows of tokens, clients and policies; a hit waits for nothing."""

    catalog: Catalog
    tokens: TokenGrants
    rights: Rights
    limiter: Limiter
    usage: UsageCounter
    now: Callable[[], datetime]

    async def decide(self, call: Call) -> Admitted | Denial:
        """Admitted, and counted against the grant's limits; or why not."""
        case = _Case()
        outcome = await self._decide(call, case)
        if isinstance(outcome, Denial):
            self.usage.refused(case.api_id, case.client_id, outcome.reason)
        elif outcome.grant is not None:
            self.usage.verified(outcome.api.api_id, outcome.grant.client_id)
        return outcome

    async def _decide(self, call: Call, case: _Case) -> Admitted | Denial:
        paths = readings(call.path)
        api = await self.addressed(paths)
        if isinstance(api, Denial):
            return api
        case.api_id = api.api_id
        if api.oauth is None and not api.auth_token:
            return Admitted(api)
        token = presented_token(call, api.token_location, bare=api.auth_token)
        if isinstance(token, Denial):
            return token
        bearer = await self.bearer(token, case)
        if isinstance(bearer, Denial):
            return bearer
        right = await self.rights.of(bearer.grant, bearer.client, api)
        if isinstance(right, Denial):
            return right
        refusal = _refusal(right, call, api, paths)
        if refusal is not None:
            return refusal
        # Last, since a call that is refused counts for nothing.
        limits, scope = right.access.limits, counted_under(bearer.grant.grant_id, api.api_id, right.access)
        counted = self.limiter.take(scope, limits) or await self.limiter.reserve(scope, limits)
        if isinstance(counted, Exceeded):
            return replace(_OVER[counted.kind], retry_after=counted.retry_after, figures=counted.figures)
        return Admitted(api, bearer.grant, right.injected, counted)

    async def addressed(self, paths: Collection[str]) -> Api | Denial:
        """The API that the call goes to, whichever way the proxy in front reads the path."""
        first, *others = paths
        api = await self.catalog.api_serving(first)
        for path in others:
            other = await self.catalog.api_serving(path)
            if other is not api and (other is None or api is None or other.api_id != api.api_id):
                return AMBIGUOUS
        return api if api is not None and api.active else NO_API

    async def bearer(self, token: str, case: _Case | None = None) -> Bearer | Denial:
        """Who holds an access token that is alive."""
        grant = self.tokens.held(token) or await self.tokens.read(token)
        if grant is None:
            return UNKNOWN_TOKEN
        if case is not None:
            case.client_id = grant.client_id
        client = self.catalog.held_client(grant.client_id) or await self.catalog.client(grant.client_id)
        if client is None:
            return CLIENT_GONE
        if not grant.live or (client.revoked_before is not None and grant.created_at <= client.revoked_before):
            return UNKNOWN_TOKEN
        return EXPIRED if grant.expires_at <= self.now() else Bearer(grant, client)

    async def standing(self, token: str) -> Standing | Denial:
        """Where some call with this token would be admitted, limits aside: nothing is counted."""
        bearer = await self.bearer(token)
        if isinstance(bearer, Denial):
            return bearer
        reachable = await self._reachable(bearer)
        opened = [api for api in reachable if isinstance(await self.rights.of(bearer.grant, bearer.client, api), Right)]
        return Standing(bearer.grant, tuple(opened)) if opened else API_DISALLOWED

    async def _reachable(self, bearer: Bearer) -> list[Api]:
        """The active APIs that ask for a token and are the issuing one, or named in a policy."""
        grant = bearer.grant
        policies = [await self.catalog.policy(policy_id) for policy_id in grant.policy_ids or bearer.client.policy_ids]
        named = {api_id for policy in policies if policy for api_id in policy.access_rights}
        apis = [await self.catalog.api(api_id) for api_id in (grant.api_id, *sorted(named - {grant.api_id}))]
        return [api for api in apis if api and api.active and (api.oauth or api.auth_token)]


def _refusal(right: Right, call: Call, api: Api, paths: Collection[str]) -> Denial | None:
    """Why this very call is not among what the right opens, if so."""
    access = right.access
    if access.versions and api.versioning and not access.allows_version(requested_version(call, api, api.versioning)):
        return API_DISALLOWED
    return None if access.allows(call.method, paths) else URL_DISALLOWED
