"""Fetches what the queue did not bring: notifications that a grant still has seconds after they were published.

The grant keeps a published notification until its delivery is in MongoDB. So a broker that lost its disk, or parked or
dropped a command, delays a webhook by seconds and loses none.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from aiohttp import web
from pydantic import ValidationError

from contracts.events import NotificationCommand, PendingEvent
from libs.bus.port import Drop
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.deliveries import Deliveries
from libs.store.grants import Grants
from services.notifier.intake import Intake

PATIENCE = timedelta(seconds=5)
"""What the queue usually brings is there long before."""
EVERY = 1.0
BATCH = 500

log = structlog.get_logger("notifier")


def _command(event: PendingEvent) -> NotificationCommand:
    sealed = base64.b64encode(event.sealed or b"").decode()
    return NotificationCommand.model_validate_json(b'{"event":%b,"sealed":"%b"}' % (event.body, sealed.encode()))


@dataclass(frozen=True, slots=True)
class Collector:
    """Any number of them do the same work without doubling it."""

    grants: Grants
    deliveries: Deliveries
    intake: Intake
    now: Callable[[], datetime]
    sleep: Callable[[float], Awaitable[None]]

    async def collect(self) -> int:
        """Every published notification past PATIENCE is a delivery; how many were not yet.

        Raises TemporarilyUnavailable.
        """
        collected = 0
        while waiting := await self.grants.awaiting_handover(self.now() - PATIENCE, BATCH):
            present = await self.deliveries.present([event.id for event in waiting])
            missing = [event for event in waiting if event.id not in present]
            await self._accept(missing)
            await self.grants.handed_over(waiting)
            collected += len(missing)
        return collected

    async def _accept(self, missing: Sequence[PendingEvent]) -> None:
        for event in missing:
            try:
                await self.intake.accept(_command(event))
            except (ValidationError, Drop):
                log.error("notification_unreadable", event_id=event.id)
        if missing:
            log.warning("notifications_collected", notifications=len(missing))

    def add_to(self, app: web.Application) -> None:
        """Collect while the application runs."""
        app.cleanup_ctx.append(self._run)

    async def _run(self, _: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._forever(), name="collector")
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _forever(self) -> None:
        while True:
            await self.sleep(EVERY)
            try:
                await self.collect()
            except TemporarilyUnavailable as error:
                log.warning("notifications_not_collected", error=error.detail)
