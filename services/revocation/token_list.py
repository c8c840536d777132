"""GET …/{client_id}/tokens: the valid access tokens of a client, with what is left of their rate limits and quotas."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
from aiohttp import web

from contracts.apis import GrantType
from contracts.clients import Client
from contracts.grants import Grant, IssuedToken, IssuedTokenList, IssuedTokens, Pagination
from contracts.limits import Limits, LimitStatus, QuotaStatus, RateLimit
from contracts.operations import Parameters, ResponseSpec
from contracts.operators import Permission
from contracts.pages import MOST_AT_ONCE, PAGE_SIZE, TokenPageQuery
from contracts.policies import Policy
from libs.catalog import Catalog, Registrations
from libs.http.error_responses import BadRequest, NotFound
from libs.http.operations import CLIENT_ID_PATTERN, operator_operation
from libs.http.pages import cursor_of, link_to_next, read_cursor, require_within_reach
from libs.http.responses import NO_STORE, json_bytes
from libs.oauth.registrations import registered_on, registrations_of
from libs.oauth.token_formats import public_token_id
from libs.policies import ApiAccess, KeyRules, PolicySets, access_on, counted_under, counter_of
from libs.store.clients import Clients
from libs.store.counters import Counters
from libs.store.grants import End, Grants

_MILLISECONDS = re.compile(r"[0-9]{1,14}")

_LISTED = (
    "Live access tokens by their public ids, the first to expire first, with what is left of their limits. Without "
    "`page`, a plain list of up to 500; `Link` leads to the rest."
)
_TOKENS = ResponseSpec(
    description="The tokens.",
    models=(IssuedTokenList, IssuedTokens),
    headers={"Link": 'The next tokens (`rel="next"`), relative to the request; absent at the end.'},
)


@dataclass(frozen=True, slots=True)
class TokenList:
    """Lists tokens for operators with the permission `read`."""

    clients: Clients
    catalog: Catalog
    grants: Grants
    counters: Counters
    now: Callable[[], datetime]

    @operator_operation(
        "GET",
        "/api/apis/oauth/{api_id}/{client_id}/tokens",
        "listTokens",
        Permission.READ,
        tag="Revocation",
        summary="List a client's tokens",
        description=_LISTED,
        parameters=Parameters(model=TokenPageQuery),
        response=_TOKENS,
        errors=(400, 404),
        patterns=CLIENT_ID_PATTERN,
    )
    @operator_operation(
        "GET",
        "/api/apis/oauth/{client_id}/tokens",
        "listTokensOnShortPath",
        Permission.READ,
        tag="Revocation",
        summary="List a client's tokens on all APIs",
        description="As listTokens, for all APIs on which the client is registered.",
        parameters=Parameters(model=TokenPageQuery),
        response=_TOKENS,
        errors=(400, 404),
        patterns=CLIENT_ID_PATTERN,
    )
    async def show(self, request: web.Request) -> web.Response:
        """200 with a list of up to MOST_AT_ONCE tokens, or with `?page=` one page of a hundred; first to expire first.

        If there are more, the header `Link` has the URL of the rest, since Tyk's bodies have no field for it.
        """
        registrations = await self._registrations(request)
        cursor, page = read_cursor(request, len(End._fields)), request.query.get("page")
        if page is None:
            return await self._list(request, registrations, _end_of(cursor) if cursor else None)
        number = max(1, int(page) if page.isascii() and page.isdecimal() and 0 < len(page) < 9 else 1)
        grants, total = await self.grants.page_of_client(list(registrations.values()), self.now(), number, PAGE_SIZE)
        pages = -(-total // PAGE_SIZE)
        require_within_reach(number, pages)
        pagination = Pagination(page_num=number, page_total=pages, page_size=PAGE_SIZE)
        tokens = IssuedTokens(Pagination=pagination, Tokens=await self._listed(registrations, grants))
        following = _cursor_of(grants[-1]) if grants and number < pages else None
        return _json(tokens.model_dump(exclude_none=True), link_to_next(request, following))

    async def _registrations(self, request: web.Request) -> Registrations:
        """The client that the path names, on the API that it names or on all of its APIs. Raises NotFound."""
        client = await client_of_path(self.clients, request)
        return {client.api_id: client} if "api_id" in request.match_info else registrations_of(client)

    async def _list(self, request: web.Request, registrations: Registrations, after: End | None) -> web.Response:
        clients = list(registrations.values())
        grants, more = await self.grants.live_of_client(clients, self.now(), MOST_AT_ONCE, after)
        tokens = [token.model_dump(exclude_none=True) for token in await self._listed(registrations, grants)]
        return _json(tokens, link_to_next(request, _cursor_of(grants[-1]) if more else None))

    async def _listed(self, registrations: Registrations, grants: Sequence[Grant]) -> list[IssuedToken]:
        limited = await self._limited(registrations, grants)
        statuses = iter(await self.counters.limit_statuses([each for each in limited if each]))
        return [_token(grant, next(statuses) if each else None) for grant, each in zip(grants, limited, strict=True)]

    async def _limited(self, registrations: Registrations, grants: Sequence[Grant]) -> list[tuple[str, Limits] | None]:
        """For each grant the name of its counter and its limits on the API that issued it; None: it has no limits.

        Most grants of a client have the same limits, which are computed once.
        """
        users = await self._users(grants)
        of_clients = {
            api_id: PolicySets(await self._active(client.policy_ids)) for api_id, client in registrations.items()
        }
        known: dict[tuple[str, tuple[str, ...]], ApiAccess | None] = {}
        counters: dict[tuple[str, str, str | None], str] = {}
        limited: list[tuple[str, Limits] | None] = []
        for grant in grants:
            of_user = users.get(grant.subject or "", ()) if grant.grant_type is GrantType.PASSWORD else ()
            key, ours = (grant.api_id, of_user), of_clients[grant.api_id]
            if grant.key_rules is not None:
                access = await self._access(grant, ours, of_user)
            elif key in known:
                access = known[key]
            else:
                access = known[key] = await self._access(grant, ours, of_user)
            if access is None or access.limits == Limits():
                limited.append(None)
            else:
                whose = grant.api_id, grant.client_id, grant.subject
                counter = counters.get(whose) or counters.setdefault(whose, counter_of(*whose))
                limited.append((counted_under(counter, grant.api_id, access), access.limits))
        return limited

    async def _access(self, grant: Grant, ours: PolicySets, of_user: tuple[str, ...]) -> ApiAccess | None:
        api = await self.catalog.api(grant.api_id)
        rules = KeyRules.model_validate(grant.key_rules) if grant.key_rules is not None else None
        others = [await self._active(held) for held in (rules.apply_policies if rules else (), of_user)]
        sets = PolicySets(ours.client, tuple(policies for policies in others if policies is not None))
        return access_on(api, grant.api_id, sets, rules, {}) if api else None

    async def _users(self, grants: Sequence[Grant]) -> Mapping[str, tuple[str, ...]]:
        """The policy ids of the resource owners of password grants, looked up concurrently to share reads."""
        names = {grant.subject for grant in grants if grant.grant_type is GrantType.PASSWORD and grant.subject}
        users = await asyncio.gather(*(self.catalog.resource_owner(name) for name in names))
        return {name: user.policy_ids for name, user in zip(names, users, strict=True) if user}

    async def _active(self, policy_ids: Sequence[str]) -> Sequence[Policy] | None:
        """The active policies of these ids; None if no id is given."""
        policies = await self.catalog.policies(policy_ids)
        return [policy for policy in policies if policy and policy.active] if policy_ids else None


async def client_of_path(clients: Clients, request: web.Request) -> Client:
    """The client that the path names, seen from the API in the path, if any. Raises NotFound."""
    client = await clients.get(request.match_info["client_id"])
    api_id = request.match_info.get("api_id")
    if api_id is not None:
        client = registered_on(client, api_id)
    if client is None:
        raise NotFound("OAuth Client ID not found")
    return client


def _json(body: object, headers: Mapping[str, str]) -> web.Response:
    return json_bytes(orjson.dumps(body), headers={**NO_STORE, **headers})


def _cursor_of(grant: Grant) -> str:
    if grant.access is None:
        raise ValueError("a listed grant has an access token")
    return cursor_of(str(round(grant.access.expires_at.timestamp() * 1000)), grant.grant_id)


def _end_of(keys: Sequence[str]) -> End:
    milliseconds, grant_id = keys
    if not _MILLISECONDS.fullmatch(milliseconds):
        raise BadRequest("after: not a cursor of this list; send the one in `Link` unchanged")
    return End(datetime.fromtimestamp(int(milliseconds) / 1000, UTC), grant_id)


def _token(grant: Grant, status: LimitStatus | None) -> IssuedToken:
    if grant.access is None:
        raise ValueError("a listed grant has an access token")
    return IssuedToken(
        code=public_token_id(grant.grant_id, grant.generation),
        expires=int(grant.access.expires_at.timestamp()),
        grant_id=grant.grant_id,
        api_id=grant.api_id,
        subject=grant.subject,
        scope=grant.access.scope,
        rate_limit=RateLimit(requests=status.rate, per_unit=status.per) if status and status.rate else None,
        quota=QuotaStatus.model_validate(status.model_dump()) if status and status.quota_max > 0 else None,
    )
