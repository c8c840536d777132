"""Who listens to the stream of events, and to which of them."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import orjson

from contracts.events import VENDOR, AnyEvent, Event
from libs.bus.port import Delivery, Drop, Exchange, Mode, Subscription
from libs.bus.topics import matches
from libs.oauth.errors import TemporarilyUnavailable

MOST_LISTENERS = 256
MOST_WAITING = 1024
"""Events that may wait for one listener; one that lets more wait is sent away."""

_EVENTS: tuple[type[Event], ...] = get_args(get_args(AnyEvent)[0])
STEMS = frozenset(event.stem for event in _EVENTS)
"""Every type of event, without the vendor prefix."""
_FIELD = re.compile(r"[^\r\n\0]{1,256}")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a listener wants to hear; nothing named is everything."""

    types: Sequence[str] = ()
    """Patterns as in a binding key: `*` is one word, `#` any number of them."""
    api_id: str | None = None

    def takes(self, stem: str, api_id: object) -> bool:
        """Whether an event of this type about this API is wanted."""
        wanted = not self.types or any(matches(pattern, stem) for pattern in self.types)
        return wanted and self.api_id in {None, api_id}


class Listener:
    """One connected client, and what waits for it."""

    def __init__(self, choice: Choice, most_waiting: int = MOST_WAITING) -> None:
        self.choice = choice
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(most_waiting)

    def offer(self, frame: bytes) -> bool:
        """Put the frame in line; False, and the end, where too many wait already."""
        if self._waiting.full():
            self.end()
            return False
        self._waiting.put_nowait(frame)
        return True

    def end(self) -> None:
        """Nothing more, not even what waits."""
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)

    async def next(self) -> bytes | None:
        """The next frame; None at the end."""
        return await self._waiting.get()


class Listeners:
    """All of this process; the bus tells every process everything."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._listeners)

    def join(self, listener: Listener) -> None:
        """From now on it hears. Raises TemporarilyUnavailable where there are too many, or the service stops."""
        if self._closed or len(self._listeners) >= MOST_LISTENERS:
            raise TemporarilyUnavailable("no further event stream can be opened here now")
        self._listeners.add(listener)

    def leave(self, listener: Listener) -> None:
        """It hears no more."""
        self._listeners.discard(listener)

    def close(self) -> None:
        """Every stream ends, and none begins."""
        self._closed = True
        for listener in self._listeners:
            listener.end()

    async def heard(self, delivery: Delivery) -> None:
        """An event for everybody who wants it. Raises Drop for what is none."""
        if not self._listeners:
            return
        stem, api_id, frame = _read(delivery.message.body)
        for listener in list(self._listeners):
            if listener.choice.takes(stem, api_id) and not listener.offer(frame):
                self.leave(listener)

    def subscription(self) -> Subscription:
        """To everything."""
        return Subscription("event-stream", Exchange.EVENTS, ("#",), self.heard, Mode.BROADCAST)


def _read(body: bytes) -> tuple[str, object, bytes]:
    """The type without vendor prefix, the API, and the frame of an event (HTML, server-sent events, §9.2.5)."""
    try:
        event = orjson.loads(body)
        identifier, stem, api_id = event["id"], event["type"].removeprefix(VENDOR), event["data"].get("api_id")
        if not (_FIELD.fullmatch(identifier) and _FIELD.fullmatch(stem)):
            raise ValueError("a line break in a field")
        # A line break would end the field, so what has one is written anew without.
        data = body if b"\n" not in body and b"\r" not in body else orjson.dumps(event)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Drop("not an event") from error
    return stem, api_id, b"id: %b\nevent: %b\ndata: %b\n\n" % (identifier.encode(), stem.encode(), data)
