"""Events as they happen: a page, and the stream that it follows."""

import re
from collections.abc import Mapping

from aiohttp import web

from contracts.event_list import EventList
from contracts.events import EVENTS
from libs.http.context import REQUEST_ID_HEADER, current
from services.console.service_calls import CallRefused
from services.console.visits import HEADERS, Page, Visit

_TYPES = re.compile(r"[a-z_*#.,]{0,200}")
_NAMES = sorted(event.stem for event in EVENTS)
"""What a browser must listen for by name."""
_API = re.compile(r"[A-Za-z0-9_-]{0,64}")


async def follow(visit: Visit) -> web.StreamResponse:
    """GET /events?types=…&api_id=…: those that come, and below them those before, which need no scripts."""
    query = visit.filters("types", "api_id", "after")
    try:
        before, problem = await visit.api.get(EventList, "/api/events", query), ""
    except CallRefused as refused:
        if refused.status != 400:
            raise
        before, problem = EventList(events=[]), refused.message
    return visit.page(
        "events.html",
        400 if problem else 200,
        types=query["types"],
        api_id=query["api_id"],
        names=_NAMES,
        rows=before.events,
        next=before.next,
        problem_text=problem,
    )


async def stream(visit: Visit) -> web.StreamResponse:
    """GET /events/stream: the management service's stream, for as long as both sides want.

    A browser that connects again says with Last-Event-ID where it was.
    """
    query = {"types": visit.query.get("types", ""), "api_id": visit.query.get("api_id", "")}
    if not _TYPES.fullmatch(query["types"]) or not _API.fullmatch(query["api_id"]):
        raise web.HTTPBadRequest(reason="types, api_id: not a pattern of event types, or not an API id.")
    last_event_id = visit.request.headers.get("Last-Event-ID", "")
    async with visit.api.stream("/api/events/stream", query, last_event_id) as events:
        response = web.StreamResponse(
            headers={
                **HEADERS,
                "Content-Type": "text/event-stream; charset=utf-8",
                "X-Accel-Buffering": "no",
                REQUEST_ID_HEADER: current().request_id or "",
            }
        )
        await response.prepare(visit.request)
        async for chunk in events.content.iter_any():
            await response.write(chunk)
    return response


PAGES: Mapping[str, Page] = {"GET /events": follow, "GET /events/stream": stream}
