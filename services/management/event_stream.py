"""GET /api/events/stream: the events on the bus, as server-sent events."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import structlog
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from contracts.base import EventCursor, Moment, PublicId
from contracts.event_stream import EventStreamQuery
from contracts.operations import Parameters, ResponseSpec
from contracts.operators import Permission
from libs.access import OperatorAuthenticator
from libs.bus.topics import matches
from libs.event_encoding import first_event_id
from libs.http.context import current
from libs.http.error_responses import BadRequest, Refusal
from libs.http.operations import operator_operation
from libs.http.security_headers import SECURITY_HEADERS
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.recorded_events import RecordedEvents
from services.management.event_replay import YOUNG, EventReplay
from services.management.stream_subscribers import STEMS, EventFilter, StreamSubscriber, StreamSubscribers

HEARTBEAT_SECONDS = 15.0
"""Interval at which a comment is sent, so that proxies keep the connection, and the operator's key is checked again."""
WRITE_WITHIN_SECONDS = 10.0
"""A client that reads nothing for so long is disconnected."""
RECONNECT_MILLISECONDS = 2000
LOOK_AGAIN = (3.0, 8.0, 18.0, 35.0)
"""Seconds after a replay at which events are looked for that were published before it and recorded after it."""

_PATTERN = re.compile(r"[a-z_*#]+(\.[a-z_*#]+)*")
_API_ID: TypeAdapter[str] = TypeAdapter(PublicId)
_EVENT_ID: TypeAdapter[str] = TypeAdapter(EventCursor)
_MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)

Parsed = TypeVar("Parsed")

log = structlog.get_logger("management")


@dataclass(frozen=True, slots=True)
class EventStream:
    """Sends events from the connection on and, to a client that names the last one it got, those since then."""

    access: OperatorAuthenticator
    subscribers: StreamSubscribers
    events: RecordedEvents
    now: Callable[[], datetime]
    heartbeat: float = HEARTBEAT_SECONDS
    write_within: float = WRITE_WITHIN_SECONDS

    @operator_operation(
        "GET",
        "/api/events/stream",
        "streamEvents",
        Permission.READ,
        tag="Events",
        summary="Stream events",
        description="Sends events as they happen, as server-sent events: `id` and `event` are the id and type of "
        "the event, `data` is the event. A client that connects again with the header `Last-Event-ID`, as browsers do, "
        "or with `from`, first gets the stored events since then, which have only ids, reason and operator as their "
        "data and `urn:tokenwire:event_log` as their source; those of the last minute before it may come twice. A "
        "comment says so if events of that time are no longer stored. The stream ends when the key loses `read`, and "
        "when it may have missed an event.",
        parameters=Parameters(model=EventStreamQuery),
        response=ResponseSpec(description="The stream, which stays open.", media_type="text/event-stream"),
        errors=(400,),
    )
    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /api/events/stream?types=token.*,grant.revoked&api_id=…&from=…"""
        wanted = _filter(request)
        replay = self._replay(request, wanted)
        subscriber = StreamSubscriber(wanted)
        subscriber.is_behind = replay is not None
        self.subscribers.join(subscriber)
        try:
            response = await self._begun(request, replay)
            if replay is not None:
                await self._send_missed(response, replay)
                subscriber.is_behind = False
            await self._relay(request, response, subscriber, replay)
        except TemporarilyUnavailable as error:
            log.info("event_stream_not_replayed", error=error.detail)
        except (ConnectionError, TimeoutError) as error:
            log.info("event_stream_lost", reason=type(error).__name__)
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.subscribers.leave(subscriber)
        return response

    async def stop(self, _app: web.Application) -> None:
        """End all streams; called when the service stops."""
        self.subscribers.close()

    def _replay(self, request: web.Request, wanted: EventFilter) -> EventReplay | None:
        last = _parsed(_EVENT_ID, request.headers.get("Last-Event-ID"), "Last-Event-ID: not the id of an event")
        since = _parsed(_MOMENT, request.query.get("from"), "from: not a time; write 2026-05-04T12:00:00Z")
        if last is not None:
            return EventReplay.after_event(self.events, wanted, last, self.now())
        return EventReplay(self.events, wanted, first_event_id(since), self.now()) if since is not None else None

    async def _relay(
        self,
        request: web.Request,
        response: web.StreamResponse,
        subscriber: StreamSubscriber,
        replay: EventReplay | None,
    ) -> None:
        clock = asyncio.get_running_loop().time
        beat, looks = clock() + self.heartbeat, [clock() + delay for delay in LOOK_AGAIN if replay is not None]
        while True:
            due = min([beat, *looks[:1]])
            try:
                async with asyncio.timeout_at(due):
                    event = await subscriber.next()
            except TimeoutError:
                if due == beat:
                    beat += self.heartbeat
                    if not await self._still_permitted(request):
                        return
                    await self._write(response, b": still here\n\n")
                elif replay is not None:
                    await self._send_missed(response, replay, self.now() - YOUNG)
                    del looks[0]
                    replay = replay if looks else None  # it remembers what was sent
                continue
            if event is None:
                return
            if replay is None or replay.is_new(event.id):
                await self._write(response, event.frame)

    async def _send_missed(
        self, response: web.StreamResponse, replay: EventReplay, until: datetime | None = None
    ) -> None:
        async for frame in replay.missed(until):
            await self._write(response, frame)

    async def _write(self, response: web.StreamResponse, frame: bytes) -> None:
        async with asyncio.timeout(self.write_within):
            await response.write(frame)

    async def _begun(self, request: web.Request, replay: EventReplay | None) -> web.StreamResponse:
        """The response, after its first lines: from where on a client that gets no event has to continue."""
        constant = request.app[SECURITY_HEADERS]
        headers = {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "X-Request-Id": current().request_id or "",
            **constant,
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        lines = f"retry: {RECONNECT_MILLISECONDS}\n"
        if replay is None:
            lines += f"id: {first_event_id(self.now())}\n"
        elif lost_before := replay.lost_before(self.now()):
            lines += f": events before {lost_before:%Y-%m-%dT%H:%M:%SZ} are no longer stored\n"
        await self._write(response, f"{lines}: connected\n\n".encode())
        return response

    async def _still_permitted(self, request: web.Request) -> bool:
        try:
            await self.access.require(request, Permission.READ)
        except Refusal:
            return False
        except TemporarilyUnavailable as error:
            log.info("event_stream_not_checked", error=error.detail)
        return True


def _filter(request: web.Request) -> EventFilter:
    types = tuple(filter(None, request.query.get("types", "").split(",")))
    for pattern in types:
        if not _PATTERN.fullmatch(pattern) or not any(matches(pattern, stem) for stem in STEMS):
            raise BadRequest("types: no event type matches; use patterns such as token.*,grant.revoked")
    return EventFilter(types, _parsed(_API_ID, request.query.get("api_id"), "api_id: not a valid API id"))


def _parsed(kind: TypeAdapter[Parsed], text: str | None, message: str) -> Parsed | None:
    """The value that the text stands for; None if there is none. Raises BadRequest."""
    try:
        return kind.validate_python(text) if text else None
    except ValidationError as error:
        raise BadRequest(message) from error
