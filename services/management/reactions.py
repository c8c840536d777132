"""What follows when an API is gone: its clients go, and with each of them its grants."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from pydantic import ValidationError

from contracts.clients import ClientDeletion
from contracts.events import ApiDeleted
from libs.bus.port import Delivery, Drop, Exchange, Retry, Subscription
from libs.events import Origin
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.apis import Apis
from libs.store.clients import Clients

log = structlog.get_logger("management")


@dataclass(frozen=True, slots=True)
class Reactions:
    """Deletes the clients of deleted APIs; running twice does no more than once."""

    apis: Apis
    clients: Clients
    now: Callable[[], datetime]

    async def react(self, delivery: Delivery) -> None:
        """Delete the clients of the API that the event says is gone. Raises Retry while MongoDB is away."""
        try:
            event = ApiDeleted.model_validate_json(delivery.message.body)
        except ValidationError as error:
            raise Drop("not an event this service knows") from error
        try:
            deleted = await self._delete_clients(event)
        except TemporarilyUnavailable as error:
            raise Retry from error
        log.info("clients_deleted", api_id=event.data.api_id, clients=deleted, event_id=event.id)

    async def _delete_clients(self, event: ApiDeleted) -> int:
        # An API made again under the same id keeps the clients it got since.
        until = event.time if await self.apis.get(event.data.api_id) else None
        deleted = 0
        while clients := await self.clients.of_api_until(event.data.api_id, until):
            at = Origin("urn:tokenwire:management", self.now(), event.traceparent, event.data.actor)
            outcomes = [await self.clients.delete(client, ClientDeletion.API_DELETED, at) for client in clients]
            deleted += sum(outcomes)
            if not any(outcomes):
                raise Retry("every client is being changed by others")
        return deleted

    def subscription(self) -> Subscription:
        """To the end of APIs."""
        return Subscription("management", Exchange.EVENTS, ("api.deleted.#",), self.react)
