"""`tokenwire audit`: who changed what."""

from typing import Annotated, Any

import typer

from cli.calls import moment
from cli.lists import show_list
from cli.options import JSON, LIMIT, PROFILE, SINCE, UNTIL, WATCH, Listing, given
from cli.profiles import DEFAULT_PROFILE

app = typer.Typer(help="The audit log.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The audit log."""


@app.command("list")
def list_changes(
    operator: Annotated[str, typer.Option("--operator", help="Only changes by the operator with this id.")] = "",
    action: Annotated[str, typer.Option("--action", help="Such as client.deleted, or 'client.*'.")] = "",
    subject: Annotated[str, typer.Option("--subject", help="Only changes of the record with this id.")] = "",
    since: SINCE = "",
    until: UNTIL = "",
    limit: LIMIT = 50,
    watch: WATCH = 0,
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """List changes, the latest first."""
    query = given(operator=operator, action=action, subject=subject)
    query |= given(**{"from": moment(since), "to": moment(until)})
    columns = ("at", "action", "subject", "operator", "changed")
    show_list(Listing(profile, as_json, watch, limit), "/api/audit", "entries", columns, _row, query)


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "operator": (entry.get("actor") or {}).get("name")}
