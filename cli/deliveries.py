"""`tokenwire deliveries`: webhooks that were sent, or wait to be."""

from typing import Annotated, Any

import typer

from cli.api_client import segment
from cli.calls import confirm, moment, request, show_envelope
from cli.failures import FAILED
from cli.lists import show_list
from cli.options import (
    API,
    JSON,
    LIMIT,
    PROFILE,
    SINCE,
    SOME_API,
    SOME_CLIENT,
    UNTIL,
    WATCH,
    YES,
    Listing,
    given,
)
from cli.output import show_json
from cli.profiles import DEFAULT_PROFILE
from contracts.webhooks import DeliveryState

app = typer.Typer(help="Deliveries of webhooks.", no_args_is_help=True)
_PATH = "/api/notifications/deliveries"


@app.command("list")
def list_deliveries(
    api: SOME_API = "",
    client: SOME_CLIENT = "",
    state: Annotated[DeliveryState | None, typer.Option("--state", help="Only in this state.")] = None,
    since: SINCE = "",
    until: UNTIL = "",
    limit: LIMIT = 50,
    watch: WATCH = 0,
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """List deliveries, the newest first."""
    query = given(api_id=api, client_id=client, state=state)
    query |= given(**{"from": moment(since), "to": moment(until)})
    columns = ("id", "state", "event_type", "api_id", "attempts", "last")
    show_list(Listing(profile, as_json, watch, limit), _PATH, "deliveries", columns, _row, query)


def _row(delivery: dict[str, Any]) -> dict[str, Any]:
    last = delivery["attempts"][-1] if delivery["attempts"] else {}
    outcome = last.get("status") or last.get("error")
    return {**delivery, "attempts": delivery["attempt_count"], "last": outcome}


@app.command("endpoints")
def list_endpoints(
    api: SOME_API = "", watch: WATCH = 0, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False
) -> None:
    """List the webhook endpoints: how many attempts of the last day they accepted, and what waits for them."""
    columns = ("api_id", "accepted", "median", "backlog", "circuit", "url")
    query = given(api_id=api)
    show_list(Listing(profile, as_json, watch), "/api/notifications/endpoints", "endpoints", columns, _endpoint, query)


def _endpoint(found: dict[str, Any]) -> dict[str, Any]:
    latency = found.get("latency_median_ms")
    return {
        **found,
        "accepted": f"{found['accepted']} of {found['attempts']}",
        "median": f"{latency} ms" if latency is not None else None,
        "circuit": (found.get("circuit") or {}).get("state"),
    }


@app.command("show")
def show_delivery(delivery_id: str, profile: PROFILE = DEFAULT_PROFILE) -> None:
    """Show a delivery with its latest attempts as JSON."""
    show_json(request(profile, "GET", f"{_PATH}/{segment(delivery_id)}"))


@app.command("resend")
def resend(
    delivery_id: str,
    force: Annotated[bool, typer.Option("--force", help="Even if it was delivered, within a day.")] = False,
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Send a webhook again now."""
    query = {"force": "true"} if force else None
    show_envelope(request(profile, "POST", f"{_PATH}/{segment(delivery_id)}/redeliver", query=query), as_json)


@app.command("resend-failed")
def resend_failed(
    api: API,
    since: SINCE = "1d",
    pending: Annotated[
        bool, typer.Option("--pending", help="Those that wait for their next attempt instead of exhausted ones.")
    ] = False,
    yes: YES = False,
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Send all webhooks of an API again that were not delivered."""
    confirm(f"Send the webhooks of '{api}' again that were not delivered since {since}", yes)
    body = {"api_id": api, "since": moment(since), "state": "pending" if pending else "exhausted"}
    show_envelope(request(profile, "POST", "/api/notifications/redeliver", body), as_json)


@app.command("test")
def send_test(
    api: Annotated[str, typer.Argument(help="The API's id.")],
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Send a test event to the webhook URL of an API, and say what it answered. Status 1: it did not arrive."""
    envelope = request(profile, "POST", f"/api/apis/{segment(api)}/notifications/test")
    show_envelope(envelope, as_json)
    if not as_json and (response := (envelope.get("Meta") or {}).get("response")):
        show_json({"response": response})
    if envelope["Status"] != "OK":
        raise typer.Exit(FAILED)
