"""Revokes the grants of a client or a user, one by one, after all of them were revoked or the client was deleted.

A client's tokens are invalid from the moment of the deletion or of `revoke_all` (Client.revoked_before); this consumer
brings each grant up to date and writes its `grant.revoked` event. A user's grants end when this consumer reaches them,
if the request that revoked them has not done it before (grant_revocation.py).
"""

from dataclasses import dataclass

import structlog
from pydantic import TypeAdapter, ValidationError

from contracts.clients import ClientDeletion
from contracts.events import ClientDeleted, ClientTokensRevoked, UserTokensRevoked
from contracts.grants import RevocationReason
from libs.bus.port import Delivery, Drop, Exchange, Retry, Subscription
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.clients import Clients
from services.revocation.revoker import Revoker

_Event = ClientDeleted | ClientTokensRevoked | UserTokensRevoked
_EVENTS: TypeAdapter[_Event] = TypeAdapter(_Event)
_REASONS = {
    ClientDeletion.CLIENT_DELETED: RevocationReason.CLIENT_DELETED,
    ClientDeletion.API_DELETED: RevocationReason.API_DELETED,
}

log = structlog.get_logger("revocation")


@dataclass(frozen=True, slots=True)
class ClientRevocation:
    """Consumes `client.deleted`, `client.tokens_revoked` and `user.tokens_revoked`; each may come twice."""

    revoker: Revoker
    clients: Clients

    async def react(self, delivery: Delivery) -> None:
        """Revoke the grants of the event's client or user. Raises Retry during an outage, Drop for other events."""
        try:
            event = _EVENTS.validate_json(delivery.message.body)
        except ValidationError as error:
            raise Drop("not an event that this service consumes") from error
        try:
            revoked = await self._revoke(event)
        except TemporarilyUnavailable as error:
            raise Retry from error
        log.info("grants_revoked", grants=revoked, event_id=event.id)

    async def _revoke(self, event: _Event) -> int:
        until = event.time
        if isinstance(event, UserTokensRevoked):
            return await self.revoker.revoke_grants_of_user(event.data.resource_owner, until)
        api_id, client_id = event.data.api_id, event.data.client_id
        if isinstance(event, ClientTokensRevoked):
            return await self.revoker.revoke_grants(api_id, client_id, until, RevocationReason.REVOKE_ALL)
        if await self.clients.registered(client_id, api_id) is None:
            # Up to now, not only up to the deletion: a process that had not heard of it may have issued a token since.
            until = self.revoker.event_context().now
        return await self.revoker.revoke_grants(api_id, client_id, until, _REASONS[event.data.reason])

    def subscription(self) -> Subscription:
        """The subscription of the queue that all revocation processes share."""
        keys = ("client.deleted.#", "client.tokens_revoked.#", "user.tokens_revoked.#")
        return Subscription("revocation", Exchange.EVENTS, keys, self.react)
