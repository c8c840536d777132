"""The rights of grants by their policies, cached until a record that they follow from changes."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import NamedTuple

from contracts.apis import Api
from contracts.clients import Client
from contracts.policies import Policy
from libs.catalog import Catalog
from libs.policies import ApiAccess, Refusal, decide, is_holder
from services.gateway.endpoint_limits import EndpointRates
from services.gateway.injected_headers import injected_headers
from services.gateway.refusals import API_DISALLOWED, INACTIVE, UNKNOWN_TOKEN, Denial
from services.gateway.token_grants import TokenGrant

SIZE = 10_000
"""Cached rights."""


@dataclass(frozen=True, slots=True)
class Right:
    """What a grant may do on one API, and the headers that the upstream gets with its calls."""

    access: ApiAccess
    injected: Mapping[str, str]
    endpoint_rates: EndpointRates | None = None
    """Rate limits of single endpoints; None if the policies have none."""


class _CachedRight(NamedTuple):
    api: Api
    client: Client
    policies: Sequence[Policy | None]
    outcome: Right | Denial

    def follows_from(self, api: Api, client: Client, policies: Sequence[Policy | None]) -> bool:
        """Whether it was computed from these objects. The catalog returns new objects after every change, so comparing
        identities is enough; a call then costs no comparison of policies.
        """
        return (
            self.api is api
            and self.client is client
            and len(self.policies) == len(policies)
            and all(map(is_, self.policies, policies))
        )


class Rights:
    """Computes and caches rights. Grants of one client without `key_rules` share an entry."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._cache: OrderedDict[tuple[str, str, tuple[str, ...]], _CachedRight] = OrderedDict()

    async def of(self, grant: TokenGrant, client: Client, api: Api) -> Right | Denial:
        """What the grant may do on this API under the current policies of its client, its user and its `key_rules`."""
        policy_ids = client.policy_ids
        if grant.rules is not None:
            policy_ids += grant.rules.apply_policies
        owner_ids: tuple[str, ...] = ()
        if grant.resource_owner is not None:
            owner = await self._catalog.resource_owner(grant.resource_owner)
            if not is_holder(owner, grant.owner_since):
                # The user was deleted, disabled, or created again under the same name: the token is not theirs.
                return UNKNOWN_TOKEN
            owner_ids = owner.policy_ids
            policy_ids += owner_ids
        policies: Sequence[Policy | None] | None = self._catalog.cached_policies(policy_ids)
        if policies is None:
            policies = await self._catalog.policies(policy_ids)
        # The grant id stands for its rules and the policies that they apply: these never change.
        key = (api.api_id, grant.grant_id if grant.rules else f"{grant.api_id} {grant.client_id}", owner_ids)
        cached = self._cache.get(key)
        if cached is None or not cached.follows_from(api, client, policies):
            cached = _CachedRight(api, client, policies, _outcome(grant, client, api, policies))
            self._cache[key] = cached
            if len(self._cache) > SIZE:
                self._cache.popitem(last=False)
        return cached.outcome

    async def named_apis(self, grant: TokenGrant, client: Client) -> set[str]:
        """The ids of all APIs in the policies of the client, the user or `key_rules`."""
        policy_ids = client.policy_ids + (grant.rules.apply_policies if grant.rules else ())
        if grant.resource_owner is not None:
            owner = await self._catalog.resource_owner(grant.resource_owner)
            policy_ids += owner.policy_ids if owner is not None else ()
        policies = await self._catalog.policies(policy_ids)
        return {api_id for policy in policies if policy for api_id in policy.access_rights}


_DENIALS = {
    Refusal.NO_ACTIVE_POLICY: UNKNOWN_TOKEN,
    Refusal.INACTIVE: INACTIVE,
    Refusal.NOT_GRANTED: API_DISALLOWED,
}


def _outcome(grant: TokenGrant, client: Client, api: Api, policies: Sequence[Policy | None]) -> Right | Denial:
    """Compute the right. `policies` are the client's, then those of the grant's rules, then the user's."""
    applied = len(client.policy_ids)
    owned = applied + (len(grant.rules.apply_policies) if grant.rules else 0)
    holders = policies[:applied], policies[applied:owned], policies[owned:]
    access = decide(api, grant.api_id, holders, grant.rules, client.meta_data)
    if isinstance(access, Refusal):
        return _DENIALS[access]
    return Right(access, injected_headers(api, access.meta_data), EndpointRates.of(access))
