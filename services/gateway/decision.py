"""May this call pass? The one decision behind every door of the gateway."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from contracts.apis import Api
from contracts.clients import Client
from contracts.grants import AccessToken, Grant
from libs.catalog import Catalog
from libs.oauth.grants import live_access_token
from libs.oauth.tokens import TokenCodec, TokenKind
from libs.store.grants import Grants
from services.gateway.presented import Call, presented_token
from services.gateway.refusals import API_DISALLOWED, CLIENT_GONE, EXPIRED, NO_API, UNKNOWN_TOKEN, Denial


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
        api = await self.catalog.api_serving(call.path)
        if api is None or not api.active:
            return NO_API
        if api.oauth is None and not api.auth_token:
            return Admitted(api)
        token = presented_token(call, api.token_location)
        if isinstance(token, Denial):
            return token
        return await self._token(token, api)

    async def _token(self, token: str, api: Api) -> Admitted | Denial:
        presented = self.codec.read(TokenKind.ACCESS, token)
        if presented is None:
            return UNKNOWN_TOKEN
        grant = await self.grants.read(presented.grant_id)
        access = live_access_token(grant, presented) if grant else None
        if grant is None or access is None:
            return UNKNOWN_TOKEN
        if access.expires_at <= self.now():
            return EXPIRED
        client = await self.catalog.client(grant.client_id)
        if client is None or (client.revoked_before is not None and grant.created_at <= client.revoked_before):
            return CLIENT_GONE
        if not await self._granted(grant, client, api):
            return API_DISALLOWED
        return Admitted(api, grant, access)

    async def _granted(self, grant: Grant, client: Client, api: Api) -> bool:
        """Whether the grant's policies open this API; without a policy only the issuing API is open."""
        if grant.api_id != api.api_id and not api.auth_token:
            return False
        policy_ids = grant.policy_ids or client.policy_ids
        if not policy_ids:
            return grant.api_id == api.api_id
        policies = [await self.catalog.policy(policy_id) for policy_id in policy_ids]
        live = [policy for policy in policies if policy and policy.active and not policy.is_inactive]
        if not any(api.api_id in policy.access_rights for policy in live):
            return False
        rights = (grant.key_rules or {}).get("access_rights")
        return rights is None or api.api_id in rights
