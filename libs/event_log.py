"""What the event log keeps of an event: its identity and who caused it, not its other data.

Recorded by services/reconciliation/recorder.py, and read for reconciliation and for the timeline of a grant.
"""

from collections.abc import Mapping

import orjson
from pydantic import ValidationError

from contracts.events import EVENTS, VENDOR
from contracts.reconciliation import RecordedEvent
from libs.bus.port import Drop

COLLECTIONS: Mapping[str, str] = {event.stem.partition(".")[0]: event.collection for event in EVENTS}
"""By the first word of an event type: the collection of the records that the event is about."""


def recorded_event(body: bytes) -> RecordedEvent:
    """What is recorded of the event, given as JSON. Raises Drop for a malformed event."""
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
