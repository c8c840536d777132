"""A request and a response of every operation, as tests/services/test_operation_examples.py recorded them."""

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from contracts.operations import FORM, Operation

FILE = Path(__file__).parents[1] / "examples.json"
BASE_URL = "http://127.0.0.1:8080"


@cache
def examples() -> dict[str, dict[str, Any]]:
    """By the name of the operation."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def path_values(operation: Operation, target: str) -> dict[str, str]:
    """The values that this request target has for the parameters of the operation's path."""
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(operation.path))
    found = re.fullmatch(pattern, target)
    return found.groupdict() if found else {}


def curl(request: dict[str, Any]) -> str:
    """The request as a command line."""
    query = f"?{urlencode(request['query'])}" if "query" in request else ""
    parts = [f"curl -X {request['method']} {_quoted(BASE_URL + request['target'] + query)}"]
    parts += [f"-H {_quoted(f'{name}: {value}')}" for name, value in request.get("headers", {}).items()]
    if "body" in request and request["media_type"] == FORM:
        parts += [f"--data-urlencode {_quoted(f'{name}={value}')}" for name, value in request["body"].items()]
    elif "body" in request:
        parts.append(f"-H {_quoted('Content-Type: ' + request['media_type'])}")
        parts.append(f"-d {_quoted(json.dumps(request['body'], ensure_ascii=False))}")
    return " \\\n  ".join(parts)


def _quoted(text: str) -> str:
    """In double quotes where the shell has to insert a variable."""
    return f'"{text}"' if "$OPERATOR_KEY" in text else shlex.quote(text)
