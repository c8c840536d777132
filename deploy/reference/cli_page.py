"""docs/reference/cli.md: every command of `tokenwire`, as typer describes it, with lines that fit."""

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import typer
from typer.cli import get_docs_for_click

from cli.__main__ import app

WIDTH = 118
_ABOUT = """\
# Command line

`tokenwire` manages Tokenwire through its management API, and runs the commands of its services.
[The guide](../guides/command-line.md) shows it at work. This page is made from the commands (`make contracts`).

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | the server refused, a file is wrong, `doctor` found something wrong, or a question was answered with no |
| 2 | a command or an option is wrong; `--help` says what is allowed |
| 3 | the server cannot be reached |
| 4 | done in part; the output says what could not be done, and why |
| 130 | ended with Ctrl-C, as `events tail` and `--watch` are |

The server commands (`run`, `config-lint`, `dead-letters`, `redrive`, `reencrypt`, `backup`, `restore`) have the
options and the exit status of `python -m services`; `--help` after the command lists them. Results are on the standard
output; questions, progress and errors are on the standard error. `NO_COLOR` and a pipe turn colours off.

"""
_CODE_SPAN = re.compile(r"`[^`]+`")
_KEPT = "\N{NO-BREAK SPACE}"


def cli_page() -> str:
    """The page."""
    command = typer.main.get_command(app)
    found = get_docs_for_click(obj=command, ctx=typer.Context(command), name="tokenwire", indent=1)
    lines = list(_with_whole_sentences(found.strip().splitlines(), command))
    return _ABOUT + "\n".join(_wrapped(lines)) + "\n"


def _with_whole_sentences(lines: list[str], root: Any) -> Iterator[str]:
    """The lines, where typer has cut the descriptions of commands for a narrow terminal."""
    group = root
    for line in lines:
        if heading := re.fullmatch(r"#+ `tokenwire ?(.*)`", line):
            group = root
            for name in heading[1].split():
                group = group.commands[name]
        cut = re.fullmatch(r"\* `([\w-]+)`: .*\.\.\.", line)
        yield f"* `{cut[1]}`: {_first_paragraph(group.commands[cut[1]].help)}" if cut else line


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _wrapped(lines: list[str]) -> Iterator[str]:
    """The lines, with long ones outside code blocks broken between words, but not in code spans."""
    code = False
    for line in lines:
        if line.startswith("```"):
            code = not code
        if code or len(line) <= WIDTH:
            yield line.rstrip()
            continue
        kept = _CODE_SPAN.sub(lambda span: span[0].replace(" ", _KEPT), line)
        hanging = "  " if line.startswith("* ") else ""
        broken = textwrap.wrap(kept, WIDTH, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)
        yield from (each.replace(_KEPT, " ") for each in broken)
