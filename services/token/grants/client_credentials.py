"""The client credentials grant (RFC 6749 §4.4)."""

from dataclasses import dataclass

from contracts.apis import Api, GrantType, OAuthSettings
from contracts.clients import Client
from contracts.grants import TokenRequest, TokenResponse
from libs.oauth.grants import issue_tokens
from libs.oauth.scopes import grant_scope, parse_scope
from services.token.issuer import Issuer, response_of


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """An access token for the client itself; RFC 6749 §4.4.3: "A refresh token SHOULD NOT be included"."""

    issuer: Issuer
    public_clients: bool = False

    async def issue(self, request: TokenRequest, client: Client, api: Api, settings: OAuthSettings) -> TokenResponse:
        """Insert a new active grant."""
        scope = grant_scope(parse_scope(request.scope), client.scope)
        grant_id = self.issuer.new_grant_id()
        pair = self.issuer.mint(grant_id, 1, refresh=False)
        at = self.issuer.origin()
        issued = issue_tokens(
            grant_id, pair, api, client, GrantType.CLIENT_CREDENTIALS, settings=settings, scope=scope, at=at
        )
        await self.issuer.grants.commit(issued)
        return response_of(issued.after, pair, at)
