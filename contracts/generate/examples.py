"""A request and a response of every operation, as tests/services/test_operation_examples.py recorded them."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from contracts.operations import Operation

FILE = Path(__file__).parents[1] / "examples.json"


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
