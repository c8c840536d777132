"""Revokes the grants of a client, one by one, after it was deleted or all its tokens were revoked.

The tokens are invalid from the moment of the deletion or of `revoke_all` (Client.revoked_before); this consumer brings
each grant up to date and writes its `grant.revoked` event.
"""

from dataclasses import dataclass

import structlog
from pydantic import TypeAdapter, ValidationError

from contracts.clients import ClientDeletion
from contracts.events import ClientDeleted, ClientTokensRevoked
from contracts.grants import RevocationReason
from libs.bus.port import Delivery, Drop, Exchange, Retry, Subscription
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.clients import Clients
from services.revocation.revoker import Revoker

_EVENTS: TypeAdapter[ClientDeleted | ClientTokensRevoked] = TypeAdapter(ClientDeleted | ClientTokensRevoked)
_REASONS = {
    ClientDeletion.CLIENT_DELETED: RevocationReason.CLIENT_DELETED,
    ClientDeletion.API_DELETED: RevocationReason.API_DELETED,
}

log = structlog.get_logger("revocation")


@dataclass(frozen=True, slots=True)
class ClientRevocation:
    """Consumes `client.deleted` and `client.tokens_revoked`. Consuming an event twice changes nothing more."""

    revoker: Revoker
    clients: Clients

    async def react(self, delivery: Delivery) -> None:
        """Revoke the grants of the event's client. Raises Retry while MongoDB is unavailable, Drop for other events."""
        try:
            event = _EVENTS.validate_json(delivery.message.body)
        except ValidationError as error:
            raise Drop("not an event that this service consumes") from error
        try:
            revoked = await self._revoke(event)
        except TemporarilyUnavailable as error:
            raise Retry from error
        log.info("grants_revoked", client_id=event.data.client_id, grants=revoked, event_id=event.id)

    async def _revoke(self, event: ClientDeleted | ClientTokensRevoked) -> int:
        api_id, client_id, until = event.data.api_id, event.data.client_id, event.time
        if isinstance(event, ClientTokensRevoked):
            return await self.revoker.revoke_grants(api_id, client_id, until, RevocationReason.REVOKE_ALL)
        if await self.clients.registered(client_id, api_id) is None:
            # Up to now, not only up to the deletion: a process that had not heard of it may have issued a token since.
            until = self.revoker.event_context().now
        return await self.revoker.revoke_grants(api_id, client_id, until, _REASONS[event.data.reason])

    def subscription(self) -> Subscription:
        """The subscription of the queue that all revocation processes share."""
        keys = ("client.deleted.#", "client.tokens_revoked.#")
        return Subscription("revocation", Exchange.EVENTS, keys, self.react)
