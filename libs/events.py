"""How a fact becomes the bytes that will be published: once, at the moment of the change."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson
from pydantic import BaseModel

from contracts.events import VENDOR, Event, PendingEvent
from contracts.operators import Actor

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RANDOM_BYTES = 10
_DRAWN_AT_ONCE = 64
_drawn: list[str] = []
os.register_at_fork(after_in_child=_drawn.clear)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where and when a change happens, and the trace and the operator that asked for it."""

    source: str
    """`urn:tokenwire:<service>`."""
    now: datetime
    traceparent: str | None = None
    actor: Actor | None = None
    """None: no operator asked."""


def new_event_id(now: datetime) -> str:
    """A unique id that sorts by time: milliseconds and 80 random bits, in hexadecimal."""
    return f"evt_{int(now.timestamp() * 1000):012x}{_random()}"


def _random() -> str:
    """80 bits from the system, which is asked for many at a time; a forked process asks for its own."""
    while True:
        try:
            return _drawn.pop()
        except IndexError:
            drawn = os.urandom(_RANDOM_BYTES * _DRAWN_AT_ONCE).hex()
            _drawn.extend(drawn[at : at + 2 * _RANDOM_BYTES] for at in range(0, len(drawn), 2 * _RANDOM_BYTES))


def first_event_id(moment: datetime) -> str:
    """Sorts before the id of every event of this moment or later, and after all before it."""
    return f"evt_{int(moment.timestamp() * 1000):012x}"


def moment_of(event_id: str) -> datetime:
    """When the event of this id happened."""
    return _EPOCH + timedelta(milliseconds=int(event_id[4:16], 16))


def sequence_text(sequence: int) -> str:
    """Ten digits, so that it sorts as text."""
    return f"{sequence:010d}"


def written(
    kind: type[Event], event_id: str, at: Origin, subject: str, sequence: int, data: Mapping[str, object]
) -> bytes:
    """The event of this kind as its model would write it, from values that are as the model would have them.

    Without the model, which would check them one by one: a token's event is written in its request.
    """
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": at.source,
        "type": f"{VENDOR}{kind.stem}",
        "time": at.now,
        "subject": subject,
        "sequence": sequence_text(sequence),
        "datacontenttype": "application/json",
    }
    if at.traceparent is not None:
        event["traceparent"] = at.traceparent
    event["data"] = {name: value for name, value in data.items() if value is not None}
    return orjson.dumps(event, default=_dumped, option=orjson.OPT_UTC_Z)


def _dumped(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    raise TypeError(type(value).__name__)


def pending(event: Event, word: str, owner: str, sealed: bytes | None = None) -> PendingEvent:
    """The event as its record carries it until it is published; `word` ends its routing key (an API id, mostly)."""
    return PendingEvent(
        id=event.id,
        owner=owner,
        key=f"{event.stem}.{word}",
        body=event.model_dump_json(exclude_none=True).encode(),
        sealed=sealed,
        at=event.time,
    )
