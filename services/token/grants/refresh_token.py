"""Refreshing an access token (RFC 6749 §6), with rotation of the refresh token (RFC 9700 §4.14.2)."""

from dataclasses import dataclass
from typing import ClassVar

from contracts.apis import GrantType
from contracts.grants import Grant, TokenRequest
from contracts.webhooks import TokenNotification
from libs.oauth.errors import InvalidGrant, InvalidRequest
from libs.oauth.grant_types import REFRESH_TOKEN, GrantProfile
from libs.oauth.grants import IssueContext, Recovery, Transition, belongs_to, rotate_refresh_token
from libs.oauth.scopes import parse_scope
from libs.oauth.token_formats import TokenKind
from libs.store.resource_owners import ResourceOwners
from services.token.grants.grant_handler import IssuedTokens
from services.token.issuer import Issuer


@dataclass(frozen=True, slots=True)
class Refresh:
    """The next token pair for a refresh token."""

    profile: ClassVar[GrantProfile] = REFRESH_TOKEN
    issuer: Issuer
    resource_owners: ResourceOwners

    async def issue(self, request: TokenRequest, context: IssueContext) -> IssuedTokens:
        """Rotate the refresh token and end the access token before it in one write, or repeat a lost response.

        Raises InvalidRequest, InvalidScope, InvalidGrant, TooManyTokens. A reused refresh token revokes the grant: see
        `rotate_refresh_token`.
        """
        if not request.refresh_token:
            raise InvalidRequest("refresh_token is missing")
        scope = parse_scope(request.scope)
        presented = self.issuer.token_format.read(TokenKind.REFRESH, request.refresh_token)
        if presented is None:
            raise InvalidGrant("the refresh token is not valid")
        await self.issuer.admit(context, presented.grant_id)
        await self._check_resource_owner(presented.grant_id)
        pair = self.issuer.mint(
            context,
            self.profile,
            presented.grant_id,
            presented.generation + 1,
            presented=request.refresh_token,
            notification=lambda access, refresh: TokenNotification(
                new_oauth_token=access,
                refresh_token=refresh,
                old_refresh_token=request.refresh_token,
                notification_type="refresh",
            ),
        )

        def rotate(grant: Grant | None) -> Transition | Recovery:
            if grant is None or not belongs_to(grant, context.client, context.api):
                raise InvalidGrant("the refresh token is not valid")
            return rotate_refresh_token(context, grant, presented, pair, scope=scope)

        rotated = await self.issuer.redeem(presented.grant_id, rotate)
        return self.issuer.issued(rotated, request.refresh_token, pair, context.now)

    async def _check_resource_owner(self, grant_id: str) -> None:
        """Return unless the grant was issued for a password that is no longer valid. Raises InvalidGrant.

        That is: the resource owner was deleted or deactivated, or has changed the password since.
        """
        grant = await self.issuer.grants.read(grant_id)
        if grant is None or grant.grant_type is not GrantType.PASSWORD or grant.subject is None:
            return
        owner = await self.resource_owners.get(grant.subject)
        if owner is None or not owner.active:
            raise InvalidGrant("the refresh token is not valid", detail="the resource owner was deleted or deactivated")
        if owner.password_since != grant.password_since:
            raise InvalidGrant("the refresh token is not valid", detail="the resource owner has changed the password")
