"""Refreshing (RFC 6749 §6)."""

from dataclasses import dataclass

import orjson

from contracts.apis import Api, GrantType, OAuthSettings, RefreshReuse
from contracts.clients import Client
from contracts.grants import Grant, TokenRequest, TokenResponse
from contracts.webhooks import TokenNotification
from libs.events import Origin
from libs.oauth.errors import InvalidGrant, InvalidRequest
from libs.oauth.grants import Recovery, TokenPair, Transition, belongs_to, refresh
from libs.oauth.scopes import parse_scope
from libs.oauth.tokens import TokenKind
from libs.sealing import open_as_holder, seal_for_holder
from libs.store.resource_owners import ResourceOwners
from services.token.issuer import Issuer, response_of


def _sealed_successor(presented: str, pair: TokenPair) -> bytes:
    values = [pair.access.value, pair.refresh.value if pair.refresh else ""]
    return seal_for_holder(presented, orjson.dumps(values))


def _recovered(presented: str, recovery: Recovery, at: Origin) -> TokenResponse:
    access_token, refresh_token = orjson.loads(open_as_holder(presented, recovery.box))
    access = recovery.grant.access
    if access is None:
        raise InvalidGrant("the refresh token is not valid")
    return TokenResponse(
        access_token=access_token,
        expires_in=max(0, int((access.expires_at - at.now).total_seconds())),
        refresh_token=refresh_token,
        scope=access.scope,
    )


@dataclass(frozen=True, slots=True)
class Refresh:
    """The next token pair for a refresh token."""

    issuer: Issuer
    resource_owners: ResourceOwners
    public_clients: bool = True

    async def issue(self, request: TokenRequest, client: Client, api: Api, settings: OAuthSettings) -> TokenResponse:
        """Rotate the refresh token and end the access token before it, in one write; or repeat a lost answer."""
        if not request.refresh_token:
            raise InvalidRequest("refresh_token is missing")
        scope = parse_scope(request.scope)
        presented = self.issuer.codec.read(TokenKind.REFRESH, request.refresh_token)
        if presented is None:
            raise InvalidGrant("the refresh token is not valid")
        await self._check_resource_owner(presented.grant_id)
        pair = self.issuer.mint(presented.grant_id, presented.generation + 1, refresh=True)
        recoverable = settings.refresh_reuse is RefreshReuse.RECOVER
        successor = _sealed_successor(request.refresh_token, pair) if recoverable else None
        sealed = self.issuer.sealed(
            settings,
            lambda: TokenNotification(
                new_oauth_token=pair.access.value,
                refresh_token=pair.refresh.value if pair.refresh else "",
                old_refresh_token=request.refresh_token,
                notification_type="refresh",
            ),
        )
        at = self.issuer.origin()

        def rotate(grant: Grant | None) -> Transition | Recovery:
            if grant is None or not belongs_to(grant, client, api):
                raise InvalidGrant("the refresh token is not valid")
            return refresh(
                grant, presented, pair, settings=settings, scope=scope, successor=successor, sealed=sealed, at=at
            )

        rotated = await self.issuer.grants.settle(presented.grant_id, rotate)
        if isinstance(rotated, Recovery):
            return _recovered(request.refresh_token, rotated, at)
        return response_of(rotated.after, pair, at)

    async def _check_resource_owner(self, grant_id: str) -> None:
        """Return unless the grant was given for a password that opens nothing any more.

        Its user is gone or not active, or has another one. Raises InvalidGrant.
        """
        grant = await self.issuer.grants.read(grant_id)
        if grant is None or grant.grant_type is not GrantType.PASSWORD or grant.subject is None:
            return
        owner = await self.resource_owners.get(grant.subject)
        if owner is None or not owner.active:
            raise InvalidGrant("the refresh token is not valid", detail="the resource owner is gone or not active")
        if owner.password_since != grant.password_since:
            raise InvalidGrant("the refresh token is not valid", detail="the resource owner has another password")
