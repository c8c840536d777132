"""Lists of records: once, or again and again (`--watch`)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live

from cli.api_client import ApiClient
from cli.calls import call
from cli.failures import UNREACHABLE, Failure
from cli.options import Listing
from cli.output import console, errors, show_json, show_json_line, show_table, table

Records = list[dict[str, Any]]
Row = Callable[[dict[str, Any]], Mapping[str, Any]]
Read = Callable[[ApiClient], Awaitable[tuple[Records, bool]]]
"""Reads the records; and says whether there are more."""
PAGE = 200
"""Records in a page of the lists that take `limit`."""


def show_list(
    listing: Listing,
    path: str,
    member: str,
    columns: Sequence[str],
    row: Row = dict,
    query: Mapping[str, object] | None = None,
) -> None:
    """Show the records that the server lists at this path."""

    async def read(client: ApiClient) -> tuple[Records, bool]:
        asked = {name: str(value) for name, value in (query or {}).items()}
        if listing.limit:
            asked["limit"] = str(min(listing.limit, PAGE))
        found: Records = []
        async for record in client.every(path, member, asked):
            if listing.limit and len(found) == listing.limit:
                return found, True
            found.append(record)
        return found, False

    show_records(listing, read, columns, row)


def show_records(listing: Listing, read: Read, columns: Sequence[str], row: Row = dict) -> None:
    """Show what `read` returns, as the options of the command say."""
    if listing.watch:
        call(listing.profile, lambda client: _watch(listing, lambda: read(client), columns, row))
        return
    found, more = call(listing.profile, read)
    if listing.as_json:
        show_json(found)
    else:
        show_table(map(row, found), columns)
    if more:
        errors.print(f"only the first {len(found)} are shown; --limit 0 shows all")


async def _watch(
    listing: Listing, read: Callable[[], Awaitable[tuple[Records, bool]]], columns: Sequence[str], row: Row
) -> None:
    async with _screen(listing, columns, row) as show:
        found, _ = await read()
        problem = ""
        while True:
            show(found, problem)
            await asyncio.sleep(listing.watch)
            try:
                found, _ = await read()
                problem = ""
            except Failure as failure:
                if failure.status != UNREACHABLE:
                    raise
                problem = str(failure)


@asynccontextmanager
async def _screen(listing: Listing, columns: Sequence[str], row: Row) -> AsyncIterator[Callable[[Records, str], None]]:
    """What shows the records: in place on a terminal, one after the other elsewhere."""
    out = console()
    if listing.as_json or not out.is_terminal:

        def write(found: Records, problem: str) -> None:
            if problem:
                errors.print(problem, markup=False)
            elif listing.as_json:
                show_json_line(found)
            else:
                out.print(_now(), markup=False)
                show_table(map(row, found), columns)

        yield write
        return
    with Live(console=out, auto_refresh=False, vertical_overflow="ellipsis") as live:

        def draw(found: Records, problem: str) -> None:
            body: RenderableType = table(map(row, found), columns) if found else "nothing found"
            said = f"[red]{problem}[/]" if problem else f"[dim]{_now()}, every {listing.watch:g} s; Ctrl-C ends[/]"
            live.update(Group(body, said), refresh=True)

        yield draw


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}"
