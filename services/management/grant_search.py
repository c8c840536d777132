"""GET /api/grants, GET /api/grants/{grant_id} and POST /api/grants/lookup: find grants, and see their state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web

from contracts.clients import Client
from contracts.grant_views import (
    AccessTokenView,
    CodeView,
    FoundGrant,
    GrantList,
    GrantLookup,
    GrantQuery,
    GrantView,
    PresentedKind,
    RefreshTokenView,
)
from contracts.grants import Grant, GrantState, RevocationReason
from contracts.operations import Parameters, RequestBody, ResponseSpec
from contracts.operators import Permission
from libs.catalog import Catalog
from libs.http.error_responses import BadRequest, NotFound
from libs.http.operations import operator_operation
from libs.http.pages import cursor_of, link_to_next, read_cursor
from libs.oauth.grants import is_revoked_with_client, live_access_token, live_code, live_refresh_token
from libs.oauth.token_formats import PresentedToken, TokenFormat, TokenKind, parse_public_token_id, public_token_id
from libs.store.grants import Grants, Made, over_at
from services.management.request_bodies import read_document
from services.management.success_responses import document, list_of

_KINDS = {
    TokenKind.CODE: PresentedKind.CODE,
    TokenKind.ACCESS: PresentedKind.ACCESS_TOKEN,
    TokenKind.REFRESH: PresentedKind.REFRESH_TOKEN,
}
_NOT_FOUND = "Grant not found: it never existed, or was deleted a day after its end"
_LONGEST_MOMENT = 14
"""Digits of milliseconds in a cursor."""


@dataclass(frozen=True, slots=True)
class GrantSearch:
    """For operators with the permission `read`. Shows public ids only, never a token or a code."""

    grants: Grants
    catalog: Catalog
    token_format: TokenFormat
    now: Callable[[], datetime]

    @operator_operation(
        "GET",
        "/api/grants",
        "listGrants",
        Permission.READ,
        tag="Grants",
        summary="List grants",
        description="The newest first, by client app, API, user and state in any combination. A grant is deleted a day "
        "after its last token has expired.",
        parameters=Parameters(model=GrantQuery),
        response=list_of(GrantList),
        errors=(400,),
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /api/grants?client_id=…&api_id=…&subject=…&state=…&limit=…&after=…"""
        if len(request.query) != len(set(request.query)):
            raise BadRequest("a parameter is repeated")
        query = GrantQuery.model_validate(dict(request.query))
        cursor = read_cursor(request, len(Made._fields))
        found, more = await self.grants.page(query, _made(cursor) if cursor else None)
        following = _cursor_of(found[-1]) if more else None
        views = [await self.view(grant) for grant in found]
        # A grant that was revoked with its client a moment ago has not got its new state yet.
        listed = [view for view in views if query.state in {None, view.state}]
        return document(GrantList(grants=listed, next=following), link_to_next(request, following))

    @operator_operation(
        "GET",
        "/api/grants/{grant_id}",
        "getGrant",
        Permission.READ,
        tag="Grants",
        summary="Get a grant",
        response=ResponseSpec(description="The grant, without its tokens.", models=(GrantView,)),
        errors=(404,),
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /api/grants/{grant_id}."""
        return document(await self.view(await self.named(request)))

    @operator_operation(
        "POST",
        "/api/grants/lookup",
        "lookUpGrant",
        Permission.READ,
        tag="Grants",
        summary="Find the grant of a token or code",
        description="Takes the value in the body, so that it is in no URL and no log. Nothing is used up or counted.",
        body=RequestBody(model=GrantLookup),
        response=ResponseSpec(description="The grant, and whether this value is valid.", models=(FoundGrant,)),
        errors=(404,),
    )
    async def look_up(self, request: web.Request) -> web.Response:
        """200 with the grant that the value belongs to. Raises NotFound."""
        value = (await read_document(request, GrantLookup)).token.get_secret_value().strip()
        presented = self.token_format.read_any(value)
        named = parse_public_token_id(value) if presented is None else (presented.grant_id, presented.generation)
        if named is None:
            raise NotFound("Grant not found: this is no token or code of this server; check that it is complete")
        grant_id, generation = named
        grant = await self.grants.read(grant_id)
        if grant is None or generation > grant.generation:
            raise NotFound(_NOT_FOUND)
        view = await self.view(grant)
        works = view.state is not GrantState.REVOKED and _is_valid(grant, presented, generation, self.now())
        kind = PresentedKind.TOKEN_ID if presented is None else _KINDS[presented.kind]
        return document(FoundGrant(grant=view, kind=kind, generation=generation, valid=works))

    async def named(self, request: web.Request) -> Grant:
        """The grant that the path names. Raises NotFound."""
        grant = await self.grants.read(request.match_info["grant_id"])
        if grant is None:
            raise NotFound(_NOT_FOUND)
        return grant

    async def view(self, grant: Grant) -> GrantView:
        """The grant as it counts now: one that ended with its client is revoked, whatever its own record says."""
        return grant_view(grant, await self.catalog.client(grant.client_id, grant.api_id), self.now())


def grant_view(grant: Grant, client: Client | None, now: datetime) -> GrantView:
    """What is shown of the grant. `client`: as the grant's API sees it; None if it was deleted there."""
    state, ended_at, reason = grant.state, grant.ended_at, grant.ended_reason
    if state is not GrantState.REVOKED:
        if client is None:
            state, reason = GrantState.REVOKED, RevocationReason.CLIENT_DELETED
        elif is_revoked_with_client(grant, client):
            state, ended_at, reason = GrantState.REVOKED, client.revoked_before, RevocationReason.REVOKE_ALL
    code, access, refresh = grant.code, grant.access, grant.refresh
    return GrantView(
        **grant.model_dump(include=set(GrantView.model_fields) & set(Grant.model_fields) - _COMPUTED),
        state=state,
        ended_at=ended_at,
        ended_reason=reason,
        expired=over_at(grant) <= now,
        code=CodeView(expires_at=code.expires_at, used_at=code.used_at) if code else None,
        access=AccessTokenView(
            token_id=public_token_id(grant.grant_id, grant.generation),
            **access.model_dump(include={"scope", "issued_at", "expires_at", "revoked"}),
        )
        if access
        else None,
        refresh=RefreshTokenView(expires_at=refresh.expires_at) if refresh else None,
    )


_COMPUTED = {"state", "ended_at", "ended_reason", "code", "access", "refresh"}


def _is_valid(grant: Grant, presented: PresentedToken | None, generation: int, now: datetime) -> bool:
    """Whether the value works: for a public id, whether the access token that it names does."""
    if presented is None:
        access = grant.access if generation == grant.generation else None
        return access is not None and not access.revoked and access.expires_at > now
    live = {
        TokenKind.CODE: live_code,
        TokenKind.ACCESS: live_access_token,
        TokenKind.REFRESH: live_refresh_token,
    }[presented.kind](grant, presented)
    return live is not None and live.expires_at > now


def _cursor_of(grant: Grant) -> str:
    return cursor_of(str(round(grant.created_at.timestamp() * 1000)), grant.grant_id)


def _made(keys: Sequence[str]) -> Made:
    milliseconds, grant_id = keys
    if not (milliseconds.isascii() and milliseconds.isdecimal() and len(milliseconds) <= _LONGEST_MOMENT):
        raise BadRequest("after: not a cursor of this list; send the `next` of the previous page unchanged")
    return Made(datetime.fromtimestamp(int(milliseconds) / 1000, UTC), grant_id)
