"""Revokes tokens and grants in the store, for the endpoint, the operators and the consumer of events."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from contracts.clients import Client
from contracts.grants import Grant, GrantState, RevocationReason, UserRevocation
from libs.event_encoding import EventContext
from libs.oauth.errors import TemporarilyUnavailable
from libs.oauth.grants import Transition, live_access_token, revoke_access_token, revoke_grant
from libs.oauth.token_formats import PresentedToken, TokenFormat, TokenKind, parse_public_token_id
from libs.store.clients import Clients
from libs.store.grants import Grants
from libs.store.optimistic import retry_on_conflict
from libs.store.users import Users

REVOKED_AT_ONCE = 32
"""Grants of one client that are revoked concurrently: half of the connections to MongoDB."""


class NotOfClient(Exception):
    """The token was issued to another client."""


@dataclass(frozen=True, slots=True)
class Revoker:
    """Revokes by the token's value, by its public id, or all grants of a client."""

    grants: Grants
    clients: Clients
    users: Users
    token_format: TokenFormat
    event_context: Callable[[], EventContext]

    async def revoke_value(self, value: str, client: Client, reason: RevocationReason) -> bool:
        """Revoke the token of this client; True if that changed anything. Raises NotOfClient.

        An access token is revoked alone. A refresh token revokes its grant, even one that was used before: after a
        lost response, the client that logs out has no newer one.
        """
        presented = self.token_format.read_any(value)
        if presented is None or presented.kind is TokenKind.CODE:
            # RFC 7009 §2.2: "invalid tokens do not cause an error response". One read, as for a token of a grant, so
            # that the response time does not tell whether the token was ever issued.
            await self.grants.dummy_read()
            return False

        def decide(grant: Grant | None, ctx: EventContext) -> Transition | None:
            if presented.kind is TokenKind.REFRESH:
                return _grant_revoked(grant, client, reason, ctx)
            return _access_token_revoked(grant, client, presented, reason, ctx)

        return await self._revoke(presented.grant_id, decide)

    async def revoke_public_id(self, public_id: str, client: Client, reason: RevocationReason) -> bool:
        """Revoke the access token with this public id; True if that changed anything. Raises NotOfClient."""
        named = parse_public_token_id(public_id)
        if named is None:
            return False
        grant_id, generation = named

        def decide(grant: Grant | None, ctx: EventContext) -> Transition | None:
            return revoke_access_token(_own(grant, client), generation, reason, ctx) if grant else None

        return await self._revoke(grant_id, decide)

    async def revoke_all(self, client: Client) -> bool:
        """Revoke all grants that the client has until now on this API; False if it is no longer registered there.

        It is one write on the client, which counts in every process at once (`is_revoked_with_client`). The grants
        themselves are revoked one by one when its event is consumed (client_revocation.py).
        """

        async def attempt() -> int | None:
            current = await self.clients.registered(client.client_id, client.api_id)
            if current is None:
                return 0
            return 1 if await self.clients.revoke_all(current, self.event_context()) else None

        return bool(await retry_on_conflict(attempt, exhausted=_too_many_changes))

    async def revoke_grant(self, grant_id: str, reason: RevocationReason) -> bool:
        """Revoke the grant, whoever it belongs to; False if there is none, or it was revoked before."""
        return await self._revoke(grant_id, lambda grant, ctx: _unless_revoked(grant, reason, ctx))

    async def revoke_all_of_user(self, subject: str) -> datetime:
        """Revoke all grants that the user has authorized until the returned moment, which is now.

        Grants that are being issued count from now on as revoked (`libs.store.users`). Those that exist are revoked one
        by one when the event of this write is consumed (client_revocation.py), or by `revoke_grants_of_user`.
        """

        async def attempt() -> UserRevocation | None:
            return await self.users.revoke_all(subject, self.event_context())

        return (await retry_on_conflict(attempt, exhausted=_too_many_changes)).revoked_before

    async def revoke_grants(self, api_id: str, client_id: str, until: datetime, reason: RevocationReason) -> int:
        """Revoke the client's grants on this API created up to this moment, each with its event; returns how many.

        Idempotent.
        """
        unended = self.grants.unended_of_client(api_id, client_id, until, REVOKED_AT_ONCE)
        return await self._revoke_each(unended, reason)

    async def revoke_grants_of_user(self, subject: str, until: datetime, most: int | None = None) -> int:
        """The same for the grants that this user has authorized. Stops after about `most`."""
        unended = self.grants.unended_of_subject(subject, until, REVOKED_AT_ONCE)
        return await self._revoke_each(unended, RevocationReason.USER_REVOKED, most)

    async def _revoke_each(
        self, unended: AsyncIterator[Sequence[str]], reason: RevocationReason, most: int | None = None
    ) -> int:
        def decide(grant: Grant | None, ctx: EventContext) -> Transition | None:
            # Without the operator: the audit log has one entry for all grants that are revoked together.
            return _unless_revoked(grant, reason, replace(ctx, actor=None))

        revoked = 0
        async for grant_ids in unended:
            revoked += sum(await asyncio.gather(*(self._revoke(grant_id, decide) for grant_id in grant_ids)))
            if most is not None and revoked >= most:
                break
        return revoked

    async def _revoke(self, grant_id: str, decide: Callable[[Grant | None, EventContext], Transition | None]) -> bool:
        return (
            await self.grants.update_with_retry(grant_id, lambda grant: decide(grant, self.event_context())) is not None
        )


def _too_many_changes() -> TemporarilyUnavailable:
    return TemporarilyUnavailable("too many changes of one client or user at once")


def _unless_revoked(grant: Grant | None, reason: RevocationReason, ctx: EventContext) -> Transition | None:
    return None if grant is None or grant.state is GrantState.REVOKED else revoke_grant(grant, reason, ctx)


def _own(grant: Grant, client: Client) -> Grant:
    if grant.client_id != client.client_id:
        raise NotOfClient
    return grant


def _grant_revoked(
    grant: Grant | None, client: Client, reason: RevocationReason, ctx: EventContext
) -> Transition | None:
    return None if grant is None else _unless_revoked(_own(grant, client), reason, ctx)


def _access_token_revoked(
    grant: Grant | None, client: Client, presented: PresentedToken, reason: RevocationReason, ctx: EventContext
) -> Transition | None:
    if grant is None or live_access_token(_own(grant, client), presented) is None:
        return None
    return revoke_access_token(grant, presented.generation, reason, ctx)
