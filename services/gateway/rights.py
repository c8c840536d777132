"""What the policies open to a grant, computed once for as long as nothing it follows from has changed."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import NamedTuple

from contracts.apis import Api
from contracts.clients import Client
from contracts.policies import Policy
from libs.catalog import Catalog
from libs.policies import ApiAccess, access_on
from services.gateway.metadata import injected_headers
from services.gateway.refusals import API_DISALLOWED, INACTIVE, UNKNOWN_TOKEN, Denial
from services.gateway.token_grants import TokenGrant

SIZE = 10_000


@dataclass(frozen=True, slots=True)
class Right:
    """What a grant may do on one API, and what the upstream is told of it."""

    access: ApiAccess
    injected: Mapping[str, str]


class _Known(NamedTuple):
    api: Api
    client: Client
    policies: Sequence[Policy | None]
    outcome: Right | Denial

    def follows_from(self, api: Api, client: Client, policies: Sequence[Policy | None]) -> bool:
        """Whether these are the very records it was computed from; the catalog gives new ones after a change."""
        return (
            self.api is api
            and self.client is client
            and len(self.policies) == len(policies)
            and all(map(is_, self.policies, policies))
        )


class Rights:
    """Of every grant that calls; shared by grants of one client without rules of their own."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: OrderedDict[tuple[str, str, tuple[str, ...]], _Known] = OrderedDict()

    async def of(self, grant: TokenGrant, client: Client, api: Api) -> Right | Denial:
        """What the grant may do on this API, by the policies as they are now."""
        policy_ids = grant.policy_ids or client.policy_ids
        catalog = self._catalog
        policies = [catalog.held_policy(policy_id) or await catalog.policy(policy_id) for policy_id in policy_ids]
        key = (api.api_id, grant.grant_id if grant.rules else grant.client_id, policy_ids)
        known = self._known.get(key)
        if known is None or not known.follows_from(api, client, policies):
            known = _Known(api, client, policies, _outcome(grant, client, api, policies))
            self._known[key] = known
            if len(self._known) > SIZE:
                self._known.popitem(last=False)
        return known.outcome


def _outcome(grant: TokenGrant, client: Client, api: Api, policies: Sequence[Policy | None]) -> Right | Denial:
    active = [policy for policy in policies if policy and policy.active]
    if policies and not active:
        return UNKNOWN_TOKEN
    access = access_on(api, grant.api_id, active if policies else None, grant.rules, client.meta_data)
    if any(policy.is_inactive for policy in active):
        return INACTIVE
    if access is None:
        return API_DISALLOWED
    return Right(access, injected_headers(api, access.meta_data))
