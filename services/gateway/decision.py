"""May this call pass? The one decision behind every door of the gateway."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from contracts.apis import Api
from contracts.clients import Client
from contracts.grants import AccessToken, Grant
from libs.catalog import Catalog
from libs.oauth.grants import is_revoked_with, live_access_token
from libs.oauth.tokens import TokenCodec, TokenKind
from libs.store.grants import Grants
from services.gateway.paths import readings
from services.gateway.presented import Call, presented_token
from services.gateway.refusals import (
    AMBIGUOUS,
    API_DISALLOWED,
    CLIENT_GONE,
    EXPIRED,
    INACTIVE,
    NO_API,
    UNKNOWN_TOKEN,
    Denial,
)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call that may pass, and in whose name; grant None on an API that asks for no token."""

    api: Api
    grant: Grant | None = None
    access: AccessToken | None = None


@dataclass(frozen=True, slots=True)
class AccessDecision:
    """Decides from the grant as MongoDB has it now, and from the catalog."""

    catalog: Catalog
    grants: Grants
    codec: TokenCodec
    now: Callable[[], datetime]

    async def decide(self, call: Call) -> Admitted | Denial:
        """Admitted, or why not."""
        api = await self._api(call.path)
        if isinstance(api, Denial):
            return api
        if api.oauth is None and not api.auth_token:
            return Admitted(api)
        token = presented_token(call, api.token_location, bare=api.auth_token)
        if isinstance(token, Denial):
            return token
        return await self._token(token, api)

    async def _api(self, path: str) -> Api | Denial:
        """The API that the call goes to, whichever way the proxy in front reads the path."""
        found = [await self.catalog.api_serving(reading) for reading in readings(path)]
        if len({api.api_id if api else None for api in found}) > 1:
            return AMBIGUOUS
        api = found[0]
        return api if api and api.active else NO_API

    async def _token(self, token: str, api: Api) -> Admitted | Denial:
        presented = self.codec.read(TokenKind.ACCESS, token)
        grant = await self.grants.read(presented.grant_id) if presented else None
        if presented is None or grant is None:
            return UNKNOWN_TOKEN
        client = await self.catalog.client(grant.client_id)
        if client is None:
            return CLIENT_GONE
        access = live_access_token(grant, presented)
        if access is None or is_revoked_with(grant, client):
            return UNKNOWN_TOKEN
        if access.expires_at <= self.now():
            return EXPIRED
        return await self._refusal(grant, client, api) or Admitted(api, grant, access)

    async def _refusal(self, grant: Grant, client: Client, api: Api) -> Denial | None:
        """Why the grant's policies do not open this API, if so; without a policy only the issuing API is open."""
        if grant.api_id != api.api_id and not api.auth_token:
            return API_DISALLOWED
        policy_ids = grant.policy_ids or client.policy_ids
        if not policy_ids:
            return None if grant.api_id == api.api_id else API_DISALLOWED
        policies = [await self.catalog.policy(policy_id) for policy_id in policy_ids]
        active = [policy for policy in policies if policy and policy.active]
        if not active:
            return UNKNOWN_TOKEN
        if any(policy.is_inactive for policy in active):
            return INACTIVE
        rights = (grant.key_rules or {}).get("access_rights")
        opened = any(api.api_id in policy.access_rights for policy in active)
        return None if opened and (rights is None or api.api_id in rights) else API_DISALLOWED
