"""Records every event that the bus delivers, so that reconciliation can compare it with what records committed.

The same consumer counts usage and writes the audit log.
"""

from dataclasses import dataclass
from datetime import timedelta

import structlog
from aiohttp import web

from libs.audit_log import audit_log_entry
from libs.bus.port import Delivery, Exchange, Retry, Subscription
from libs.event_log import recorded_event
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.audit_log import AuditLog
from libs.store.recorded_events import RecordedEvents
from libs.supervision import Supervisor

POOL = "event_log"
PREFETCH = 1024
"""Events that wait together are written in one batch, so a high prefetch saves writes."""
ABANDONED_AFTER = timedelta(seconds=10)
"""If a batch makes no progress for that long, its process is taken for dead and any other finishes it."""
INTERVAL = 10.0

log = structlog.get_logger("management")


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records every event. Idempotent, since the bus may deliver an event more than once."""

    events: RecordedEvents
    audit_log: AuditLog

    async def record(self, delivery: Delivery) -> None:
        """Record and count the event. Raises Drop for a malformed event, and Retry while MongoDB is unavailable."""
        event = recorded_event(delivery.message.body)
        change = audit_log_entry(event.type, delivery.message.body)
        try:
            # The audit log first: if the process dies in between, the event is delivered again and nothing is missing.
            if change is not None:
                await self.audit_log.add(change)
            await self.events.add(event)
        except TemporarilyUnavailable as error:
            raise Retry from error

    def subscription(self) -> Subscription:
        """Subscribes to all events; one of the processes gets each."""
        return Subscription(POOL, Exchange.EVENTS, ("#",), self.record, prefetch=PREFETCH)

    def add_to(self, app: web.Application, supervisor: Supervisor) -> None:
        """While the application runs, finish the batches that died processes left."""
        supervisor.start_with(app, lambda: supervisor.every("recorder", INTERVAL, self._finish_abandoned))

    async def _finish_abandoned(self) -> None:
        if hours := await self.events.usage.add_days():
            log.info("usage_added_to_days", hours=hours)
        await self.events.batches.finish_abandoned(ABANDONED_AFTER)
