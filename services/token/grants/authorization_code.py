"""The authorization code grant (RFC 6749 §4.1.3)."""

from dataclasses import dataclass
from typing import ClassVar

from contracts.grants import Grant, TokenRequest
from contracts.webhooks import TokenNotification
from libs.oauth.errors import InvalidGrant, InvalidRequest
from libs.oauth.grant_types import AUTHORIZATION_CODE, GrantProfile
from libs.oauth.grants import IssueContext, Recovery, Transition, belongs_to, exchange_code
from libs.oauth.token_formats import TokenKind
from services.token.grants.grant_handler import IssuedTokens
from services.token.issuer import Issuer


@dataclass(frozen=True, slots=True)
class AuthorizationCode:
    """Tokens for a code."""

    profile: ClassVar[GrantProfile] = AUTHORIZATION_CODE
    issuer: Issuer

    async def issue(self, request: TokenRequest, context: IssueContext) -> IssuedTokens:
        """Use up the code and issue the first tokens of its grant in one write, or repeat a response never sent.

        Raises InvalidRequest, InvalidGrant, TooManyTokens. A reused code revokes the grant: see `exchange_code`.
        """
        if not request.code:
            raise InvalidRequest("code is missing")
        presented = self.issuer.token_format.read(TokenKind.CODE, request.code)
        if presented is None:
            raise InvalidGrant("the code is not valid")
        await self.issuer.admit(context, presented.grant_id)
        pair = self.issuer.mint(
            context,
            self.profile,
            presented.grant_id,
            1,
            presented=request.code,
            notification=lambda access, refresh: TokenNotification(
                auth_code=request.code, new_oauth_token=access, refresh_token=refresh, notification_type="new"
            ),
        )

        def exchange(grant: Grant | None) -> Transition | Recovery:
            if grant is None or not belongs_to(grant, context.client, context.api):
                raise InvalidGrant("the code is not valid")
            return exchange_code(
                context, grant, presented, pair, redirect_uri=request.redirect_uri, verifier=request.code_verifier
            )

        exchanged = await self.issuer.redeem(presented.grant_id, exchange)
        return self.issuer.issued(exchanged, request.code, pair, context.now)
