"""The client credentials grant (RFC 6749 §4.4)."""

from dataclasses import dataclass
from typing import ClassVar

from contracts.grants import TokenRequest
from libs.oauth.grant_types import CLIENT_CREDENTIALS, GrantProfile
from libs.oauth.grants import IssueContext, issue_tokens
from libs.oauth.scopes import grant_scope, parse_scope
from services.token.grants.grant_handler import IssuedTokens
from services.token.issuer import Issuer, token_response


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """An access token for the client itself."""

    profile: ClassVar[GrantProfile] = CLIENT_CREDENTIALS
    issuer: Issuer

    async def issue(self, request: TokenRequest, context: IssueContext) -> IssuedTokens:
        """Insert a new active grant, without a webhook. Raises InvalidScope, TooManyTokens."""
        scope = grant_scope(parse_scope(request.scope), context.client.scope, context.settings.scopes)
        grant_id = self.issuer.new_grant_id()
        await self.issuer.admit(context, grant_id)
        pair = self.issuer.mint(context, self.profile, grant_id, 1)
        issued = issue_tokens(context, grant_id, self.profile.grant_type, pair, scope=scope)
        await self.issuer.grants.commit(issued)
        return IssuedTokens(token_response(issued.after, pair, context.now))
