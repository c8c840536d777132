"""Cells of tables about models: allowed values and defaults, from JSON Schema."""

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import Enum
from typing import Any

_NAMES = re.compile(r"\^\(([a-z|]+)\)\$")
"""A pattern that is a list of words."""
_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "`true`, `false`", "string": "text"}


def cell(text: str) -> str:
    """The text as it can stand in a cell of a table."""
    return text.replace("|", "&#124;").replace("<", "&lt;")


def default(value: object) -> str:
    if value in (None, "", "**********", (), []):
        return "none"
    match value:
        case timedelta():
            return f"`{value.total_seconds():.0f}`"
        case Enum():
            return f"`{value.value}`"
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"`{value:.15g}`"
        case _:
            return f"`{value}`"


def allowed(described: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The type and the bounds in words."""
    for part in (*described.get("allOf", ()), *described.get("anyOf", ()), described):
        if "$ref" in part:
            return _choices(schema["$defs"][part["$ref"].rpartition("/")[2]]["enum"])
        if "enum" in part or "const" in part:
            return _choices(part.get("enum", [part.get("const")]))
        if part.get("type") == "array":
            return "an array of texts"
        if part.get("type", "null") != "null":
            return _bounded(part)
    raise ValueError(f"a setting of an unknown type: {described}")


def _choices(values: Iterable[object]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _bounded(part: Mapping[str, Any]) -> str:
    if part.get("format") == "password":
        return "text, secret"
    if names := _NAMES.fullmatch(part.get("pattern", "")):
        return _choices(names[1].split("|"))
    kind = _KINDS[part["type"]]
    if "exclusiveMinimum" in part:
        kind += f" above {part['exclusiveMinimum']:.15g}"
    if "minimum" in part:
        kind += f" from {part['minimum']:.15g}"
    return f"{kind} to {part['maximum']:.15g}" if "maximum" in part else kind
