"""GET /api/events/stream: what happens on the bus, as server-sent events."""

import asyncio
import re
from dataclasses import dataclass

import structlog
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from contracts.base import PublicId
from contracts.operators import Permission
from libs.access import Access
from libs.bus.topics import matches
from libs.http.context import current
from libs.http.errors import BadRequest, Refusal
from libs.http.headers import CONSTANT_HEADERS
from libs.oauth.errors import TemporarilyUnavailable
from libs.runtime import both_slashes
from services.management.listeners import STEMS, Choice, Listener, Listeners

HEARTBEAT_SECONDS = 15.0
"""How often a comment is sent, and the operator's key looked at again."""
WRITE_WITHIN_SECONDS = 10.0
"""How long a client may take nothing before it is sent away."""
RECONNECT_MILLISECONDS = 2000

_PATTERN = re.compile(r"[a-z_*#]+(\.[a-z_*#]+)*")
_API_ID: TypeAdapter[str] = TypeAdapter(PublicId)

log = structlog.get_logger("management")


@dataclass(frozen=True, slots=True)
class EventStream:
    """Events from the moment of connecting on; what was before, or between two connections, is not repeated."""

    access: Access
    listeners: Listeners
    heartbeat: float = HEARTBEAT_SECONDS
    write_within: float = WRITE_WITHIN_SECONDS

    def add_to(self, app: web.Application) -> None:
        """Routes, with and without trailing slash."""
        both_slashes(app, "GET", "/api/events/stream", self.stream)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /api/events/stream?types=token.*,grant.revoked&api_id=…"""
        await self.access.require(request, Permission.READ)
        listener = Listener(_choice(request))
        self.listeners.join(listener)
        try:
            response = await _begun(request)
            await self._relay(request, response, listener)
        except (ConnectionError, TimeoutError) as error:
            log.info("event_stream_lost", reason=type(error).__name__)
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.listeners.leave(listener)
        return response

    async def stop(self, _app: web.Application) -> None:
        """Every stream ends in order."""
        self.listeners.close()

    async def _relay(self, request: web.Request, response: web.StreamResponse, listener: Listener) -> None:
        beat = asyncio.get_running_loop().time() + self.heartbeat
        while True:
            try:
                async with asyncio.timeout_at(beat):
                    frame = await listener.next()
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
    constant = request.app[CONSTANT_HEADERS]
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


def _choice(request: web.Request) -> Choice:
    types = tuple(filter(None, request.query.get("types", "").split(",")))
    for pattern in types:
        if not _PATTERN.fullmatch(pattern) or not any(matches(pattern, stem) for stem in STEMS):
            raise BadRequest("types: there is no such event; patterns such as token.*,grant.revoked are expected")
    return Choice(types, _api_id(request.query.get("api_id")))


def _api_id(text: str | None) -> str | None:
    try:
        return _API_ID.validate_python(text) if text else None
    except ValidationError as error:
        raise BadRequest("api_id: not the id of an API") from error
