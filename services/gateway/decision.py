"""May this call pass? The one decision behind every door of the gateway."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from contracts.apis import Api
from contracts.clients import Client
from libs.catalog import Catalog
from services.gateway.paths import readings
from services.gateway.presented import Call, presented_token
from services.gateway.refusals import (
    AMBIGUOUS,
    API_DISALLOWED,
    CLIENT_GONE,
    EXPIRED,
    NO_API,
    UNKNOWN_TOKEN,
    URL_DISALLOWED,
    Denial,
)
from services.gateway.rights import Right, Rights
from services.gateway.token_grants import TokenGrant, TokenGrants
from services.gateway.versions import requested_version


class Bearer(NamedTuple):
    """Who holds a living access token."""

    grant: TokenGrant
    client: Client


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call that may pass, and in whose name; grant None on an API that asks for no token."""

    api: Api
    grant: TokenGrant | None = None
    injected: Mapping[str, str] = field(default_factory=dict)
    """Headers that the upstream gets."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A living access token, and the APIs that it opens, the issuing one first."""

    grant: TokenGrant
    apis: tuple[Api, ...]


@dataclass(frozen=True, slots=True)
class AccessDecision:
    """Decides from what this process knows of tokens, clients and policies; a hit waits for nothing."""

    catalog: Catalog
    tokens: TokenGrants
    rights: Rights
    now: Callable[[], datetime]

    async def decide(self, call: Call) -> Admitted | Denial:
        """Admitted, or why not."""
        paths = readings(call.path)
        api = await self._api(paths)
        if isinstance(api, Denial):
            return api
        if api.oauth is None and not api.auth_token:
            return Admitted(api)
        token = presented_token(call, api.token_location, bare=api.auth_token)
        if isinstance(token, Denial):
            return token
        bearer = await self.bearer(token)
        if isinstance(bearer, Denial):
            return bearer
        right = await self.rights.of(bearer.grant, bearer.client, api)
        if isinstance(right, Denial):
            return right
        return _refusal(right, call, api, paths) or Admitted(api, bearer.grant, right.injected)

    async def _api(self, paths: Collection[str]) -> Api | Denial:
        """The API that the call goes to, whichever way the proxy in front reads the path."""
        found = [await self.catalog.api_serving(path) for path in paths]
        if len({api.api_id if api else None for api in found}) > 1:
            return AMBIGUOUS
        api = found[0]
        return api if api and api.active else NO_API

    async def bearer(self, token: str) -> Bearer | Denial:
        """Who holds an access token that is alive."""
        grant = self.tokens.held(token) or await self.tokens.read(token)
        if grant is None:
            return UNKNOWN_TOKEN
        client = await self.catalog.client(grant.client_id)
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
