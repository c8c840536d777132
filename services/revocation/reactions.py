"""What follows when a client is gone, or all its tokens are to be: each of its grants ends, with its event."""

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
class Reactions:
    """Ends grants in reaction to events; running twice does no more than once."""

    revoker: Revoker
    clients: Clients

    async def react(self, delivery: Delivery) -> None:
        """End the grants that the event says are dead. Raises Retry while MongoDB is away."""
        try:
            event = _EVENTS.validate_json(delivery.message.body)
        except ValidationError as error:
            raise Drop("not an event this service knows") from error
        try:
            ended = await self._end(event)
        except TemporarilyUnavailable as error:
            raise Retry from error
        log.info("grants_ended", client_id=event.data.client_id, grants=ended, event_id=event.id)

    async def _end(self, event: ClientDeleted | ClientTokensRevoked) -> int:
        client_id, until = event.data.client_id, event.time
        if isinstance(event, ClientTokensRevoked):
            return await self.revoker.end_all(client_id, until, RevocationReason.REVOKE_ALL)
        if await self.clients.get(client_id) is None:
            # A process that had not heard yet may have issued a token after the deletion.
            until = self.revoker.origin().now
        return await self.revoker.end_all(client_id, until, _REASONS[event.data.reason])

    def subscription(self) -> Subscription:
        """To the events that end grants."""
        keys = ("client.deleted.#", "client.tokens_revoked.#")
        return Subscription("revocation", Exchange.EVENTS, keys, self.react)
