"""When an API is deleted, its clients are deleted; the revocation service then revokes their grants."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from pydantic import ValidationError

from contracts.clients import Client, ClientDeletion
from contracts.events import ApiDeleted
from libs.bus.port import Delivery, Drop, Exchange, Retry, Subscription
from libs.event_encoding import EventContext
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.apis import Apis
from libs.store.clients import Clients
from libs.store.optimistic import retry_on_conflict

_ATTEMPTS = 8
"""An attempt fails only if another writer changed the client in between."""

log = structlog.get_logger("management")


@dataclass(frozen=True, slots=True)
class ClientCleanup:
    """Deletes the clients of deleted APIs. Idempotent, since the bus may deliver an event more than once."""

    apis: Apis
    clients: Clients
    now: Callable[[], datetime]

    async def delete_clients(self, delivery: Delivery) -> None:
        """Delete the clients of the API that this event names. Raises Retry while MongoDB is unavailable."""
        try:
            event = ApiDeleted.model_validate_json(delivery.message.body)
        except ValidationError as error:
            raise Drop("not an event that this service knows") from error
        try:
            deleted = await self._delete_clients(event)
        except TemporarilyUnavailable as error:
            raise Retry from error
        log.info("clients_deleted", api_id=event.data.api_id, clients=deleted, event_id=event.id)

    async def _delete_clients(self, event: ApiDeleted) -> int:
        # If the API was created again under the same id, clients that were registered since then stay.
        until = event.time if await self.apis.get(event.data.api_id) else None
        deleted = 0
        # Repeated until a pass finds none: a client may be registered under an id that this pass is already past.
        while more := await self._delete_once(event, until):
            deleted += more
        return deleted

    async def _delete_once(self, event: ApiDeleted, until: datetime | None) -> int:
        """Delete the clients in one pass, page by page in the order of their ids. Returns how many were deleted."""
        deleted, after = 0, ""
        while clients := await self.clients.of_api_until(event.data.api_id, until, after):
            after = clients[-1].client_id
            ctx = EventContext("urn:tokenwire:management", self.now(), event.traceparent, event.data.actor)
            deletions = (self._delete(client, ctx) for client in clients)
            deleted += sum(await asyncio.gather(*deletions))
        return deleted

    async def _delete(self, client: Client, ctx: EventContext) -> int:
        """How many clients were deleted: 1, or 0 if it is gone already. Raises Retry if others keep changing it."""

        async def attempt() -> int | None:
            current = await self.clients.registered(client.client_id, client.api_id)
            # A client that was registered again under the same id after the API was deleted is another client.
            if current is None or current.created_at != client.created_at:
                return 0
            return 1 if await self.clients.delete(current, ClientDeletion.API_DELETED, ctx) else None

        return await retry_on_conflict(attempt, attempts=_ATTEMPTS, exhausted=_changed_by_others)

    def subscription(self) -> Subscription:
        """Subscribes to deletions of APIs."""
        return Subscription("management", Exchange.EVENTS, ("api.deleted.#",), self.delete_clients)


def _changed_by_others() -> Retry:
    return Retry("other writers keep changing a client")
