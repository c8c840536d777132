"""A request as a command line with curl."""

import re
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from contracts.generate.samples.literals import json_text, quoted
from contracts.generate.samples.requests import Shown, has_variables, names_in, pieces, variable


def curl(request: Shown) -> str:
    """The command, with one option a line. `jq` writes a JSON body that has variables, whatever they contain."""
    command = " \\\n  ".join(_parts(request))
    return f"{_jq(request.json)} |\n  {command}" if has_variables(request.json) else command


def _jq(value: Any) -> str:
    given = "".join(f" --arg {name} {_quoted(variable(name))}" for name in names_in(value))
    return f"jq -n{given} {shlex.quote(json_text(value, _jq_text))}"


def _jq_text(text: str) -> str:
    parts = list(pieces(text))
    if len(parts) == 1:
        return f"${parts[0][0]}"
    inside = [rf"\(${piece})" if is_variable else quoted(piece)[1:-1] for piece, is_variable in parts]
    return f'"{"".join(inside)}"'


def _parts(request: Shown) -> Iterator[str]:
    buffering = "-N " if request.response == "stream" else ""
    # -G moves all data to the query, so a request with a body has its query in the URL.
    in_lines = not (request.short_url or request.form or request.json is not None)
    url = f"-G {_quoted(request.url)}" if in_lines else _quoted(request.whole_url)
    yield f"curl -X {request.method} {buffering}{url}"
    if request.client_credentials:
        yield f"-u {_quoted(variable('CLIENT_ID') + ':' + variable('CLIENT_SECRET'))}"
    for name, value in request.headers.items():
        yield f"-H {_quoted(f'{name}: {value}')}"
    for name, value in (request.form or (request.query if in_lines else {})).items():
        yield f"--data-urlencode {_quoted(f'{quote(name)}={value}')}"
    if request.json is not None:
        yield "-H 'Content-Type: application/json'"
        whole = not has_variables(request.json)
        yield f"-d {shlex.quote(json_text(request.json, quoted))}" if whole else "-d @-"


def _quoted(text: str) -> str:
    """The text as one word of the shell, which inserts the variables."""
    parts = list(pieces(text))
    if not any(is_variable for _, is_variable in parts):
        return shlex.quote(text)
    if not any(re.search(r'["\\$`!]', piece) for piece, is_variable in parts if not is_variable):
        return f'"{"".join(_inside(*part) for part in parts)}"'
    return "".join(f'"${piece}"' if is_variable else shlex.quote(piece) for piece, is_variable in parts)


def _inside(piece: str, is_variable: bool) -> str:
    return f"${piece}" if is_variable else piece
