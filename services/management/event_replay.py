"""What a client of the event stream has missed, from the stored events."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import orjson

from contracts.events import VENDOR
from contracts.reconciliation import RecordedEvent
from libs.event_encoding import first_event_id, moment_of, sequence_text
from libs.store.recorded_events import KEPT, RecordedEvents
from services.management.stream_subscribers import EventFilter, streamed

LATE = timedelta(seconds=60)
"""How long after it happened an event may be stored and still be found: it is published first, then recorded."""
YOUNG = timedelta(seconds=2)
"""Events that are younger than this are on their way to the client, whole; so they are not looked for again."""
PAGE = 1000
SOURCE = "urn:tokenwire:event_log"
"""The `source` of a stored event, which has no more `data` than what is kept of it."""
_SUBJECTS = {
    "policies": "policy_id",
    "operators": "operator_id",
    "resource_owners": "username",
    "users": "resource_owner",
    "deliveries": "delivery_id",
}
"""By collection: the member of `data` that is also the subject, where it is not kept on its own."""


class EventReplay:
    """Finds the stored events after a moment, again and again, and each only once."""

    def __init__(self, events: RecordedEvents, wanted: EventFilter, after: str, now: datetime) -> None:
        """`after` is an event id, or the beginning of one. Events stored late are looked for from LATE before now."""
        self._events = events
        self._wanted = wanted
        self._after = after
        self._late = max(after, first_event_id(now - LATE))
        self._sent: set[str] = set()

    @classmethod
    def after_event(cls, events: RecordedEvents, wanted: EventFilter, last: str, now: datetime) -> "EventReplay":
        """For a client whose last event is this one. What happened up to LATE before may come a second time."""
        return cls(events, wanted, first_event_id(moment_of(last) - LATE), now)

    def lost_before(self, now: datetime) -> datetime | None:
        """The moment before which events are no longer stored, if the client wants some of that time."""
        oldest = now - KEPT
        return oldest if self._after < first_event_id(oldest) else None

    def is_new(self, event_id: str) -> bool:
        """False if the event has been sent; from now on it has."""
        if event_id in self._sent:
            return False
        if event_id >= self._late:
            self._sent.add(event_id)
        return True

    async def missed(self, until: datetime | None = None) -> AsyncIterator[bytes]:
        """The events before this moment that are stored and have not been sent, as frames, the oldest first.

        Between them the place that was reached: so a client that wants few of many events sees that the stream goes
        on, and continues from there. Raises TemporarilyUnavailable.
        """
        before = first_event_id(until) if until is not None else _END
        while found := await self._events.following(self._after, before, PAGE):
            for event in found:
                if self._wanted.matches_event(event.type, event.api_id) and self.is_new(event.id):
                    yield streamed(_cloud_event(event)).frame
            self._after = found[-1].id
            if len(found) == PAGE:
                yield b"id: %b\n\n" % self._after.encode()
        self._after = min(self._after, self._late)


def _cloud_event(event: RecordedEvent) -> bytes:
    data = event.model_dump(mode="json", include=_DATA, exclude_none=True)
    if name := _SUBJECTS.get(event.collection):
        data[name] = event.subject
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": event.id,
            "source": SOURCE,
            "type": f"{VENDOR}{event.type}",
            "time": event.time,
            "subject": event.subject,
            "sequence": sequence_text(event.sequence),
            "datacontenttype": "application/json",
            "data": data,
        },
        option=orjson.OPT_UTC_Z,
    )


_END = "evt_g"
"""Sorts after every event id."""
_DATA = {"api_id", "client_id", "grant_id", "reason", "actor"}
