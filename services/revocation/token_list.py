"""GET …/{client_id}/tokens: a client's live access tokens, and what is left of their limits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
from aiohttp import web

from contracts.clients import Client
from contracts.grants import Grant, IssuedToken, IssuedTokens, Pagination
from contracts.limits import Limits, QuotaStanding, RateLimit, Standing
from contracts.operators import Permission
from libs.access import Access
from libs.catalog import Catalog
from libs.http.errors import NO_STORE, NotFound, json_bytes
from libs.oauth.tokens import public_token_id
from libs.policies import KeyRules, access_on, counted_under
from libs.store.clients import Clients
from libs.store.counters import Counters
from libs.store.grants import Grants

PAGE_SIZE = 100
MOST_UNPAGED = 10_000


@dataclass(frozen=True, slots=True)
class TokenList:
    """For operators with `read`."""

    access: Access
    clients: Clients
    catalog: Catalog
    grants: Grants
    counters: Counters
    now: Callable[[], datetime]

    async def show(self, request: web.Request) -> web.Response:
        """The soonest to expire first: a list, or with `?page=` one page of a hundred."""
        await self.access.require(request, Permission.READ)
        client = await client_of_path(self.clients, request)
        page = request.query.get("page")
        if page is None:
            grants, _ = await self.grants.page_of_client(client, self.now(), 1, MOST_UNPAGED)
            return _answer([token.model_dump(exclude_none=True) for token in await self._listed(client, grants)])
        number = max(1, int(page) if page.isascii() and page.isdecimal() and 0 < len(page) < 9 else 1)
        grants, total = await self.grants.page_of_client(client, self.now(), number, PAGE_SIZE)
        pagination = Pagination(page_num=number, page_total=-(-total // PAGE_SIZE), page_size=PAGE_SIZE)
        tokens = IssuedTokens(Pagination=pagination, Tokens=await self._listed(client, grants))
        return _answer(tokens.model_dump(exclude_none=True))

    async def _listed(self, client: Client, grants: Sequence[Grant]) -> list[IssuedToken]:
        counted = [await self._counted(client, grant) for grant in grants]
        standings = await self.counters.standings(dict(filter(None, counted)))
        return [
            _token(grant, standings[scope_and_limits[0]] if scope_and_limits else None)
            for grant, scope_and_limits in zip(grants, counted, strict=True)
        ]

    async def _counted(self, client: Client, grant: Grant) -> tuple[str, Limits] | None:
        """The counter of the grant's calls of the API that issued it, and their limits; None: nothing limits them."""
        api = await self.catalog.api(grant.api_id)
        policy_ids = grant.policy_ids or client.policy_ids
        policies = [await self.catalog.policy(policy_id) for policy_id in policy_ids]
        active = [policy for policy in policies if policy and policy.active]
        rules = KeyRules.model_validate(grant.key_rules) if grant.key_rules is not None else None
        access = access_on(api, grant.api_id, active if policy_ids else None, rules, {}) if api else None
        if access is None or access.limits == Limits():
            return None
        return counted_under(grant.grant_id, grant.api_id, access), access.limits


async def client_of_path(clients: Clients, request: web.Request) -> Client:
    """The client that the path names, of the API that it names, if it does. Raises NotFound."""
    client = await clients.get(request.match_info["client_id"])
    api_id = request.match_info.get("api_id")
    if client is None or (api_id is not None and client.api_id != api_id):
        raise NotFound("OAuth Client ID not found")
    return client


def _answer(body: object) -> web.Response:
    return json_bytes(orjson.dumps(body), headers=NO_STORE)


def _token(grant: Grant, standing: Standing | None) -> IssuedToken:
    if grant.access is None:
        raise ValueError("a listed grant has an access token")
    return IssuedToken(
        code=public_token_id(grant.grant_id, grant.generation),
        expires=int(grant.access.expires_at.timestamp()),
        grant_id=grant.grant_id,
        subject=grant.subject,
        scope=grant.access.scope,
        rate_limit=RateLimit(requests=standing.rate, per_unit=standing.per) if standing and standing.rate else None,
        quota=QuotaStanding.model_validate(standing.model_dump()) if standing and standing.quota_max > 0 else None,
    )
