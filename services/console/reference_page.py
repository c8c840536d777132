"""The reference: every operation and every event, from our generated documents, and requests with the session's key."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

import orjson
from aiohttp import web

from contracts.operations import JSON, Service
from services.console.reference_documents import (
    SAMPLES_FOR,
    EventView,
    OperationView,
    events_of_document,
    operations_of_document,
)
from services.console.rendering import pretty
from services.console.service_calls import Received, segment
from services.console.visits import Page, Visit, WrongForm

EVENTS = "events"
"""Stands for the AsyncAPI document where the name of a service may be."""
LONGEST_BODY = 256 * 1024
"""Bytes of a request that is tried."""
SHOWN = 128 * 1024
"""Bytes of its response that are shown."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request."""

    received: Received
    text: str
    milliseconds: int


async def reference(visit: Visit) -> web.StreamResponse:
    """GET /reference?service=…"""
    wanted = visit.query.get("service", Service.MANAGEMENT)
    if wanted == EVENTS:
        description, events = await asyncio.to_thread(events_of_document)
        return visit.page("reference_events.html", service=EVENTS, services=_parts(), text=description, events=events)
    service = Service(wanted) if wanted in set(Service) else Service.MANAGEMENT
    operations = await asyncio.to_thread(operations_of_document, service)
    return visit.page("reference.html", service=service, services=_parts(), operations=operations)


async def show_event(visit: Visit) -> web.StreamResponse:
    """GET /reference/events/{event}."""
    _, events = await asyncio.to_thread(events_of_document)
    found: EventView | None = next((each for each in events if each.name == visit.named("event")), None)
    if found is None:
        raise web.HTTPNotFound
    return visit.page("reference_event.html", event=found)


async def show_operation(visit: Visit) -> web.StreamResponse:
    """GET /reference/{service}/{operation}."""
    _, operation = await _named(visit)
    return _page(visit, operation, {})


async def try_operation(visit: Visit) -> web.StreamResponse:
    """POST /reference/{service}/{operation}: send the request with the operator's key, and show what came back.

    A request that may change something is sent only if the form's box says so.
    """
    service, operation = await _named(visit)
    if not operation.can_be_tried:
        raise web.HTTPNotFound
    try:
        path = _path(operation, visit.form)
        body = visit.form.get("body", "").replace("\r\n", "\n").encode() if operation.body else None
        if body is not None and len(body) > LONGEST_BODY:
            raise WrongForm(f"Body: at most {LONGEST_BODY // 1024} KiB can be sent from here.")
        if operation.method != "GET" and "confirm" not in visit.form:
            raise WrongForm("Nothing was sent: tick the box that says that this request may change something.")
    except WrongForm as wrong:
        return _page(visit, operation, visit.form, problem=str(wrong))
    query = {each.name: visit.form.get(f"query.{each.name}", "").strip() for each in operation.placed("query")}
    began = time.perf_counter()
    received = await visit.api.exchange(
        operation.method,
        path,
        {name: value for name, value in query.items() if value},
        body or None,
        _media_type(operation, visit.form),
        service,
        SHOWN,
    )
    outcome = Outcome(received, _shown(received), round((time.perf_counter() - began) * 1000))
    return _page(visit, operation, visit.form, outcome=outcome)


def _page(
    visit: Visit,
    operation: OperationView,
    values: Mapping[str, str],
    *,
    problem: str = "",
    outcome: Outcome | None = None,
) -> web.Response:
    address = f"{visit.request.scheme}://{visit.request.host}"
    samples = [(label, text.replace(SAMPLES_FOR, address)) for label, text in operation.samples]
    return visit.page(
        "reference_operation.html",
        400 if problem else 200,
        service=visit.named("service"),
        operation=operation,
        samples=samples or [("curl", _curl(operation, address))],
        media_types=[(each, each) for each in operation.body.media_types] if operation.body else [],
        values=values,
        problem_text=problem,
        outcome=outcome,
        may=all(visit.may(permission) for permission in operation.permissions or ()),
    )


async def _named(visit: Visit) -> tuple[Service, OperationView]:
    service, name = visit.named("service"), visit.named("operation")
    operations = await asyncio.to_thread(operations_of_document, Service(service)) if service in set(Service) else ()
    found = next((each for each in operations if each.name == name), None)
    if found is None:
        raise web.HTTPNotFound
    return Service(service), found


def _path(operation: OperationView, form: Mapping[str, str]) -> str:
    """The path with the form's values. Raises WrongForm."""
    path = operation.path
    for parameter in operation.placed("path"):
        value = form.get(f"path.{parameter.name}", "").strip()
        if not value:
            raise WrongForm(f"{parameter.name}: a value is needed.")
        if {".", ".."} & set(value.split("/")):
            raise WrongForm(f"{parameter.name}: a path cannot have the segments . and .. in it.")
        # A listen path may have several segments.
        written = quote(value.strip("/"), safe="/") if parameter.name == "api_ref" else segment(value)
        path = path.replace(f"{{{parameter.name}}}", written)
    return path


def _media_type(operation: OperationView, form: Mapping[str, str]) -> str:
    offered = operation.body.media_types if operation.body else [JSON]
    wanted = form.get("media_type", "")
    return wanted if wanted in offered else offered[0]


def _shown(received: Received) -> str:
    if not received.whole or "json" not in received.headers.get("Content-Type", ""):
        return received.body.decode(errors="replace")
    try:
        return pretty(orjson.loads(received.body))
    except orjson.JSONDecodeError:
        return received.body.decode(errors="replace")


def _curl(operation: OperationView, address: str) -> str:
    parts = [f"curl -X {operation.method} '{address}{operation.path}'", '-H "Authorization: $OPERATOR_KEY"']
    if operation.body:
        parts += [f"-H 'Content-Type: {operation.body.media_types[0]}'", f"-d '{operation.body.example}'"]
    return " \\\n  ".join(parts)


def _parts() -> list[str]:
    return [*map(str, Service), EVENTS]


PAGES: Mapping[str, Page] = {
    "GET /reference": reference,
    "GET /reference/events/{event}": show_event,
    "GET /reference/{service}/{operation}": show_operation,
    "POST /reference/{service}/{operation}": try_operation,
}
