"""The grant state machine: every change a grant can make, computed as a value and committed in one write.

    pending ──exchange_code──▶ active ──rotate_refresh_token──▶ active … ──revoke_grant──▶ revoked
       └──────────────────────────────revoke_grant───────────────────────────────────────────▲

If a code or a refresh token is used twice, the whole grant is revoked: `exchange_code` and `_refresh_token_reused`
decide so. Nothing here does I/O or reads the clock; `libs/store/grants.py` commits a Transition on condition that the
grant has not changed since it was read.
"""

import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from contracts.apis import Api, GrantType, OAuthSettings, RefreshReuse
from contracts.clients import Client
from contracts.events import CodeIssued, Event, GrantRevoked, PendingEvent, TokenNew, TokenRefresh, TokenRevoked
from contracts.grants import (
    AccessToken,
    Code,
    Grant,
    GrantState,
    IssuedResponse,
    RefreshToken,
    RevocationReason,
    UsedRefreshToken,
)
from libs.deadlines import UNSENT_RESPONSE_WINDOW
from libs.event_encoding import EventContext, encode_event, new_event_id
from libs.oauth.client_auth import is_public
from libs.oauth.errors import InvalidGrant
from libs.oauth.pkce import verify_code_verifier
from libs.oauth.scopes import allowed_scopes, narrow_scope
from libs.oauth.token_formats import MintedToken, PresentedToken, public_token_id

CODE_RETRY_WINDOW = timedelta(seconds=2)
"""A used code that is presented again within this time is taken for a retry of the same request, not for a replay."""
RECOVERY_WINDOW = timedelta(seconds=10)
"""How long after its use the previous refresh token can recover a response that was sent and still got lost."""
SAME_TIME = timedelta(seconds=2)
"""Uses of one refresh token within this time are taken for simultaneous requests of one client."""
MAX_VERIFIER_FAILURES = 3
"""After this many wrong PKCE verifiers a code is invalid, so that a stolen code allows no guessing."""


@dataclass(frozen=True, slots=True)
class IssueContext:
    """A request to issue a code or tokens, apart from the grant: the API, the authenticated client, the moment."""

    api: Api
    settings: OAuthSettings
    """The API's; never None here, since only an API with OAuth issues anything."""
    client: Client
    event: EventContext
    """For the event that the change writes; its `now` is the time of the whole request."""

    @property
    def now(self) -> datetime:
        """The time of the request."""
        return self.event.now


@dataclass(frozen=True, slots=True)
class Transition:
    """What to write, on condition that the grant is still as it was `before` (None: it does not exist yet)."""

    before: Grant | None
    after: Grant
    event: PendingEvent | None
    refusal: InvalidGrant | None = None
    """To be raised once this is written: the request is refused, and the grant remembers it."""


@dataclass(frozen=True, slots=True, repr=False)
class TokenPair:
    """Newly minted tokens of one generation. They are valid once the grant that has their digests is committed."""

    access: MintedToken
    refresh: MintedToken | None = None
    """None where the grant gets no refresh token."""
    encrypted: bytes | None = None
    """Both values, encrypted with a key derived from the code or refresh token that was presented for them: kept with
    the grant until the response was sent. None where neither was presented.
    """
    sealed_notification: bytes | None = None
    """The webhook's body, sealed to the notifier's public key; None where the API has no webhook."""


@dataclass(frozen=True, slots=True, repr=False)
class Recovery:
    """The same pair again: it is in `box`, encrypted with a key derived from the presented code or refresh token."""

    box: bytes
    grant: Grant
    response: IssuedResponse
    """To be recorded as sent when this response is."""
    in_flight: bool = False
    """True: the first response is so young that another request may be about to send it."""
    mark: Transition | None = None
    """To be written first."""


@dataclass(frozen=True, slots=True)
class CodeBinding:
    """What the authorization request binds a code to; the token request must match it (RFC 6749 §4.1.3)."""

    redirect_uri: str
    redirect_uri_requested: bool
    """Whether the authorization request had `redirect_uri`, so that the token request needs it, too."""
    scope: str | None
    code_challenge: str | None
    subject: str | None = None
    key_rules: dict[str, Any] | None = None
    expires_at: datetime | None = None
    """The grant ends at this time if its own lifetime is longer."""


def _event(
    kind: type[Event], grant: Grant, ctx: EventContext, facts: Mapping[str, object], sealed: bytes | None = None
) -> PendingEvent:
    """The event of the grant's newest version: the fields that every event of a grant has, and these facts."""
    data = {
        "grant_id": grant.grant_id,
        "api_id": grant.api_id,
        "client_id": grant.client_id,
        "grant_type": grant.grant_type,
        "resource_owner": grant.subject,
        "scope": grant.access.scope if grant.access else grant.scope,
        **facts,
    }
    body = encode_event(kind, grant.last_event, ctx, grant.grant_id, grant.sequence, data)
    return PendingEvent(grant.last_event, grant.grant_id, f"{kind.stem}.{grant.api_id}", body, ctx.now, sealed)


def _next_version(grant: Grant, ctx: EventContext, event_id: str | None = None, **changes: object) -> Grant:
    """The grant with these changes, which write an event."""
    last_event = event_id or new_event_id(ctx.now)
    counters = {"version": grant.version + 1, "sequence": grant.sequence + 1, "last_event": last_event}
    return grant.model_copy(update={**counters, **changes})


def _access_token(context: IssueContext, pair: TokenPair, scope: str | None, grant_expires_at: datetime) -> AccessToken:
    now = context.event.now
    expires_at = min(now + context.settings.access_token_lifetime, grant_expires_at)
    return AccessToken(digest=pair.access.digest, scope=scope, issued_at=now, expires_at=expires_at)


def _refresh_token(context: IssueContext, pair: TokenPair, grant_expires_at: datetime) -> RefreshToken | None:
    if pair.refresh is None:
        return None
    expires_at = min(context.event.now + context.settings.refresh_token_lifetime, grant_expires_at)
    return RefreshToken(digest=pair.refresh.digest, expires_at=expires_at)


def _token_facts(grant: Grant, pair: TokenPair) -> dict[str, object]:
    assert grant.access is not None  # noqa: S101 - called for grants with tokens only
    return {
        "token_id": public_token_id(grant.grant_id, grant.generation),
        "expires_at": grant.access.expires_at,
        "refresh_expires_at": grant.refresh.expires_at if grant.refresh else None,
        "notify": pair.sealed_notification is not None,
    }


def _token_new(grant: Grant, ctx: EventContext, pair: TokenPair) -> PendingEvent:
    return _event(TokenNew, grant, ctx, _token_facts(grant, pair), pair.sealed_notification)


def issue_code(context: IssueContext, grant_id: str, code: MintedToken, binding: CodeBinding) -> Transition:
    """A new pending grant with its authorization code (RFC 6749 §4.1.2)."""
    now, settings = context.now, context.settings
    expires_at = now + settings.grant_lifetime
    if binding.expires_at is not None:
        expires_at = min(expires_at, binding.expires_at)
    code_expires_at = min(now + settings.code_lifetime, expires_at)
    grant = Grant(
        grant_id=grant_id,
        state=GrantState.PENDING,
        api_id=context.api.api_id,
        client_id=context.client.client_id,
        grant_type=GrantType.AUTHORIZATION_CODE,
        subject=binding.subject,
        scope=binding.scope,
        redirect_uri=binding.redirect_uri,
        redirect_uri_requested=binding.redirect_uri_requested,
        code_challenge=binding.code_challenge,
        key_rules=binding.key_rules,
        code=Code(digest=code.digest, expires_at=code_expires_at),
        sequence=1,
        created_at=now,
        expires_at=expires_at,
        last_event=new_event_id(now),
    )
    facts = {"expires_at": code_expires_at, "actor": context.event.actor}
    return Transition(None, grant, _event(CodeIssued, grant, context.event, facts))


def issue_tokens(
    context: IssueContext,
    grant_id: str,
    grant_type: GrantType,
    pair: TokenPair,
    *,
    scope: str | None,
    subject: str | None = None,
    password_since: datetime | None = None,
) -> Transition:
    """A new active grant with its first tokens, for a grant type that needs no code (RFC 6749 §4.3, §4.4).

    Without a refresh token the grant ends when its access token expires.
    """
    now, settings = context.event.now, context.settings
    expires_at = now + (settings.grant_lifetime if pair.refresh else settings.access_token_lifetime)
    grant = Grant(
        grant_id=grant_id,
        state=GrantState.ACTIVE,
        api_id=context.api.api_id,
        client_id=context.client.client_id,
        grant_type=grant_type,
        subject=subject,
        scope=scope,
        password_since=password_since,
        generation=1,
        access=_access_token(context, pair, scope, expires_at),
        refresh=_refresh_token(context, pair, expires_at),
        sequence=1,
        created_at=now,
        expires_at=expires_at,
        last_event=new_event_id(now),
    )
    return Transition(None, grant, _token_new(grant, context.event, pair))


def is_revoked_with_client(grant: Grant, client: Client) -> bool:
    """Whether `revoke_all` of the client, or the deletion of a client that had the same id, has revoked the grant."""
    return client.revoked_before is not None and grant.created_at <= client.revoked_before


def belongs_to(grant: Grant, client: Client, api: Api) -> bool:
    """Whether this client may use the grant on this API: issued to it, there, and not revoked with its other grants.

    RFC 6749 §5.2: a code or refresh token that "was issued to another client" is an invalid_grant.
    """
    own = grant.client_id == client.client_id and grant.api_id == api.api_id
    return own and not is_revoked_with_client(grant, client)


def _check_redirect_uri(grant: Grant, redirect_uri: str | None) -> None:
    # RFC 6749 §4.1.3: redirect_uri is "REQUIRED, if [it] was included in the authorization request …, and their
    # values MUST be identical".
    if redirect_uri is None and not grant.redirect_uri_requested:
        return
    if redirect_uri != grant.redirect_uri:
        raise InvalidGrant("redirect_uri differs from the one the code was issued for")


def _unsent_response(grant: Grant, now: datetime) -> Recovery | None:
    """The newest pair again, if the response with it is not known to have been sent; else None.

    "Not sent" is believed for UNSENT_RESPONSE_WINDOW only: a process that dies between sending a response and
    recording that looks the same, and by then an attacker could be asking.
    """
    response = grant.response
    if response is None or response.box is None or response.written_at is not None:
        return None
    age = now - response.at
    if age > UNSENT_RESPONSE_WINDOW:
        return None
    return Recovery(response.box, grant, response, in_flight=age < CODE_RETRY_WINDOW and not response.recovered)


def _sent_at(grant: Grant, used_at: datetime) -> datetime:
    """When the response to the code was sent, which may be long after the code's use; if unknown, the use."""
    response = grant.response if grant.generation == 1 else None
    return response.written_at if response is not None and response.written_at is not None else used_at


def _began_before_response(grant: Grant, now: datetime) -> bool:
    """Whether this request began before the response to the other one was sent."""
    response = grant.response
    return response is not None and response.written_at is not None and now <= response.written_at


def _failed_verifier(grant: Grant, code: Code, error: InvalidGrant) -> Transition:
    code = code.model_copy(update={"failures": code.failures + 1})
    return Transition(grant, grant.model_copy(update={"version": grant.version + 1, "code": code}), None, error)


def exchange_code(
    context: IssueContext,
    grant: Grant,
    presented: PresentedToken,
    pair: TokenPair,
    *,
    redirect_uri: str | None,
    verifier: str | None,
) -> Transition | Recovery:
    """Tokens for a code that is unused, unexpired and proven to be this client's (RFC 6749 §4.1.3, RFC 7636 §4.6).

    A used code gets the same pair again if the first response was never sent. After it was sent, the code is refused
    for CODE_RETRY_WINDOW; later, its reuse revokes the grant. The scope is what the code has, without values that the
    client may no longer have. Raises InvalidGrant where nothing is to be written.
    """
    code, now = grant.code, context.event.now
    if code is None or grant.state is GrantState.REVOKED or not hmac.compare_digest(code.digest, presented.digest):
        raise InvalidGrant("the code is not valid")
    if code.failures >= MAX_VERIFIER_FAILURES:
        raise InvalidGrant("the code is not valid", detail="too many wrong code verifiers")
    # RFC 9700 §2.1.1: "Public clients MUST use PKCE"; the code may be older than the client's change to public.
    if grant.code_challenge is None and is_public(context.client):
        raise InvalidGrant("a public client's code needs a code_challenge")
    # All proofs come before the check for reuse: only the rightful client can revoke the grant, and only it learns
    # that the code was used.
    _check_redirect_uri(grant, redirect_uri)
    try:
        verify_code_verifier(verifier, grant.code_challenge)
    except InvalidGrant as error:
        if code.used_at is not None or grant.code_challenge is None:
            raise
        return _failed_verifier(grant, code, error)
    if code.used_at is not None:
        # Only the first generation: a pair that was refreshed had arrived.
        if grant.generation == 1 and (recovery := _unsent_response(grant, now)):
            return recovery
        if now - _sent_at(grant, code.used_at) <= CODE_RETRY_WINDOW:
            raise InvalidGrant("the code was just used")
        # RFC 6749 §4.1.2: if a code is used more than once, the server "MUST deny the request and SHOULD revoke (when
        # possible) all tokens previously issued based on that authorization code".
        refusal = InvalidGrant("the code was used before")
        return revoke_grant(grant, RevocationReason.CODE_REPLAY, context.event, refusal)
    if code.expires_at <= now:
        raise InvalidGrant("the code has expired")
    event_id = new_event_id(now)
    scope = narrow_scope(None, grant.scope, _allowed_scopes(context))
    after = _next_version(
        grant,
        context.event,
        event_id,
        state=GrantState.ACTIVE,
        generation=1,
        code=code.model_copy(update={"used_at": now}),
        access=_access_token(context, pair, scope, grant.expires_at),
        refresh=_refresh_token(context, pair, grant.expires_at),
        response=IssuedResponse(id=event_id, at=now, box=pair.encrypted),
    )
    return Transition(grant, after, _token_new(after, context.event, pair))


def _allowed_scopes(context: IssueContext) -> Collection[str]:
    return allowed_scopes(context.client.scope, context.settings.scopes)


def allows_recovery(context: IssueContext) -> bool:
    """Whether a response that was sent and still got lost can be recovered with the previous refresh token.

    Never for a public client, whatever the API's definition says: it cannot prove that it is the client, so its
    refresh token may be in anybody's hands.
    """
    return context.settings.refresh_reuse is RefreshReuse.RECOVER and not is_public(context.client)


def rotate_refresh_token(
    context: IssueContext, grant: Grant, presented: PresentedToken, pair: TokenPair, *, scope: str | None
) -> Transition | Recovery:
    """The next pair for the current refresh token (RFC 6749 §6); the pair before it ends in the same write.

    A reused refresh token revokes the grant, with two exceptions for the token used last, whose successor is unused:
    it gets the same pair again if the response was never sent, or once more within RECOVERY_WINDOW if it was sent and
    `allows_recovery`. The scope is narrowed to what the client may have now. Raises InvalidGrant or InvalidScope where
    nothing is to be written.
    """
    if grant.state is not GrantState.ACTIVE or grant.refresh is None or presented.generation > grant.generation:
        raise InvalidGrant("the refresh token is not valid")
    if presented.generation < grant.generation:
        return _refresh_token_reused(context, grant, presented)
    if not hmac.compare_digest(grant.refresh.digest, presented.digest):
        raise InvalidGrant("the refresh token is not valid")
    now = context.event.now
    if grant.refresh.expires_at <= now:
        raise InvalidGrant("the refresh token has expired")
    granted = narrow_scope(scope, grant.scope, _allowed_scopes(context))
    used = UsedRefreshToken(
        digest=presented.digest,
        expires_at=grant.refresh.expires_at,
        used_at=now,
        shared=grant.response is not None and grant.response.recovered,
    )
    event_id = new_event_id(now)
    after = _next_version(
        grant,
        context.event,
        event_id,
        generation=grant.generation + 1,
        access=_access_token(context, pair, granted, grant.expires_at),
        refresh=_refresh_token(context, pair, grant.expires_at),
        used_refresh=used,
        response=IssuedResponse(id=event_id, at=now, box=pair.encrypted, recoverable=allows_recovery(context)),
    )
    facts = {**_token_facts(after, pair), "previous_token_id": public_token_id(grant.grant_id, grant.generation)}
    return Transition(grant, after, _event(TokenRefresh, after, context.event, facts, pair.sealed_notification))


def _refresh_token_reused(context: IssueContext, grant: Grant, presented: PresentedToken) -> Transition | Recovery:
    """A refresh token of an older generation: the same pair again where the response got lost, else the end."""
    used = grant.used_refresh
    if presented.generation == grant.generation - 1:
        if used is None or not hmac.compare_digest(used.digest, presented.digest):
            raise InvalidGrant("the refresh token is not valid")
        if recovery := _unsent_response(grant, context.now):
            return recovery
        if allows_recovery(context) and (recovery := _lost_response(grant, used, context.now)):
            return recovery
    # RFC 9700 §4.14.2: "The authorization server cannot determine which party submitted the invalid refresh token, but
    # it will revoke the active refresh token", so the grant is revoked for the client and the attacker alike.
    refusal = InvalidGrant("the refresh token was used before")
    return revoke_grant(grant, RevocationReason.REFRESH_REUSE, context.event, refusal)


def _lost_response(grant: Grant, used: UsedRefreshToken, now: datetime) -> Recovery | None:
    """The pair again although its response was sent: once, soon after, to what looks like one holder; else None."""
    response, age = grant.response, now - used.used_at
    if response is None or response.box is None or age > RECOVERY_WINDOW or now >= used.expires_at:
        return None
    if _began_before_response(grant, now):
        return Recovery(response.box, grant, response)
    if used.shared:
        return None  # handed out twice before, and now used twice: two holders are alive
    if response.recovered:
        return Recovery(response.box, grant, response) if age <= SAME_TIME else None
    again = response.model_copy(update={"id": new_event_id(now), "at": now, "recovered": True, "written_at": None})
    after = grant.model_copy(update={"version": grant.version + 1, "response": again})
    return Recovery(response.box, after, again, mark=Transition(grant, after, None))


def revoke_grant(
    grant: Grant, reason: RevocationReason, ctx: EventContext, refusal: InvalidGrant | None = None
) -> Transition:
    """The grant revoked: its code, access token and refresh token are invalid from now on."""
    gone = {"refresh": None, "used_refresh": None, "response": None}
    after = _next_version(grant, ctx, state=GrantState.REVOKED, ended_at=ctx.now, ended_reason=reason, **gone)
    return Transition(grant, after, _event(GrantRevoked, after, ctx, {"reason": reason, "actor": ctx.actor}), refusal)


def revoke_access_token(
    grant: Grant, generation: int, reason: RevocationReason, ctx: EventContext
) -> Transition | None:
    """The access token of this generation revoked, the refresh token still valid; None if there is nothing to do."""
    access = grant.access
    if grant.state is not GrantState.ACTIVE or access is None or access.revoked or generation != grant.generation:
        return None
    after = _next_version(grant, ctx, access=access.model_copy(update={"revoked": True}))
    facts = {"token_id": public_token_id(grant.grant_id, generation), "reason": reason, "actor": ctx.actor}
    return Transition(grant, after, _event(TokenRevoked, after, ctx, facts))


def live_code(grant: Grant, presented: PresentedToken) -> Code | None:
    """The grant's code, if this is it and it was not used or revoked; it may have expired."""
    code = grant.code
    if grant.state is not GrantState.PENDING or code is None or code.used_at is not None:
        return None
    if code.failures >= MAX_VERIFIER_FAILURES or not hmac.compare_digest(code.digest, presented.digest):
        return None
    return code


def live_access_token(grant: Grant, presented: PresentedToken) -> AccessToken | None:
    """The grant's access token, if this is it and it was not revoked; it may have expired."""
    access = grant.access
    if grant.state is not GrantState.ACTIVE or access is None or access.revoked:
        return None
    if presented.generation != grant.generation or not hmac.compare_digest(access.digest, presented.digest):
        return None
    return access


def live_refresh_token(grant: Grant, presented: PresentedToken) -> RefreshToken | None:
    """The grant's refresh token, if this is it and it was not revoked; it may have expired."""
    token = grant.refresh
    if grant.state is not GrantState.ACTIVE or token is None:
        return None
    if presented.generation != grant.generation or not hmac.compare_digest(token.digest, presented.digest):
        return None
    return token
