"""Records every event that the bus brings, for the audit to count what went out; counts tokens, keeps the trail."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import orjson
import structlog
from aiohttp import web
from pydantic import ValidationError

from contracts.audit import RecordedEvent
from contracts.events import VENDOR
from libs.bus.port import Delivery, Drop, Exchange, Retry, Subscription
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.events import RecordedEvents
from libs.store.trail import Trail
from services.management.trail import entry_of

POOL = "audit"
PREFETCH = 1024
"""Events that wait together share one write, so many may wait."""
COLLECTIONS: Mapping[str, str] = {
    "code": "grants",
    "token": "grants",
    "grant": "grants",
    "api": "apis",
    "client": "clients",
    "policy": "policies",
    "resource_owner": "resource_owners",
    "operator": "operators",
    "notification": "deliveries",
}
"""Whose events begin with this word."""
LEFT_BEHIND = timedelta(seconds=10)
"""A batch that nobody has gone on with for so long is finished by any process."""
LOOK_EVERY = 10.0

log = structlog.get_logger("management")


@dataclass(frozen=True, slots=True)
class Recorder:
    """Running twice on the same event does no more than once."""

    events: RecordedEvents
    trail: Trail

    async def record(self, delivery: Delivery) -> None:
        """The event is recorded and counted. Raises Drop for what is none, and Retry while MongoDB is away."""
        event = read(delivery.message.body)
        change = entry_of(event.type, delivery.message.body)
        try:
            # The trail first: an event that counts as recorded is in it.
            if change is not None:
                await self.trail.add(change)
            await self.events.add(event)
        except TemporarilyUnavailable as error:
            raise Retry from error

    def subscription(self) -> Subscription:
        """To everything."""
        return Subscription(POOL, Exchange.EVENTS, ("#",), self.record, prefetch=PREFETCH)

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        """While the application runs, what processes left half-done when they died is finished."""
        task = asyncio.create_task(self._finish_forever(), name="recorder")
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _finish_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await self.events.recording.finish_left_behind(LEFT_BEHIND)
            except TemporarilyUnavailable as error:
                log.warning("batches_not_finished", error=error.detail)
            except Exception as error:
                log.error("batches_not_finished", exc_info=error)


def read(body: bytes) -> RecordedEvent:
    """What is recorded of the event. Raises Drop for what is none."""
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
        raise Drop("not an event this service knows") from error
