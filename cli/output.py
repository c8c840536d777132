"""How the command line shows results: tables for people, JSON for scripts."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

errors = Console(stderr=True, highlight=False, soft_wrap=True)
WIDE = 10_000
"""Columns of an output that is no terminal: nothing is cut in a pipe or file."""
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?Z")


def console() -> Console:
    """Where results go; made anew, since tests and pipes replace the standard output."""
    found = Console(highlight=False, soft_wrap=True)
    if not found.is_terminal:
        found.width = WIDE
    return found


def show_json(value: Any) -> None:
    """Write the value as JSON, and nothing else, to the standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.stdout.flush()


def show_json_line(value: Any) -> None:
    """Write the value as JSON on one line."""
    sys.stdout.write(orjson.dumps(value).decode() + "\n")
    sys.stdout.flush()


def table(records: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """A table with these members of each record. The first column, which one copies, is never broken or cut."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column.replace("_", " "), no_wrap=number == 0, overflow="fold")
    for record in records:
        made.add_row(*(escape(cell(record.get(column))) for column in columns))
    return made


def show_table(records: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write a table with these members of each record."""
    rows = list(records)
    out = console()
    out.print(table(rows, columns) if rows else "nothing found", soft_wrap=False)


def show_record(record: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Write these members of a record, one a line."""
    width = max(map(len, columns))
    for column in columns:
        if record.get(column) not in (None, "", [], {}):
            console().print(f"{column.replace('_', ' '):<{width}}  {cell(record[column])}", markup=False)


def cell(value: Any) -> str:
    """The value as one line of text, which cannot move the terminal's cursor."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    text = _TIME.sub(r"\1 \2Z", text) if _TIME.fullmatch(text) else text
    return "".join(character if character.isprintable() else "�" for character in text)
