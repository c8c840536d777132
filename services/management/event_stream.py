"""GET /api/events/stream: the events on the bus, as server-sent events."""

import asyncio
import re
from dataclasses import dataclass

import structlog
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from contracts.base import PublicId
from contracts.event_stream import EventStreamQuery
from contracts.operations import Parameters, ResponseSpec
from contracts.operators import Permission
from libs.access import OperatorAuthenticator
from libs.bus.topics import matches
from libs.http.context import current
from libs.http.error_responses import BadRequest, Refusal
from libs.http.operations import operator_operation
from libs.http.security_headers import SECURITY_HEADERS
from libs.oauth.errors import TemporarilyUnavailable
from services.management.stream_subscribers import STEMS, EventFilter, StreamSubscriber, StreamSubscribers

HEARTBEAT_SECONDS = 15.0
"""Interval at which a comment is sent, so that proxies keep the connection, and the operator's key is checked again."""
WRITE_WITHIN_SECONDS = 10.0
"""A client that reads nothing for so long is disconnected."""
RECONNECT_MILLISECONDS = 2000

_PATTERN = re.compile(r"[a-z_*#]+(\.[a-z_*#]+)*")
_API_ID: TypeAdapter[str] = TypeAdapter(PublicId)

log = structlog.get_logger("management")


@dataclass(frozen=True, slots=True)
class EventStream:
    """Sends events from the connection on. Events from before, or between two connections, are not sent."""

    access: OperatorAuthenticator
    subscribers: StreamSubscribers
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
        "the event, "
        "`data` is the event. Events from before the connection are not sent. The stream ends when the key loses "
        "`read`.",
        parameters=Parameters(model=EventStreamQuery),
        response=ResponseSpec(description="The stream, which stays open.", media_type="text/event-stream"),
        errors=(400,),
    )
    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /api/events/stream?types=token.*,grant.revoked&api_id=…"""
        subscriber = StreamSubscriber(_filter(request))
        self.subscribers.join(subscriber)
        try:
            response = await _begun(request)
            await self._relay(request, response, subscriber)
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

    async def _relay(self, request: web.Request, response: web.StreamResponse, subscriber: StreamSubscriber) -> None:
        beat = asyncio.get_running_loop().time() + self.heartbeat
        while True:
            try:
                async with asyncio.timeout_at(beat):
                    frame = await subscriber.next()
            except TimeoutError:
                beat += self.heartbeat
                frame = b": still here\n\n" if await self._still_permitted(request) else None
            if frame is None:
                return
            async with asyncio.timeout(self.write_within):
                await response.write(frame)

    async def _still_permitted(self, request: web.Request) -> bool:
        try:
            await self.access.require(request, Permission.READ)
        except Refusal:
            return False
        except TemporarilyUnavailable as error:
            log.info("event_stream_not_checked", error=error.detail)
        return True


async def _begun(request: web.Request) -> web.StreamResponse:
    constant = request.app[SECURITY_HEADERS]
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "X-Request-Id": current().request_id or "",
            **constant,
        }
    )
    await response.prepare(request)
    await response.write(b"retry: %d\n: connected\n\n" % RECONNECT_MILLISECONDS)
    return response


def _filter(request: web.Request) -> EventFilter:
    types = tuple(filter(None, request.query.get("types", "").split(",")))
    for pattern in types:
        if not _PATTERN.fullmatch(pattern) or not any(matches(pattern, stem) for stem in STEMS):
            raise BadRequest("types: no event type matches; use patterns such as token.*,grant.revoked")
    return EventFilter(types, _api_id(request.query.get("api_id")))


def _api_id(text: str | None) -> str | None:
    try:
        return _API_ID.validate_python(text) if text else None
    except ValidationError as error:
        raise BadRequest("api_id: not a valid API id") from error
