"""Records every event that the bus delivers, so that reconciliation can compare it with what records committed.

The same consumer counts usage and writes the audit log.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import orjson
import structlog
from aiohttp import web
from pydantic import ValidationError

from contracts.events import EVENTS, VENDOR
from contracts.reconciliation import RecordedEvent
from libs.audit_log import audit_log_entry
from libs.bus.port import Delivery, Drop, Exchange, Retry, Subscription
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.audit_log import AuditLog
from libs.store.recorded_events import RecordedEvents
from libs.supervision import Supervisor

POOL = "event_log"
PREFETCH = 1024
"""Events that wait together are written in one batch, so a high prefetch saves writes."""
COLLECTIONS: Mapping[str, str] = {event.stem.partition(".")[0]: event.collection for event in EVENTS}
"""By the first word of an event type: the collection of the records that the event is about."""
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
        event = read(delivery.message.body)
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


def read(body: bytes) -> RecordedEvent:
    """What is recorded of the event. Raises Drop for a malformed event."""
    try:
        event = orjson.loads(body)
        stem = event["type"].removeprefix(VENDOR)
        return RecordedEvent.model_validate(
            {
                **event["data"],
                **{name: event[name] for name in ("id", "subject", "time")},
                "type": stem,
                "collection": COLLECTIONS[stem.partition(".")[0]],
                "sequence": int(event["sequence"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise Drop("not an event that this service knows") from error
