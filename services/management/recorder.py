"""Records every event that the bus brings, so that the audit can count what went out."""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from pydantic import ValidationError

from contracts.audit import RecordedEvent
from contracts.events import VENDOR
from libs.bus.port import Delivery, Drop, Exchange, Retry, Subscription
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.events import RecordedEvents

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


@dataclass(frozen=True, slots=True)
class Recorder:
    """Running twice on the same event does no more than once."""

    events: RecordedEvents

    async def record(self, delivery: Delivery) -> None:
        """The event is recorded. Raises Drop for what is none, and Retry while MongoDB is away."""
        event = read(delivery.message.body)
        try:
            await self.events.add(event)
        except TemporarilyUnavailable as error:
            raise Retry from error

    def subscription(self) -> Subscription:
        """To everything."""
        return Subscription(POOL, Exchange.EVENTS, ("#",), self.record, prefetch=PREFETCH)


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
