"""GET /api/events: the events that the bus delivered in the last eight days."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from pydantic import ValidationError

from contracts.event_list import EventList, EventQuery, ListedEvent
from contracts.events import EVENTS
from contracts.operations import Parameters, ResponseSpec
from contracts.operators import Permission
from contracts.reconciliation import RecordedEvent
from libs.access import OperatorAuthenticator
from libs.bus.topics import matches
from libs.http.error_responses import BadRequest, first_fault
from libs.http.operations import add_operations, operator_operation
from libs.http.pages import link_to_next
from libs.http.responses import NO_STORE, json_bytes
from libs.store.recorded_events import RecordedEvents

_PATTERN = re.compile(r"[a-z_*#]+(\.[a-z_*#]+)*")
_STEMS = tuple(event.stem for event in EVENTS)


@dataclass(frozen=True, slots=True)
class EventListEndpoint:
    """Lists what the recorder has kept, which is an event's identity and never its data."""

    access: OperatorAuthenticator
    events: RecordedEvents

    def add_to(self, app: web.Application) -> None:
        """Add the operation to the application."""
        add_operations(app, self, self.access.require)

    @operator_operation(
        "GET",
        "/api/events",
        "listEvents",
        Permission.READ,
        tag="Events",
        summary="List events",
        description="The events that the bus delivered in the last eight days, latest first: their types and ids, "
        "without their data. A request looks at a bounded number of events, so a page of a filtered list may be short "
        "although `next` leads to more.",
        parameters=Parameters(model=EventQuery),
        response=ResponseSpec(description="A page of events.", models=(EventList,)),
        errors=(400,),
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /api/events?types=…&api_id=…&client_id=…&from=…&to=…&limit=…&after=…"""
        query = _query(request)
        types = _types(query.types)
        found, following = await self.events.page(query, types)
        listed = EventList(events=[_listed(event) for event in found], next=following)
        body = listed.model_dump_json(by_alias=True, exclude_none=True).encode()
        return json_bytes(body, headers={**NO_STORE, **link_to_next(request, following)})


def _query(request: web.Request) -> EventQuery:
    if len(request.query) != len(set(request.query)):
        raise BadRequest("a parameter is repeated")
    try:
        return EventQuery.model_validate(dict(request.query))
    except ValidationError as error:
        raise BadRequest(first_fault(error)) from None


def _types(text: str) -> Sequence[str] | None:
    """The event types that these patterns match; None: all. Raises BadRequest."""
    patterns = [pattern for pattern in text.split(",") if pattern]
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern) or not any(matches(pattern, stem) for stem in _STEMS):
            raise BadRequest("types: no event type matches; use patterns such as token.*,grant.revoked")
    return [stem for stem in _STEMS if any(matches(pattern, stem) for pattern in patterns)] if patterns else None


def _listed(event: RecordedEvent) -> ListedEvent:
    kept = event.model_dump(include={*ListedEvent.model_fields} - {"at"})
    return ListedEvent(at=event.time, **kept)
