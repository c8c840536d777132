"""`tokenwire events`: events as they happen."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer

from cli.api_client import ApiClient
from cli.calls import call, moment
from cli.failures import UNREACHABLE, Failure, Refused
from cli.lists import show_list
from cli.options import JSON, LIMIT, PROFILE, SINCE, SOME_API, SOME_CLIENT, UNTIL, WATCH, Listing, given
from cli.output import cell, console, errors, show_json_line
from cli.profiles import DEFAULT_PROFILE

_TYPES = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="PATTERN", help="Such as token.new or 'grant.*'; may be repeated."),
]
app = typer.Typer(help="Events: tokens, grants and records, as they change.", no_args_is_help=True)

QUIET_FOR = 45.0
"""Seconds without anything from the server, which sends a comment every 15, after which the connection is lost."""
AGAIN_AFTER, AT_MOST = 1.0, 30.0
"""Seconds before the first attempt to connect again; doubled for each further one."""
REMEMBERED = 100_000
"""How many ids of printed events are kept, since the server may send the last ones again after a reconnect."""
_NO_LONGER_STORED = ": events before "
_SHOWN = ("api_id", "client_id", "resource_owner", "username", "grant_id", "policy_id", "operator_id", "reason")


@app.command("list")
def list_events(
    types: _TYPES = None,
    api: SOME_API = "",
    client: SOME_CLIENT = "",
    since: SINCE = "",
    until: UNTIL = "",
    limit: LIMIT = 50,
    watch: WATCH = 0,
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """List the events of the last eight days, the latest first: types and ids, without their data."""
    query = given(types=",".join(types or ()), api_id=api, client_id=client)
    query |= given(**{"from": moment(since), "to": moment(until)})
    columns = ("at", "type", "subject", "api_id", "client_id", "remarks")
    show_list(Listing(profile, as_json, watch, limit), "/api/events", "events", columns, _row, query)


def _row(event: dict[str, Any]) -> dict[str, Any]:
    actor = (event.get("actor") or {}).get("name")
    return {**event, "remarks": [each for each in (event.get("reason"), actor and f"by {actor}") if each]}


@app.command("tail")
def tail(
    types: _TYPES = None,
    api: SOME_API = "",
    client: SOME_CLIENT = "",
    since: SINCE = "",
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Print events as they happen, until Ctrl-C; with --json one object a line.

    Connects again when the connection is lost, says so, and continues where it was: the events in between are printed
    with their ids, reason and operator, which is what is stored of them for eight days. So are those of --since.
    """
    query = {"types": ",".join(types or ()), "api_id": api, "from": moment(since)}
    wanted = {name: value for name, value in query.items() if value}
    call(profile, lambda opened: _Tail(opened, wanted, client, as_json).follow())


@dataclass
class _Tail:
    """Prints each event once, over any number of connections."""

    client: ApiClient
    query: Mapping[str, str]
    client_id: str
    as_json: bool
    last_id: str = ""
    printed: set[str] = field(default_factory=set)
    printed_in_order: deque[str] = field(default_factory=deque)

    async def follow(self) -> None:
        """Until cancelled. Raises Failure if the first connection fails, or if the server refuses a later one."""
        lost_at, pause, connected_before = 0.0, AGAIN_AFTER, False
        while True:
            headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
            try:
                async for line in self.client.lines("/api/events/stream", self.query, headers, QUIET_FOR):
                    if line == ": connected":
                        _say_connected(lost_at)
                        lost_at, pause, connected_before = 0.0, AGAIN_AFTER, True
                    else:
                        self._read(line)
                reason = "the server ended it"
            except Failure as failure:
                again = failure.status == UNREACHABLE or (isinstance(failure, Refused) and failure.http_status >= 500)
                if not (again and connected_before):
                    raise
                reason = str(failure)
            if not lost_at:
                lost_at = time.monotonic()
                errors.print(
                    f"connection lost at {datetime.now(UTC):%H:%M:%SZ}: {reason}", style="yellow", markup=False
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, AT_MOST)

    def _read(self, line: str) -> None:
        if line.startswith("id:"):
            self.last_id = line.removeprefix("id:").strip()
        elif line.startswith("data:"):
            event = orjson.loads(line.removeprefix("data:"))
            if self._is_new(event["id"]):
                _show(event, self.client_id, self.as_json)
        elif line.startswith(_NO_LONGER_STORED):
            errors.print(f"some events are missing:{line.removeprefix(':')}", style="yellow", markup=False)

    def _is_new(self, event_id: str) -> bool:
        if event_id in self.printed:
            return False
        self.printed.add(event_id)
        self.printed_in_order.append(event_id)
        if len(self.printed) > REMEMBERED:
            self.printed.remove(self.printed_in_order.popleft())
        return True


def _say_connected(lost_at: float) -> None:
    if lost_at:
        away = time.monotonic() - lost_at
        errors.print(f"connected again after {away:.0f} seconds; what happened meanwhile follows", style="yellow")
    elif errors.is_terminal:
        errors.print("connected; Ctrl-C ends", style="dim")


def _show(event: dict[str, Any], client_id: str, as_json: bool) -> None:
    data = event.get("data", {})
    if client_id and data.get("client_id") != client_id:
        return
    if as_json:
        show_json_line(event)
        return
    facts = [f"{name.removesuffix('_id')}={cell(data[name])}" for name in _SHOWN if data.get(name)]
    actor = (data.get("actor") or {}).get("name")
    facts += [f"by={cell(actor)}"] if actor else []
    at, kind = re.sub(r".*T(.{8}).*", r"\1Z", event["time"]), event["type"].split(".", 2)[-1]
    console().print(f"{at}  {kind:<22} {' '.join(facts)}", markup=False)
