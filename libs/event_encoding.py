"""Encodes an event into the bytes that will be published: once, at the moment of the change."""

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
_POOL_SIZE = 64
_random_pool: list[str] = []
os.register_at_fork(after_in_child=_random_pool.clear)


@dataclass(frozen=True, slots=True)
class EventContext:
    """What every event says about its change: which service made it, when, in which trace, for which operator."""

    source: str
    """`urn:tokenwire:<service>`."""
    now: datetime
    traceparent: str | None = None
    actor: Actor | None = None
    """The operator whose request caused the change; None where a client, a user or the server itself did."""


def new_event_id(now: datetime) -> str:
    """A unique id that sorts by time: milliseconds and 80 random bits, in hexadecimal."""
    return f"evt_{int(now.timestamp() * 1000):012x}{_random()}"


def _random() -> str:
    """80 random bits in hexadecimal, read from the system in larger pieces; a forked process reads its own."""
    while True:
        try:
            return _random_pool.pop()
        except IndexError:
            drawn = os.urandom(_RANDOM_BYTES * _POOL_SIZE).hex()
            _random_pool.extend(drawn[at : at + 2 * _RANDOM_BYTES] for at in range(0, len(drawn), 2 * _RANDOM_BYTES))


def first_event_id(moment: datetime) -> str:
    """A bound for queries: sorts before the ids of all events at or after `moment`, and after all earlier ids."""
    return f"evt_{int(moment.timestamp() * 1000):012x}"


def moment_of(event_id: str) -> datetime:
    """When the event with this id happened, to the millisecond."""
    return _EPOCH + timedelta(milliseconds=int(event_id[4:16], 16))


def sequence_text(sequence: int) -> str:
    """The sequence number in ten digits, so that it sorts as text."""
    return f"{sequence:010d}"


def encode_event(
    kind: type[Event], event_id: str, ctx: EventContext, subject: str, sequence: int, data: Mapping[str, object]
) -> bytes:
    """An event of this type as JSON, the same bytes that its model would produce.

    It does not validate `data`, unlike the model: that takes 17 µs instead of 5, and each token request would wait for
    it. `data` must hold values of the types that the model declares; None values are left out.
    """
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": ctx.source,
        "type": f"{VENDOR}{kind.stem}",
        "time": ctx.now,
        "subject": subject,
        "sequence": sequence_text(sequence),
        "datacontenttype": "application/json",
    }
    if ctx.traceparent is not None:
        event["traceparent"] = ctx.traceparent
    event["data"] = {name: value for name, value in data.items() if value is not None}
    return orjson.dumps(event, default=_plain, option=orjson.OPT_UTC_Z)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    raise TypeError(type(value).__name__)


def pending(event: Event, word: str, owner: str, sealed: bytes | None = None) -> PendingEvent:
    """The event as its record carries it until it is published. `word`, mostly an API id, is the routing key's last."""
    return PendingEvent(
        id=event.id,
        owner=owner,
        key=f"{event.stem}.{word}",
        body=event.model_dump_json(exclude_none=True).encode(),
        sealed=sealed,
        at=event.time,
    )
