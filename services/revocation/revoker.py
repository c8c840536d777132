"""Ending one token or one grant, whoever asks."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from contracts.clients import Client
from contracts.grants import Grant, GrantState, RevocationReason
from libs.events import Origin
from libs.oauth.grants import Transition, end, live_access_token, revoke_access_token
from libs.oauth.tokens import Handle, TokenCodec, TokenKind, parse_public_token_id
from libs.store.clients import Clients
from libs.store.grants import Grants


class NotOfClient(Exception):
    """The token is another client's."""


@dataclass(frozen=True, slots=True)
class Revoker:
    """Revokes by presented value, by public id, by grant, by client."""

    grants: Grants
    clients: Clients
    codec: TokenCodec
    origin: Callable[[], Origin]

    async def revoke_value(self, value: str, client: Client, reason: RevocationReason) -> bool:
        """The token dead, if it is one of this client's; whether anything changed. Raises NotOfClient.

        An access token ends alone. A refresh token ends its grant, even one used before: whoever logs out after a lost
        answer holds no newer one.
        """
        presented = self.codec.read_any(value)
        if presented is None or presented.kind is TokenKind.CODE:
            # RFC 7009 §2.2: an invalid token is no error; nor does the time tell it from one that is dead.
            await self.grants.read_in_vain()
            return False

        def decide(grant: Grant | None, at: Origin) -> Transition | None:
            if presented.kind is TokenKind.REFRESH:
                return _ended(grant, client, reason, at)
            return _access_revoked(grant, client, presented, reason, at)

        return await self._settled(presented.grant_id, decide)

    async def revoke_public_id(self, public_id: str, client: Client, reason: RevocationReason) -> bool:
        """The access token of this public id dead; whether anything changed. Raises NotOfClient."""
        named = parse_public_token_id(public_id)
        if named is None:
            return False
        grant_id, generation = named

        def decide(grant: Grant | None, at: Origin) -> Transition | None:
            return revoke_access_token(_own(grant, client), generation, reason, at) if grant else None

        return await self._settled(grant_id, decide)

    async def revoke_all(self, client: Client) -> bool:
        """Every grant that the client has up to now dead at once; False if there is no such client any more.

        One write on the client; the grants end one by one in reaction to its event.
        """
        while (current := await self.clients.get(client.client_id)) is not None:
            if await self.clients.revoke_all(current, self.origin()):
                return True
        return False

    async def end_all(self, client_id: str, until: datetime, reason: RevocationReason) -> int:
        """End every grant of the client created up to then, each with its event; how many. Twice does no more."""
        ended = 0
        async for grant in self.grants.unended_of_client(client_id, until):

            def decide(current: Grant | None, at: Origin) -> Transition | None:
                return end(current, reason, at) if current and current.state is not GrantState.REVOKED else None

            ended += await self._settled(grant.grant_id, decide)
        return ended

    async def _settled(self, grant_id: str, decide: Callable[[Grant | None, Origin], Transition | None]) -> bool:
        return await self.grants.settle(grant_id, lambda grant: decide(grant, self.origin())) is not None


def _own(grant: Grant, client: Client) -> Grant:
    if grant.client_id != client.client_id:
        raise NotOfClient
    return grant


def _ended(grant: Grant | None, client: Client, reason: RevocationReason, at: Origin) -> Transition | None:
    if grant is None or _own(grant, client).state is GrantState.REVOKED:
        return None
    return end(grant, reason, at)


def _access_revoked(
    grant: Grant | None, client: Client, presented: Handle, reason: RevocationReason, at: Origin
) -> Transition | None:
    if grant is None or live_access_token(_own(grant, client), presented) is None:
        return None
    return revoke_access_token(grant, presented.generation, reason, at)
