"""Consumes notification commands from the bus and stores each as a delivery in MongoDB before acknowledging it.

A command that cannot be read goes to the dead-letter queue of the pool `notifier` (it is raised as `Drop`). A token
whose command is lost or dead-lettered still gets its webhook: see `sweeper.py`.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from contracts.events import NotificationCommand
from contracts.webhooks import Delivery, DeliveryState
from libs.bus.port import Delivery as BusDelivery
from libs.bus.port import Drop, Exchange, Retry, Subscription
from libs.catalog import Catalog
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.deliveries import Deliveries
from libs.store.mongo import Conflict
from libs.tracing.spans import TRACEPARENT
from services.notifier.endpoints import EndpointLimiter, webhook_settings
from services.notifier.scheduler import DeliveryScheduler
from services.notifier.worker import DeliveryWorker, InFlight

PREFETCH = 256
"""At most what one endpoint may have in flight, or commands for a fast endpoint would not find free slots."""
MAX_ACK_DELAY_SECONDS = 0.5
"""A command is acknowledged after this time at the latest if its endpoint has not responded."""
MAX_RECORD_DELAY_SECONDS = 5.0
"""After this further time at the latest if its result is not recorded."""


def _decode_sealed(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Drop("the sealed part is not base64") from error


@dataclass(frozen=True, slots=True)
class NotificationConsumer:
    """Turns commands into deliveries. Idempotent: the delivery's id is the event's."""

    deliveries: Deliveries
    catalog: Catalog
    limiter: EndpointLimiter
    worker: DeliveryWorker
    scheduler: DeliveryScheduler
    lease: timedelta
    max_age: timedelta
    now: Callable[[], datetime]

    def subscription(self) -> Subscription:
        """To the queue of commands, which only the notifier may read."""
        return Subscription("notifier", Exchange.NOTIFY, ("notify",), self.handle, prefetch=PREFETCH)

    async def handle(self, message: BusDelivery) -> None:
        """Store the delivery, and start to send it if its endpoint has a free slot.

        Raises Retry while MongoDB is unavailable, and Drop for a message that is no command.
        """
        try:
            command = NotificationCommand.model_validate_json(message.message.body)
        except ValidationError as error:
            raise Drop("not a notification command") from error
        try:
            in_flight = await self.accept(command, message.message.headers.get(TRACEPARENT))
        except TemporarilyUnavailable as error:
            raise Retry from error
        if in_flight is not None and in_flight.endpoint.is_fast:
            await self._delay_ack(in_flight)

    async def accept(self, command: NotificationCommand, traceparent: str | None = None) -> InFlight | None:
        """Store the delivery unless it is stored already; returns the attempt if one was started.

        `traceparent` is the context of the span in which the command is processed; by default that of the event.
        Raises TemporarilyUnavailable, and Drop for a command whose sealed body is malformed.
        """
        with suppress(Conflict):  # stored earlier: the command was delivered twice, or the sweeper was first
            return await self._accept(command, traceparent or command.event.traceparent)
        return None

    async def _delay_ack(self, in_flight: InFlight) -> None:
        """Return when the result is recorded, or too much time has passed.

        Unacknowledged commands hold back the next ones (PREFETCH). So commands for fast endpoints come as fast as
        they can be sent and recorded, and need not wait in MongoDB for a free slot, which would only slow it down more.
        """
        await asyncio.wait((in_flight.task,), timeout=MAX_ACK_DELAY_SECONDS)
        if in_flight.task.done():
            return
        if in_flight.attempt_ended:
            await asyncio.wait((in_flight.task,), timeout=MAX_RECORD_DELAY_SECONDS)
        else:
            in_flight.endpoint.is_fast = False

    def _new_delivery(
        self, command: NotificationCommand, traceparent: str | None, *, wanted: bool = True, leased: bool = False
    ) -> Delivery:
        event, now = command.event, self.now()
        return Delivery(
            delivery_id=event.id,
            state=DeliveryState.PENDING if wanted else DeliveryState.DISCARDED,
            api_id=event.data.api_id,
            client_id=event.data.client_id,
            grant_id=event.data.grant_id,
            event_type=event.stem,
            event_at=event.time,
            traceparent=traceparent,
            sealed=_decode_sealed(command.sealed) if wanted else None,
            next_attempt_at=now if wanted else None,
            lease_until=now + self.lease if leased else None,
            give_up_at=now + self.max_age,
            created_at=now,
            updated_at=now,
        )

    async def _accept(self, command: NotificationCommand, traceparent: str | None) -> InFlight | None:
        api_id = command.event.data.api_id
        target = await webhook_settings(self.catalog, api_id)
        if target is None:
            await self.deliveries.add(self._new_delivery(command, traceparent, wanted=False))
            return None
        endpoint = self.limiter.endpoint(target.on_key_change_url)
        if self.scheduler.stopping or not self.limiter.acquire(endpoint):
            await self.deliveries.add(self._new_delivery(command, traceparent))
            self.scheduler.add_waiting(api_id, target.on_key_change_url)
            return None
        # Stored with a lease, so that no other notifier claims it between this write and the attempt.
        try:
            leased = self._new_delivery(command, traceparent, leased=True)
            await self.deliveries.add(leased)
        except BaseException:
            self.limiter.release(endpoint)
            raise
        return self.worker.start(leased, endpoint, target.secrets)
