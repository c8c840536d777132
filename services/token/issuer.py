"""Mints new tokens for a grant, commits them, and turns them into the response."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import orjson
import structlog

from contracts.grants import Grant, TokenResponse
from contracts.webhooks import TokenNotification
from libs.encryption import Sealer, decrypt_with_token, encrypt_with_token
from libs.event_encoding import EventContext
from libs.oauth.errors import InvalidGrant
from libs.oauth.grant_types import GrantProfile
from libs.oauth.grants import IssueContext, Recovery, TokenPair, Transition
from libs.oauth.token_formats import MintedToken, TokenFormat, TokenKind, new_grant_id
from libs.store.grants import Grants
from services.token.grants.grant_handler import IssuedTokens
from services.token.issuance_limit import IssuanceLimiter

Decide = Callable[[Grant | None], Transition | Recovery]
Notification = Callable[[str, str], TokenNotification]
"""The webhook's body for an access token and a refresh token ("" where there is none)."""

log = structlog.get_logger("token")


@dataclass(frozen=True, slots=True)
class Issuer:
    """What the grant handlers share: limit, mint, commit, respond."""

    grants: Grants
    token_format: TokenFormat
    sealer: Sealer
    event_context: Callable[[], EventContext]
    limiter: IssuanceLimiter

    async def admit(self, context: IssueContext, grant_id: str) -> None:
        """Count one token against the client's limit. Raises TooManyTokens.

        The grant is a new one, or belongs to a code or refresh token that this server issued: a public client's
        tokens are counted by grant, so a made-up grant id would count nothing.
        """
        await self.limiter.admit(context.client, grant_id, context.now)

    def new_grant_id(self) -> str:
        """A unique grant id (128 random bits)."""
        return new_grant_id(os.urandom(16))

    def mint(
        self,
        context: IssueContext,
        profile: GrantProfile,
        grant_id: str,
        generation: int,
        *,
        presented: str | None = None,
        notification: Notification | None = None,
    ) -> TokenPair:
        """New tokens of this generation, with a refresh token where the grant type and the API have them.

        They are encrypted under the `presented` code or refresh token, in case the response gets lost, and
        their webhook is sealed for the notifier: nothing else ever stores a token's value.
        """
        access = self.token_format.mint(TokenKind.ACCESS, grant_id, generation)
        refresh = None
        if profile.issues_refresh_tokens and context.settings.refresh_token:
            refresh = self.token_format.mint(TokenKind.REFRESH, grant_id, generation)
        return TokenPair(
            access,
            refresh,
            _encrypted(presented, access, refresh) if presented is not None else None,
            self._sealed(notification, access, refresh) if notification and context.settings.notifications else None,
        )

    def _sealed(self, notification: Notification, access: MintedToken, refresh: MintedToken | None) -> bytes:
        body = notification(access.value, refresh.value if refresh else "")
        return self.sealer.seal(orjson.dumps(body.model_dump()))

    async def redeem(self, grant_id: str, decide: Decide) -> Transition | Recovery:
        """Commit what `decide` makes of the grant whose code or refresh token was presented.

        Of simultaneous requests one wins. The others wait until its response was sent and then decide again; if that
        does not happen in time, because its process died or its client is gone, they get the same tokens.
        """
        decision = await self.grants.update_with_retry(grant_id, decide)
        if not isinstance(decision, Recovery) or not decision.in_flight:
            return decision
        if await self.grants.was_response_sent(grant_id, decision.response):
            return await self.grants.update_with_retry(grant_id, decide)
        return decision

    def issued(self, decision: Transition | Recovery, presented: str, pair: TokenPair, now: datetime) -> IssuedTokens:
        """The response to the presented code or refresh token; once it is sent, the grant records that."""
        if isinstance(decision, Recovery):
            grant, issued = decision.grant, decision.response
            response = _recovered(grant, presented, decision.box, now)
            log.info(
                "token_response_repeated",
                grant_id=grant.grant_id,
                client_id=grant.client_id,
                first_was_sent=issued.recovered,
            )
        else:
            grant = decision.after
            assert grant.response is not None  # noqa: S101 - every use of a code or refresh token has one
            issued, response = grant.response, token_response(grant, pair, now)
        note_sent = self.grants.note_response_sent
        return IssuedTokens(response, lambda: note_sent(grant.grant_id, issued, self.event_context().now))


def _encrypted(presented: str, access: MintedToken, refresh: MintedToken | None) -> bytes:
    """Both values, readable only with the presented code or refresh token."""
    return encrypt_with_token(presented, orjson.dumps([access.value, refresh.value if refresh else None]))


def _recovered(grant: Grant, presented: str, box: bytes, now: datetime) -> TokenResponse:
    access_token, refresh_token = orjson.loads(decrypt_with_token(presented, box))
    if grant.access is None:
        raise InvalidGrant("the grant has no access token")
    return TokenResponse(
        access_token=access_token,
        expires_in=max(0, int((grant.access.expires_at - now).total_seconds())),
        refresh_token=refresh_token,
        scope=_response_scope(grant),
    )


def token_response(grant: Grant, pair: TokenPair, now: datetime) -> TokenResponse:
    """The response with the newest tokens of the grant (RFC 6749 §5.1)."""
    if grant.access is None:
        raise ValueError("the grant has no access token")
    return TokenResponse(
        access_token=pair.access.value,
        expires_in=int((grant.access.expires_at - now).total_seconds()),
        refresh_token=pair.refresh.value if pair.refresh else None,
        scope=_response_scope(grant),
    )


def _response_scope(grant: Grant) -> str | None:
    """The scope that the response names; empty where every value that was granted has been taken away since.

    RFC 6749 §5.1: `scope` is "REQUIRED" if it is not "identical to the scope requested by the client".
    """
    scope = grant.access.scope if grant.access else None
    return "" if scope is None and grant.scope is not None else scope
