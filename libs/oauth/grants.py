"""The grant state machine: every change a grant can make, as a value to be committed in one write.

pending --exchange--> active --refresh--> active … --end--> revoked
   \\_________________________end_________________________/
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.apis import Api, GrantType, OAuthSettings, RefreshReuse
from contracts.clients import Client
from contracts.events import CodeIssued, Event, GrantRevoked, PendingEvent, TokenNew, TokenRefresh, TokenRevoked
from contracts.grants import (
    AccessToken,
    Code,
    Grant,
    GrantState,
    RefreshToken,
    RevocationReason,
    UsedRefreshToken,
)
from libs.events import Origin, new_event_id, written
from libs.oauth.errors import InvalidGrant
from libs.oauth.pkce import verify_code_verifier
from libs.oauth.scopes import narrow_scope
from libs.oauth.tokens import Handle, Minted, public_token_id

CODE_RETRY_WINDOW = timedelta(seconds=2)
"""A used code that comes again this soon is taken for a retry of the same request."""
RECOVERY_WINDOW = timedelta(seconds=10)
"""How long the refresh token used last gets its lost response again."""
MAX_VERIFIER_FAILURES = 3
"""So many wrong PKCE verifiers burn a code."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What to write, and on condition that the grant is still as it was `before` (None: it does not exist)."""

    before: Grant | None
    after: Grant
    event: PendingEvent | None
    refusal: InvalidGrant | None = None
    """To be raised once this is written."""


@dataclass(frozen=True, slots=True, repr=False)
class TokenPair:
    """Newly minted values; `refresh` None where the grant gets none."""

    access: Minted
    refresh: Minted | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Recovery:
    """Nothing to write: the response to this refresh token was lost, and its successor pair is in `box`."""

    box: bytes
    grant: Grant


def _event(
    kind: type[Event], grant: Grant, at: Origin, facts: Mapping[str, object], sealed: bytes | None = None
) -> PendingEvent:
    """The event that the newest version of the grant writes: what every event of a grant says, and these facts."""
    data = {
        "grant_id": grant.grant_id,
        "api_id": grant.api_id,
        "client_id": grant.client_id,
        "grant_type": grant.grant_type,
        "resource_owner": grant.subject,
        "scope": grant.access.scope if grant.access else grant.scope,
        **facts,
    }
    body = written(kind, grant.last_event, at, grant.grant_id, grant.sequence, data)
    return PendingEvent(grant.last_event, grant.grant_id, f"{kind.stem}.{grant.api_id}", body, at.now, sealed)


def _advanced(grant: Grant, at: Origin, **changes: object) -> Grant:
    counters = {"version": grant.version + 1, "sequence": grant.sequence + 1, "last_event": new_event_id(at.now)}
    return grant.model_copy(update={**counters, **changes})


def _access(pair: TokenPair, scope: str | None, settings: OAuthSettings, now: datetime, ends: datetime) -> AccessToken:
    expires_at = min(now + settings.access_token_lifetime, ends)
    return AccessToken(digest=pair.access.digest, scope=scope, issued_at=now, expires_at=expires_at)


def _refresh(pair: TokenPair, settings: OAuthSettings, now: datetime, ends: datetime) -> RefreshToken | None:
    if pair.refresh is None:
        return None
    return RefreshToken(digest=pair.refresh.digest, expires_at=min(now + settings.refresh_token_lifetime, ends))


def _token_facts(grant: Grant, sealed: bytes | None) -> dict[str, object]:
    assert grant.access is not None  # noqa: S101 - called for grants with tokens only
    return {
        "token_id": public_token_id(grant.grant_id, grant.generation),
        "expires_at": grant.access.expires_at,
        "refresh_expires_at": grant.refresh.expires_at if grant.refresh else None,
        "notify": sealed is not None,
    }


def _token_new(grant: Grant, at: Origin, sealed: bytes | None) -> PendingEvent:
    return _event(TokenNew, grant, at, _token_facts(grant, sealed), sealed)


def issue_code(
    grant_id: str,
    code: Minted,
    api: Api,
    client: Client,
    *,
    settings: OAuthSettings,
    redirect_uri: str,
    redirect_uri_requested: bool,
    scope: str | None,
    code_challenge: str | None,
    subject: str | None,
    key_rules: dict[str, object] | None,
    at: Origin,
) -> Transition:
    """A new pending grant with its code (RFC 6749 §4.1.2)."""
    code_expires_at = at.now + settings.code_lifetime
    grant = Grant(
        grant_id=grant_id,
        state=GrantState.PENDING,
        api_id=api.api_id,
        client_id=client.client_id,
        grant_type=GrantType.AUTHORIZATION_CODE,
        subject=subject,
        scope=scope,
        redirect_uri=redirect_uri,
        redirect_uri_requested=redirect_uri_requested,
        code_challenge=code_challenge,
        key_rules=key_rules,
        code=Code(digest=code.digest, expires_at=code_expires_at),
        sequence=1,
        created_at=at.now,
        expires_at=at.now + settings.grant_lifetime,
        last_event=new_event_id(at.now),
    )
    return Transition(None, grant, _event(CodeIssued, grant, at, {"expires_at": code_expires_at}))


def issue_tokens(
    grant_id: str,
    pair: TokenPair,
    api: Api,
    client: Client,
    grant_type: GrantType,
    *,
    settings: OAuthSettings,
    scope: str | None,
    subject: str | None = None,
    policy_ids: tuple[str, ...] = (),
    password_since: datetime | None = None,
    sealed: bytes | None = None,
    at: Origin,
) -> Transition:
    """A new active grant with its first tokens (RFC 6749 §4.3, §4.4)."""
    lifetime = settings.grant_lifetime if pair.refresh else settings.access_token_lifetime
    ends = at.now + lifetime
    grant = Grant(
        grant_id=grant_id,
        state=GrantState.ACTIVE,
        api_id=api.api_id,
        client_id=client.client_id,
        grant_type=grant_type,
        subject=subject,
        scope=scope,
        policy_ids=policy_ids,
        password_since=password_since,
        generation=1,
        access=_access(pair, scope, settings, at.now, ends),
        refresh=_refresh(pair, settings, at.now, ends),
        sequence=1,
        created_at=at.now,
        expires_at=ends,
        last_event=new_event_id(at.now),
    )
    return Transition(None, grant, _token_new(grant, at, sealed))


def is_revoked_with(grant: Grant, client: Client) -> bool:
    """Whether `revoke_all` of its client, or the deletion of a client of the same id, has ended the grant."""
    return client.revoked_before is not None and grant.created_at <= client.revoked_before


def belongs_to(grant: Grant, client: Client, api: Api) -> bool:
    """Whether this client may use the grant on this API: its own, and not ended with all others."""
    own = grant.client_id == client.client_id and grant.api_id == api.api_id
    return own and not is_revoked_with(grant, client)


def _check_redirect_uri(grant: Grant, redirect_uri: str | None) -> None:
    # RFC 6749 §4.1.3: redirect_uri is "REQUIRED, if [it] was included in the authorization request …, and their
    # values MUST be identical".
    if redirect_uri is None and not grant.redirect_uri_requested:
        return
    if redirect_uri != grant.redirect_uri:
        raise InvalidGrant("redirect_uri differs from the one the code was issued for")


def _failed_verifier(grant: Grant, code: Code, error: InvalidGrant) -> Transition:
    code = code.model_copy(update={"failures": code.failures + 1})
    return Transition(grant, grant.model_copy(update={"version": grant.version + 1, "code": code}), None, error)


def exchange_code(
    grant: Grant,
    presented: Handle,
    pair: TokenPair,
    *,
    settings: OAuthSettings,
    public: bool,
    redirect_uri: str | None,
    verifier: str | None,
    sealed: bytes | None,
    at: Origin,
) -> Transition:
    """Tokens for a code that is unused, unexpired and proven to be the caller's (RFC 6749 §4.1.3, RFC 7636 §4.6).

    A replay by the rightful client ends the grant (RFC 6749 §4.1.2), unless it comes within CODE_RETRY_WINDOW of the
    first use; three wrong verifiers burn the code. Raises InvalidGrant where nothing is to be written.
    """
    code = grant.code
    if code is None or grant.state is GrantState.REVOKED or not hmac.compare_digest(code.digest, presented.digest):
        raise InvalidGrant("the code is not valid")
    if code.failures >= MAX_VERIFIER_FAILURES:
        raise InvalidGrant("the code is not valid", detail="burned by wrong verifiers")
    if public and grant.code_challenge is None:
        raise InvalidGrant("a public client's code needs a code_challenge")
    _check_redirect_uri(grant, redirect_uri)
    try:
        verify_code_verifier(verifier, grant.code_challenge)
    except InvalidGrant as error:
        if code.used_at is not None or grant.code_challenge is None:
            raise
        return _failed_verifier(grant, code, error)
    if code.used_at is not None:
        # RFC 6749 §4.1.2: on reuse the server "SHOULD revoke (when possible) all tokens previously issued".
        if at.now - code.used_at <= CODE_RETRY_WINDOW:
            raise InvalidGrant("the code was just used")
        return end(grant, RevocationReason.CODE_REPLAY, at, InvalidGrant("the code was used before"))
    if code.expires_at <= at.now:
        raise InvalidGrant("the code has expired")
    after = _advanced(
        grant,
        at,
        state=GrantState.ACTIVE,
        generation=1,
        code=code.model_copy(update={"used_at": at.now}),
        access=_access(pair, grant.scope, settings, at.now, grant.expires_at),
        refresh=_refresh(pair, settings, at.now, grant.expires_at),
    )
    return Transition(grant, after, _token_new(after, at, sealed))


def _reused(grant: Grant, presented: Handle, settings: OAuthSettings, at: Origin) -> Transition | Recovery:
    used = grant.used_refresh
    is_previous = presented.generation == grant.generation - 1
    if is_previous and (used is None or not hmac.compare_digest(used.digest, presented.digest)):
        raise InvalidGrant("the refresh token is not valid")
    if is_previous and used and used.successor and settings.refresh_reuse is RefreshReuse.RECOVER:
        fresh = at.now - used.used_at <= RECOVERY_WINDOW and at.now < used.expires_at
        if fresh:
            return Recovery(used.successor, grant)
    # RFC 9700 §4.14.2: reuse of a rotated refresh token is a sign of theft; the grant ends for both holders.
    return end(grant, RevocationReason.REFRESH_REUSE, at, InvalidGrant("the refresh token was used before"))


def refresh(
    grant: Grant,
    presented: Handle,
    pair: TokenPair,
    *,
    settings: OAuthSettings,
    scope: str | None,
    successor: bytes | None,
    sealed: bytes | None,
    at: Origin,
) -> Transition | Recovery:
    """The next pair for the live refresh token (RFC 6749 §6); the pair before it ends in the same write.

    The token used last, again within RECOVERY_WINDOW and with its successor unused, recovers the lost response; any
    other reuse ends the grant (RFC 9700 §4.14.2). Raises InvalidGrant or InvalidScope where nothing is to be written.
    """
    if grant.state is not GrantState.ACTIVE or grant.refresh is None or presented.generation > grant.generation:
        raise InvalidGrant("the refresh token is not valid")
    if presented.generation < grant.generation:
        return _reused(grant, presented, settings, at)
    if not hmac.compare_digest(grant.refresh.digest, presented.digest):
        raise InvalidGrant("the refresh token is not valid")
    if grant.refresh.expires_at <= at.now:
        raise InvalidGrant("the refresh token has expired")
    granted = narrow_scope(scope, grant.scope)
    used = UsedRefreshToken(
        digest=presented.digest, expires_at=grant.refresh.expires_at, used_at=at.now, successor=successor
    )
    after = _advanced(
        grant,
        at,
        generation=grant.generation + 1,
        access=_access(pair, granted, settings, at.now, grant.expires_at),
        refresh=_refresh(pair, settings, at.now, grant.expires_at),
        used_refresh=used,
    )
    previous = public_token_id(grant.grant_id, grant.generation)
    facts = {**_token_facts(after, sealed), "previous_token_id": previous}
    return Transition(grant, after, _event(TokenRefresh, after, at, facts, sealed))


def end(grant: Grant, reason: RevocationReason, at: Origin, refusal: InvalidGrant | None = None) -> Transition:
    """The grant over, with code, access token and refresh token."""
    after = _advanced(
        grant, at, state=GrantState.REVOKED, ended_at=at.now, ended_reason=reason, refresh=None, used_refresh=None
    )
    return Transition(grant, after, _event(GrantRevoked, after, at, {"reason": reason, "actor": at.actor}), refusal)


def revoke_access_token(grant: Grant, generation: int, reason: RevocationReason, at: Origin) -> Transition | None:
    """One access token over, the grant's refresh token still good; None if that token is dead already."""
    access = grant.access
    if grant.state is not GrantState.ACTIVE or access is None or access.revoked or generation != grant.generation:
        return None
    after = _advanced(grant, at, access=access.model_copy(update={"revoked": True}))
    facts = {"token_id": public_token_id(grant.grant_id, generation), "reason": reason, "actor": at.actor}
    return Transition(grant, after, _event(TokenRevoked, after, at, facts))


def live_access_token(grant: Grant, presented: Handle) -> AccessToken | None:
    """The grant's access token, if this is it and nothing but time can have ended it."""
    access = grant.access
    if grant.state is not GrantState.ACTIVE or access is None or access.revoked:
        return None
    if presented.generation != grant.generation or not hmac.compare_digest(access.digest, presented.digest):
        return None
    return access


def live_refresh_token(grant: Grant, presented: Handle) -> RefreshToken | None:
    """The grant's refresh token, if this is it and nothing but time can have ended it."""
    token = grant.refresh
    if grant.state is not GrantState.ACTIVE or token is None:
        return None
    if presented.generation != grant.generation or not hmac.compare_digest(token.digest, presented.digest):
        return None
    return token
