"""Takes notification commands from the bus: each is a delivery in MongoDB before it is acknowledged."""

import asyncio
import base64
import binascii
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
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
from services.notifier.addresses import address_of
from services.notifier.alarms import Alarms
from services.notifier.claims import Claims
from services.notifier.courier import Courier, Sending
from services.notifier.lanes import Lanes

PREFETCH = 256
"""No more than one endpoint may have under way, or what comes for one that is quick would not find places."""
HELD = 0.5
"""Seconds after which a command is acknowledged, whatever its webhook does."""


def _sealed(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Drop("the sealed part is not base64") from error


@dataclass(frozen=True, slots=True)
class Intake:
    """Running twice on the same event does no more than once."""

    deliveries: Deliveries
    catalog: Catalog
    lanes: Lanes
    courier: Courier
    claims: Claims
    lease: timedelta
    patience: timedelta
    now: Callable[[], datetime]
    alarms: Alarms = field(default_factory=lambda: Alarms(HELD))

    def subscription(self) -> Subscription:
        """To what only the notifier may read."""
        return Subscription("notifier", Exchange.NOTIFY, ("notify",), self.take, prefetch=PREFETCH)

    async def take(self, message: BusDelivery) -> None:
        """The delivery stored, and under way where its endpoint has room. Raises Retry while MongoDB is away."""
        try:
            command = NotificationCommand.model_validate_json(message.message.body)
        except ValidationError as error:
            raise Drop("not a notification command") from error
        try:
            sending = await self.accept(command)
        except TemporarilyUnavailable as error:
            raise Retry from error
        if sending is not None and sending.lane.quick:
            await self._hold(sending)

    async def accept(self, command: NotificationCommand) -> Sending | None:
        """The delivery stored if it is new, and under way where its endpoint has room: then what is under way.

        Raises TemporarilyUnavailable, and Drop for a command that is none.
        """
        with suppress(Conflict):  # it came before
            return await self._accept(command)
        return None

    async def _hold(self, sending: Sending) -> None:
        """Return when it is over, after a moment anyway: a command that is not acknowledged keeps the next from coming.

        So what a quick endpoint gets goes out as it comes, and none of it has to wait in MongoDB for a place.
        """
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end(_: object = None) -> None:
            if not over.done():
                over.set_result(None)

        sending.task.add_done_callback(end)
        alarm = self.alarms.set(end)
        try:
            await over
        finally:
            self.alarms.off(alarm)
        if not sending.task.done():
            sending.lane.quick = False

    def _delivery(self, command: NotificationCommand, *, wanted: bool = True, leased: bool = False) -> Delivery:
        event, now = command.event, self.now()
        return Delivery(
            delivery_id=event.id,
            state=DeliveryState.PENDING if wanted else DeliveryState.DISCARDED,
            api_id=event.data.api_id,
            client_id=event.data.client_id,
            grant_id=event.data.grant_id,
            event_type=event.stem,
            event_at=event.time,
            traceparent=event.traceparent,
            sealed=_sealed(command.sealed) if wanted else None,
            next_attempt_at=now if wanted else None,
            lease_until=now + self.lease if leased else None,
            give_up_at=now + self.patience,
            created_at=now,
            updated_at=now,
        )

    async def _accept(self, command: NotificationCommand) -> Sending | None:
        api_id = command.event.data.api_id
        address = await address_of(self.catalog, api_id)
        if address is None:
            await self.deliveries.add(self._delivery(command, wanted=False))
            return None
        lane = self.lanes.of(address.on_key_change_url)
        if self.claims.stopping or not self.lanes.take(lane):
            await self.deliveries.add(self._delivery(command))
            self.claims.left(api_id, address.on_key_change_url)
            return None
        try:
            leased = self._delivery(command, leased=True)
            await self.deliveries.add(leased)
        except BaseException:
            self.lanes.give_back(lane)
            raise
        return self.courier.start(leased, lane, address.shared_secret)
