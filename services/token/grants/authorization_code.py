"""The authorization code grant (RFC 6749 §4.1.3)."""

from dataclasses import dataclass

from contracts.apis import Api, OAuthSettings
from contracts.clients import Client
from contracts.grants import Grant, TokenRequest, TokenResponse
from contracts.webhooks import TokenNotification
from libs.access import is_public
from libs.oauth.errors import InvalidGrant, InvalidRequest
from libs.oauth.grants import Transition, belongs_to, exchange_code
from libs.oauth.tokens import TokenKind
from services.token.issuer import Issuer, response_of


@dataclass(frozen=True, slots=True)
class AuthorizationCode:
    """Tokens for a code."""

    issuer: Issuer
    public_clients: bool = True

    async def issue(self, request: TokenRequest, client: Client, api: Api, settings: OAuthSettings) -> TokenResponse:
        """Consume the code and issue the first tokens of its grant, in one write."""
        if not request.code:
            raise InvalidRequest("code is missing")
        presented = self.issuer.codec.read(TokenKind.CODE, request.code)
        if presented is None:
            raise InvalidGrant("the code is not valid")
        pair = self.issuer.mint(presented.grant_id, 1, refresh=settings.refresh_token)
        sealed = self.issuer.sealed(
            settings,
            lambda: TokenNotification(
                auth_code=request.code,
                new_oauth_token=pair.access.value,
                refresh_token=pair.refresh.value if pair.refresh else "",
                notification_type="new",
            ),
        )
        at = self.issuer.origin()

        def exchange(grant: Grant | None) -> Transition:
            if grant is None or not belongs_to(grant, client, api):
                raise InvalidGrant("the code is not valid")
            return exchange_code(
                grant,
                presented,
                pair,
                settings=settings,
                public=is_public(client),
                redirect_uri=request.redirect_uri,
                verifier=request.code_verifier,
                sealed=sealed,
                at=at,
            )

        exchanged = await self.issuer.grants.settle(presented.grant_id, exchange)
        return response_of(exchanged.after, pair, at)
