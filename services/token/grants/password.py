"""The resource owner password credentials grant (RFC 6749 §4.3)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from contracts.grants import TokenRequest
from contracts.resource_owners import ResourceOwner
from contracts.webhooks import TokenNotification
from libs.oauth.errors import InvalidGrant, InvalidRequest
from libs.oauth.grant_types import PASSWORD, GrantProfile
from libs.oauth.grants import IssueContext, issue_tokens
from libs.oauth.scopes import grant_scope, parse_scope
from libs.passwords import PasswordHasher
from libs.precis import prepare_username
from libs.store.resource_owners import ResourceOwners
from libs.store.users import Users
from libs.throttle import LoginThrottle
from services.token.grants.grant_handler import IssuedTokens
from services.token.issuer import Issuer, token_response


@dataclass(frozen=True, slots=True)
class Password:
    """Tokens for a user name and password."""

    profile: ClassVar[GrantProfile] = PASSWORD
    issuer: Issuer
    resource_owners: ResourceOwners
    users: Users
    passwords: PasswordHasher
    throttle: LoginThrottle

    async def issue(self, request: TokenRequest, context: IssueContext) -> IssuedTokens:
        """Insert a new grant of the resource owner.

        Raises InvalidRequest, InvalidScope, TooManyAttempts, TooManyTokens, and InvalidGrant: the same error, after
        the same work, for an unknown user and for a wrong password.
        """
        password = request.password.get_secret_value()
        if not request.username or not password:
            raise InvalidRequest("username and password are required")
        scope = grant_scope(parse_scope(request.scope), context.client.scope, context.settings.scopes)
        owner = await self._authenticated(request.username, password)
        # The grant begins now, not before the password was hashed, which takes tens of milliseconds.
        context = replace(context, event=self.issuer.event_context())
        grant_id = self.issuer.new_grant_id()
        await self.issuer.admit(context, grant_id)
        pair = self.issuer.mint(
            context,
            self.profile,
            grant_id,
            1,
            notification=lambda access, refresh: TokenNotification(
                new_oauth_token=access, refresh_token=refresh, notification_type="new"
            ),
        )
        issued = issue_tokens(
            context,
            grant_id,
            self.profile.grant_type,
            pair,
            scope=scope,
            subject=owner.username,
            password_since=owner.password_since,
        )
        await self.users.issue(self.issuer.grants, issued, context.event)
        return IssuedTokens(token_response(issued.after, pair, context.now))

    async def _authenticated(self, username: str, password: str) -> ResourceOwner:
        """The active user with this password. Raises InvalidGrant, and TooManyAttempts before anything is hashed."""
        name = prepare_username(username)
        # A name that the PRECIS profile refuses belongs to no user; it costs the same work as an unknown one, so that
        # response times do not tell which names exist.
        async with self.throttle.attempt(self.throttle.user_counters(username if name is None else name)) as attempt:
            owner = await self.resource_owners.get(name or "")
            verified = await self.passwords.verify(owner.password_hash if owner else None, password)
            if owner is None or not verified or not owner.active:
                raise InvalidGrant("the user name or password is not valid")
            attempt.succeed()
        return owner
