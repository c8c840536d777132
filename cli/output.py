"""How the command line shows results: tables for people, JSON for scripts."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

errors = Console(stderr=True, highlight=False)


def console() -> Console:
    """Where results go; made anew, since tests and pipes replace the standard output."""
    return Console(highlight=False, soft_wrap=True)


def show_json(value: Any) -> None:
    """Write the value as JSON, and nothing else, to the standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def show_table(records: Iterable[Mapping[str, Any]], columns: Sequence[str], title: str = "") -> None:
    """Write a table with these members of each record."""
    table = Table(*(column.replace("_", " ") for column in columns), title=title or None, title_justify="left")
    count = 0
    for record in records:
        table.add_row(*(escape(_cell(record.get(column))) for column in columns))
        count += 1
    console().print(table if count else "nothing found")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    # What a record says must not move the terminal's cursor.
    return "".join(character if character.isprintable() else "�" for character in text)
