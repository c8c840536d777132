"""The resource owner password credentials grant (RFC 6749 §4.3)."""

from dataclasses import dataclass

from contracts.apis import Api, GrantType, OAuthSettings
from contracts.clients import Client
from contracts.grants import TokenRequest, TokenResponse
from contracts.resource_owners import ResourceOwner
from contracts.webhooks import TokenNotification
from libs.oauth.errors import InvalidGrant, InvalidRequest
from libs.oauth.grants import issue_tokens
from libs.oauth.scopes import grant_scope, parse_scope
from libs.passwords import PasswordHasher
from libs.store.resource_owners import ResourceOwners
from libs.throttle import Throttle
from services.token.issuer import Issuer, response_of


@dataclass(frozen=True, slots=True)
class Password:
    """Tokens for a user name and password."""

    issuer: Issuer
    resource_owners: ResourceOwners
    passwords: PasswordHasher
    throttle: Throttle
    public_clients: bool = False

    async def issue(self, request: TokenRequest, client: Client, api: Api, settings: OAuthSettings) -> TokenResponse:
        """Insert a new grant of the user; unknown user and wrong password are one refusal after the same work."""
        password = request.password.get_secret_value()
        if not request.username or not password:
            raise InvalidRequest("username and password are required")
        scope = grant_scope(parse_scope(request.scope), client.scope)
        owner = await self._proven(request.username, password)
        grant_id = self.issuer.new_grant_id()
        pair = self.issuer.mint(grant_id, 1, refresh=settings.refresh_token)
        sealed = self.issuer.sealed(
            settings,
            lambda: TokenNotification(
                new_oauth_token=pair.access.value,
                refresh_token=pair.refresh.value if pair.refresh else "",
                notification_type="new",
            ),
        )
        at = self.issuer.origin()
        issued = issue_tokens(
            grant_id,
            pair,
            api,
            client,
            GrantType.PASSWORD,
            settings=settings,
            scope=scope,
            subject=owner.username,
            policy_ids=owner.policy_ids,
            password_since=owner.password_since,
            sealed=sealed,
            at=at,
        )
        await self.issuer.grants.commit(issued)
        return response_of(issued.after, pair, at)

    async def _proven(self, username: str, password: str) -> ResourceOwner:
        """The user whose password it is. Raises InvalidGrant, and TooManyAttempts before anything is hashed."""
        async with self.throttle.attempt(self.throttle.of_user(username)) as attempt:
            owner = await self.resource_owners.get(username)
            verified = await self.passwords.verify(owner.password_hash if owner else None, password)
            if owner is None or not verified or not owner.active:
                raise InvalidGrant("the user name or password is not valid")
            attempt.succeed()
        return owner
