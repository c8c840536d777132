"""Calls of the management API by commands."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from cli import profiles
from cli.api_client import ApiClient, tokenwire
from cli.output import console, show_json, show_record

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def call(profile: str, work: Callable[[ApiClient], Awaitable[Any]]) -> Any:
    """What the work returns, with a client of the profile's server. Ctrl-C ends the command with status 130."""

    async def run() -> Any:
        async with tokenwire(profiles.load(profile)) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def request(profile: str, method: str, path: str, body: Any = None, query: Any = None, form: Any = None) -> Any:
    """The response to one request."""
    return call(profile, lambda client: client(method, path, body, query, form))


def confirm(what: str, yes: bool) -> None:
    """Ask, unless the answer was given as an option. Ends the command if it is no."""
    if not yes:
        typer.confirm(f"{what}?", abort=True)


def show_envelope(envelope: Any, as_json: bool) -> None:
    """The message of the server, and its warnings."""
    if as_json:
        show_json(envelope)
        return
    console().print(envelope["Message"], markup=False)
    meta = envelope.get("Meta")
    for warning in meta.get("warnings", ()) if isinstance(meta, dict) else ():
        console().print(f"warning: {warning}", markup=False)


def show(record: Any, as_json: bool, columns: tuple[str, ...]) -> None:
    """A record: these members for people, everything as JSON."""
    if as_json:
        show_json(record)
    else:
        show_record(record, columns)


def moment(text: str) -> str:
    """A time as the server takes it: RFC 3339, or so long ago (`90s`, `15m`, `2h`, `7d`). Raises BadParameter."""
    if not text:
        return ""
    if text[:-1].isdecimal() and text[-1] in _UNITS:
        return (datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})).isoformat(timespec="seconds")
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"'{text}' is no time; write 2026-05-04T12:00:00Z, or 15m, 2h, 7d for so long ago"
        ) from None
    return at.astimezone().isoformat() if at.tzinfo is None else at.isoformat()
