"""The clients of the event stream: which events each wants, and the queue of events that wait for it."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
import structlog

from contracts.events import EVENTS, VENDOR
from libs.bus.port import Delivery, Exchange, Mode, Subscription
from libs.bus.topics import matches
from libs.oauth.errors import TemporarilyUnavailable

MAX_SUBSCRIBERS = 256
MAX_WAITING = 1024
"""Maximum number of events that wait for one subscriber. A slower one is disconnected, so that memory is bounded."""

STEMS = frozenset(event.stem for event in EVENTS)
"""All event types, without the vendor prefix."""
_FIELD = re.compile(r"[^\r\n\0]{1,256}")

log = structlog.get_logger("management")


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a subscriber wants; by default all."""

    types: Sequence[str] = ()
    """Patterns as in an AMQP binding key: `*` matches one word, `#` any number of words."""
    api_id: str | None = None

    def matches_event(self, stem: str, api_id: object) -> bool:
        """Whether an event of this type about this API matches."""
        wanted = not self.types or any(matches(pattern, stem) for pattern in self.types)
        return wanted and self.api_id in {None, api_id}


class StreamedEvent(NamedTuple):
    """An event, as a frame of server-sent events (WHATWG HTML §9.2.5)."""

    id: str
    stem: str
    """Type without vendor prefix."""
    api_id: object
    frame: bytes


class StreamSubscriber:
    """One connected client, and the events that wait for it."""

    def __init__(self, event_filter: EventFilter, max_waiting: int = MAX_WAITING) -> None:
        self.event_filter = event_filter
        self.is_behind = False
        """True while older events are sent, from the store: new ones will be stored, too, and need not wait here."""
        self._waiting: asyncio.Queue[StreamedEvent | None] = asyncio.Queue(max_waiting)

    def offer(self, event: StreamedEvent) -> bool:
        """Queue the event. If the queue is full, ends the stream and returns False."""
        if self.is_behind:
            return True
        if self._waiting.full():
            self.end()
            return False
        self._waiting.put_nowait(event)
        return True

    def end(self) -> None:
        """End the stream; events that wait are dropped."""
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)

    async def next(self) -> StreamedEvent | None:
        """Wait for the next event; None when the stream has ended."""
        return await self._waiting.get()


class StreamSubscribers:
    """All subscribers of this process. The bus delivers every event to every process."""

    def __init__(self) -> None:
        self._subscribers: set[StreamSubscriber] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._subscribers)

    def join(self, subscriber: StreamSubscriber) -> None:
        """Add a subscriber. Raises TemporarilyUnavailable if there are too many or the service is stopping."""
        if self._closed or len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise TemporarilyUnavailable("this instance cannot open another event stream now")
        self._subscribers.add(subscriber)

    def leave(self, subscriber: StreamSubscriber) -> None:
        """Remove a subscriber; idempotent."""
        self._subscribers.discard(subscriber)

    def close(self) -> None:
        """End all streams and refuse new ones."""
        self._closed = True
        self.end_all()

    def end_all(self) -> None:
        """End all streams: their clients connect again, and get what this process may have missed."""
        for subscriber in self._subscribers:
            subscriber.end()

    async def deliver(self, delivery: Delivery) -> None:
        """Give the event to every subscriber that wants it. A malformed one is logged."""
        if not self._subscribers:
            return
        try:
            event = streamed(delivery.message.body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("malformed_event_not_streamed", message=delivery.message.id, error=type(error).__name__)
            return
        for subscriber in list(self._subscribers):
            if subscriber.event_filter.matches_event(event.stem, event.api_id) and not subscriber.offer(event):
                self.leave(subscriber)

    def subscription(self) -> Subscription:
        """Subscribes to all events, in every process (broadcast)."""
        return Subscription("event-stream", Exchange.EVENTS, ("#",), self.deliver, Mode.BROADCAST, on_gap=self.end_all)


def streamed(body: bytes) -> StreamedEvent:
    """The event with this JSON. Raises ValueError, KeyError, TypeError or AttributeError if it is malformed."""
    event = orjson.loads(body)
    identifier, stem, api_id = event["id"], event["type"].removeprefix(VENDOR), event["data"].get("api_id")
    if not (_FIELD.fullmatch(identifier) and _FIELD.fullmatch(stem)):
        raise ValueError("a line break in a field")
    # A line break would end the `data` field, so such a body is serialized again without.
    data = body if b"\n" not in body and b"\r" not in body else orjson.dumps(event)
    frame = b"id: %b\nevent: %b\ndata: %b\n\n" % (identifier.encode(), stem.encode(), data)
    return StreamedEvent(identifier, stem, api_id, frame)
