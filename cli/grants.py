"""`tokenwire grants`: authorizations of client apps, from the code to the last refresh token."""

from typing import Annotated, Any

import typer

from cli.api_client import ApiClient, segment
from cli.calls import confirm, request, show_envelope
from cli.id_arguments import IdCommand
from cli.lists import show_list, show_records
from cli.options import JSON, LIMIT, PROFILE, SOME_API, SOME_CLIENT, WATCH, YES, Listing, given
from cli.output import console, show_json, show_record
from cli.profiles import DEFAULT_PROFILE
from contracts.grants import GrantState

app = typer.Typer(help="Grants: who authorized which client app on which API.", no_args_is_help=True)
_PATH = "/api/grants"
_SHOWN = ("grant_id", "state", "api_id", "client_id", "subject", "grant_type", "scope", "created_at", "expires_at")


@app.command("list")
def list_grants(
    client: SOME_CLIENT = "",
    api: SOME_API = "",
    subject: Annotated[str, typer.Option("--subject", help="Only of this user.")] = "",
    state: Annotated[GrantState | None, typer.Option("--state", help="Only in this state.")] = None,
    limit: LIMIT = 50,
    watch: WATCH = 0,
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """List grants, the newest first."""
    query = given(client_id=client, api_id=api, subject=subject, state=state)
    columns = ("grant_id", "state", "api_id", "client_id", "subject", "created_at")
    show_list(Listing(profile, as_json, watch, limit), _PATH, "grants", columns, _row, query)


def _row(grant: dict[str, Any]) -> dict[str, Any]:
    lapsed = grant["expired"] and grant["state"] == "active"
    return {**grant, "state": "expired" if lapsed else grant["state"]}


@app.command("show", cls=IdCommand)
def show_grant(grant_id: str, profile: PROFILE = DEFAULT_PROFILE) -> None:
    """Show a grant as JSON."""
    show_json(request(profile, "GET", f"{_PATH}/{segment(grant_id)}"))


@app.command("lookup")
def look_up(profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """Find the grant of a token or code; asks for it, so that no shell keeps it. It may come from a pipe."""
    found = request(profile, "POST", f"{_PATH}/lookup", {"token": _token()})
    if as_json:
        show_json(found)
        return
    console().print(f"{found['kind'].replace('_', ' ')}, {'valid' if found['valid'] else 'not valid any more'}")
    show_record(found["grant"], _SHOWN)


def _token() -> str:
    piped = typer.get_text_stream("stdin")
    return str(typer.prompt("Token", hide_input=True)) if piped.isatty() else piped.readline().strip()


@app.command("timeline", cls=IdCommand)
def timeline(grant_id: str, watch: WATCH = 0, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """Show what happened to a grant, the oldest first, with its webhooks."""
    path = f"{_PATH}/{segment(grant_id)}/timeline"
    if as_json and not watch:
        show_json(request(profile, "GET", path))
        return

    async def read(client: ApiClient) -> tuple[list[dict[str, Any]], bool]:
        return (await client("GET", path))["entries"], False

    show_records(Listing(profile, as_json, watch), read, ("at", "type", "by", "remarks", "webhook"), _entry)


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    actor, webhook = entry.get("actor") or {}, entry.get("webhook")
    unpublished = entry["publication"] if entry["publication"] != "published" else None
    attempts = f"{webhook['state']}, attempts: {webhook['attempt_count']}" if webhook else None
    return {
        "at": entry["at"],
        "type": entry["type"],
        "by": actor.get("name") or actor.get("id"),
        "remarks": [each for each in (entry.get("reason"), entry.get("token_id"), unpublished) if each],
        "webhook": attempts,
    }


@app.command("revoke", cls=IdCommand)
def revoke(grant_id: str, yes: YES = False, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """End a grant, with all its tokens."""
    confirm(f"End the grant '{grant_id}'", yes)
    show_envelope(request(profile, "POST", f"{_PATH}/{segment(grant_id)}/revoke"), as_json)
