"""Webhooks: deliveries with every attempt, sending them again, and test webhooks."""

from collections.abc import Mapping
from datetime import timedelta

from aiohttp import web

from contracts.operations import Service
from contracts.operators import Permission
from contracts.webhooks import DeliveryList, DeliveryState, DeliveryView, EndpointList
from libs.runtime import utc_now
from services.console.service_calls import CallRefused, ServicesAway, segment
from services.console.visits import Page, Visit, needs

_DELIVERIES = "/api/notifications/deliveries"
_FILTERS = ("api_id", "client_id", "state", "from", "to", "after")


async def list_deliveries(visit: Visit) -> web.StreamResponse:
    """GET /webhooks?api_id=…&client_id=…&state=…"""
    query = visit.filters(*_FILTERS)
    problem = ""
    try:
        found = await visit.api.get(DeliveryList, _DELIVERIES, query, Service.NOTIFIER)
    except CallRefused as refused:
        if refused.status != 400:
            raise
        found, problem = DeliveryList(deliveries=[]), refused.message
    return visit.page(
        "delivery_list.html",
        400 if problem else 200,
        rows=found.deliveries,
        next=found.next,
        states=[("", "any"), *((str(state), str(state)) for state in DeliveryState)],
        problem_text=problem,
        filtering=any(query.values()),
    )


async def list_endpoints(visit: Visit) -> web.StreamResponse:
    """GET /webhooks/endpoints."""
    query = {name: visit.query.get(name, "") for name in ("api_id", "after")}
    found = await visit.api.get(EndpointList, "/api/notifications/endpoints", query, Service.NOTIFIER)
    return visit.page("endpoint_list.html", found=found, rows=found.endpoints, next=found.next)


async def show_delivery(visit: Visit) -> web.StreamResponse:
    """GET /webhooks/{delivery_id}."""
    path = f"{_DELIVERIES}/{segment(visit.named('delivery_id'))}"
    delivery = await visit.api.get(DeliveryView, path, service=Service.NOTIFIER)
    return visit.page("delivery_show.html", delivery=delivery)


async def send_again(visit: Visit) -> web.StreamResponse:
    """POST /webhooks/{delivery_id}/send."""
    delivery_id = visit.named("delivery_id")
    path = f"{_DELIVERIES}/{segment(delivery_id)}/redeliver"
    answer = await visit.api.change("POST", path, service=Service.NOTIFIER)
    return visit.done(_sentence(answer["Message"]), f"/webhooks/{segment(delivery_id)}")


async def confirm_all(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/webhooks/send."""
    return _confirm_all(visit)


async def send_all_again(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/webhooks/send: all that failed since a time."""
    hours = visit.form.get("hours", "").strip()
    if not hours.isdecimal() or not 1 <= int(hours) <= 720:
        return _confirm_all(visit, "A whole number of hours from 1 to 720 is expected.")
    api_id = visit.named("api_id")
    wanted = {"api_id": api_id, "since": (utc_now() - timedelta(hours=int(hours))).isoformat()}
    try:
        answer = await visit.api.change("POST", "/api/notifications/redeliver", wanted, service=Service.NOTIFIER)
        said = _sentence(answer["Message"])
    except ServicesAway as away:
        if not isinstance(away.__cause__, TimeoutError):
            raise
        said = "The notifier is still scheduling them, and goes on."
    return visit.done(f"{said} The backlog below shrinks as they are sent.", "/webhooks/endpoints", api_id=api_id)


def _confirm_all(visit: Visit, problem: str = "") -> web.Response:
    return visit.page(
        "confirm.html",
        400 if problem else 200,
        title="Send all failed webhooks again?",
        lines=[
            f"Every exhausted delivery of the API {visit.named('api_id')} since then is sent now, and retried anew.",
            "With many of them this takes a while: the next page shows how many are left.",
        ],
        fields=[("hours", "Hours to go back", "1 to 720.", visit.form.get("hours", "24"))],
        problem_text=problem,
        action="Send all again",
        dangerous=False,
        back=visit.link("/webhooks", api_id=visit.named("api_id")),
    )


async def send_test(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/webhooks/test."""
    api_id = visit.named("api_id")
    answer = await visit.api.change("POST", f"/api/apis/{segment(api_id)}/notifications/test", service=Service.NOTIFIER)
    outcome = answer["Meta"]
    result = f"status {outcome['status']}" if outcome.get("status") else outcome.get("error") or "no response"
    return visit.done(
        f"{_sentence(answer['Message'])} {result}, {outcome['latency_ms']} ms.", f"/apis/{segment(api_id)}"
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


PAGES: Mapping[str, Page] = {
    "GET /webhooks": list_deliveries,
    "GET /webhooks/endpoints": list_endpoints,
    "GET /webhooks/{delivery_id}": show_delivery,
    "POST /webhooks/{delivery_id}/send": needs(Permission.WRITE, send_again),
    "GET /apis/{api_id}/webhooks/send": needs(Permission.WRITE, confirm_all),
    "POST /apis/{api_id}/webhooks/send": needs(Permission.WRITE, send_all_again),
    "POST /apis/{api_id}/webhooks/test": needs(Permission.WRITE, send_test),
}
