"""Revokes tokens and grants in the store, for the endpoint, the operators and the consumer of events."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from contracts.clients import Client
from contracts.grants import Grant, GrantState, RevocationReason
from libs.event_encoding import EventContext
from libs.oauth.errors import TemporarilyUnavailable
from libs.oauth.grants import Transition, live_access_token, revoke_access_token, revoke_grant
from libs.oauth.token_formats import PresentedToken, TokenFormat, TokenKind, parse_public_token_id
from libs.store.clients import Clients
from libs.store.grants import Grants
from libs.store.optimistic import retry_on_conflict

REVOKED_AT_ONCE = 32
"""Grants of one client that are revoked concurrently: half of the connections to MongoDB."""


class NotOfClient(Exception):
    """The token was issued to another client."""


@dataclass(frozen=True, slots=True)
class Revoker:
    """Revokes by the token's value, by its public id, or all grants of a client."""

    grants: Grants
    clients: Clients
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

    async def revoke_grants(self, api_id: str, client_id: str, until: datetime, reason: RevocationReason) -> int:
        """Revoke the client's grants on this API created up to this moment, each with its event; returns how many.

        Idempotent.
        """

        def decide(current: Grant | None, ctx: EventContext) -> Transition | None:
            return revoke_grant(current, reason, ctx) if current and current.state is not GrantState.REVOKED else None

        revoked = 0
        async for grant_ids in self.grants.unended_of_client(api_id, client_id, until, REVOKED_AT_ONCE):
            revoked += sum(await asyncio.gather(*(self._revoke(grant_id, decide) for grant_id in grant_ids)))
        return revoked

    async def _revoke(self, grant_id: str, decide: Callable[[Grant | None, EventContext], Transition | None]) -> bool:
        return (
            await self.grants.update_with_retry(grant_id, lambda grant: decide(grant, self.event_context())) is not None
        )


def _too_many_changes() -> TemporarilyUnavailable:
    return TemporarilyUnavailable("too many changes of one client at once")


def _own(grant: Grant, client: Client) -> Grant:
    if grant.client_id != client.client_id:
        raise NotOfClient
    return grant


def _grant_revoked(
    grant: Grant | None, client: Client, reason: RevocationReason, ctx: EventContext
) -> Transition | None:
    if grant is None or _own(grant, client).state is GrantState.REVOKED:
        return None
    return revoke_grant(grant, reason, ctx)


def _access_token_revoked(
    grant: Grant | None, client: Client, presented: PresentedToken, reason: RevocationReason, ctx: EventContext
) -> Transition | None:
    if grant is None or live_access_token(_own(grant, client), presented) is None:
        return None
    return revoke_access_token(grant, presented.generation, reason, ctx)
