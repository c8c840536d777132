"""Recovers notifications that the queue did not bring: a broker lost its disk, or a command was dead-lettered.

A grant keeps each published notification until its delivery is in MongoDB. The sweeper looks for those that are still
kept seconds after they were published. So a lost command delays a webhook by seconds, and no webhook is lost.
"""

import base64
from collections.abc import Awaitable, Callable, Sequence
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
from libs.supervision import Supervisor
from services.notifier.consumer import NotificationConsumer

GRACE_PERIOD = timedelta(seconds=5)
"""Age below which a notification is left to the queue."""
INTERVAL_SECONDS = 1.0
BATCH = 500

log = structlog.get_logger("notifier")


def _command(event: PendingEvent) -> NotificationCommand:
    sealed = base64.b64encode(event.sealed or b"").decode()
    return NotificationCommand.model_validate_json(b'{"event":%b,"sealed":"%b"}' % (event.body, sealed.encode()))


@dataclass(frozen=True, slots=True)
class MissedNotificationSweeper:
    """Every notifier runs one; together they create each delivery once, because its id is the event's."""

    grants: Grants
    deliveries: Deliveries
    consumer: NotificationConsumer
    now: Callable[[], datetime]
    sleep: Callable[[float], Awaitable[None]]

    async def sweep(self) -> int:
        """Create the missing deliveries of notifications older than GRACE_PERIOD; returns how many.

        Raises TemporarilyUnavailable. Any other error of one notification is raised after the others of its batch
        have been handled.
        """
        recovered = 0
        while waiting := await self.grants.awaiting_handover(self.now() - GRACE_PERIOD, BATCH):
            present = await self.deliveries.present([event.id for event in waiting])
            missing = [event for event in waiting if event.id not in present]
            failures = await self._accept(missing)
            await self.grants.handed_over([event for event in waiting if event.id not in failures])
            recovered += len(missing) - len(failures)
            for failure in failures.values():
                raise failure
        return recovered

    async def _accept(self, missing: Sequence[PendingEvent]) -> dict[str, Exception]:
        """The errors of those that could not be accepted, by event id. Raises TemporarilyUnavailable."""
        failures: dict[str, Exception] = {}
        for event in missing:
            try:
                await self.consumer.accept(_command(event))
            except (ValidationError, Drop):
                # It will never be readable. It is handed over anyway, or it would be read again every second.
                log.error("notification_unreadable", event_id=event.id)
            except TemporarilyUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - raised by `sweep` when the others are accepted
                failures[event.id] = error
        if missing:
            log.warning("missed_notifications_recovered", notifications=len(missing) - len(failures))
        return failures

    def add_to(self, app: web.Application, supervisor: Supervisor) -> None:
        """Sweep every INTERVAL_SECONDS while the application runs."""
        supervisor.start_with(
            app,
            lambda: supervisor.every("missed-notification-sweeper", INTERVAL_SECONDS, self._sweep, sleep=self.sleep),
        )

    async def _sweep(self) -> None:
        await self.sweep()
