"""Rules for values that hold for both JSON and YAML: numbers, duplicate keys, nesting, characters in strings."""

import math
import re
from collections.abc import Iterable
from typing import Any

from libs.tyk.invalid_definition import InvalidDefinition, shown

MAX_DEPTH = 100
"""Maximum nesting of objects and arrays; real definitions have at most about 30 levels."""

_LONGEST = 100
_EXACT = range(-(2**63), 2**64)
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")


def without_nulls(value: Any) -> Any:
    """The value without the members of objects, at any depth, that are null: Tyk exports lists that are empty so."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def whole_number(digits: str, base: int = 10) -> int | float:
    """An integer; beyond 64 bits the nearest double, as in other JSON parsers (RFC 8259 §6)."""
    if len(digits) > _LONGEST:
        raise InvalidDefinition("a number is too large")
    number = int(digits, base)
    return number if number in _EXACT else float(number)


def real_number(text: str) -> float:
    """A finite number. Raises InvalidDefinition if it exceeds the range of a double."""
    number = float(text)
    if not math.isfinite(number):
        raise InvalidDefinition("a number is too large")
    return number


def object_of(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these members. Raises InvalidDefinition if a key is repeated."""
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise InvalidDefinition(f"the key {shown(key)!r} occurs twice in one object")
        members[key] = value
    return members


def require_sound(value: Any, path: str = "", depth: int = 0) -> None:
    """Raises InvalidDefinition if the value is nested beyond MAX_DEPTH, or has NUL or a lone surrogate."""
    if depth > MAX_DEPTH:
        raise InvalidDefinition(f"more than {MAX_DEPTH} objects and arrays within one another")
    if isinstance(value, str):
        _require_allowed(value, path)
    elif isinstance(value, dict):
        for key, member in value.items():
            _require_allowed(key, path)
            require_sound(member, f"{path}.{shown(key)}" if path else shown(key), depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            require_sound(item, f"{path}[{index}]", depth + 1)


def _require_allowed(text: str, path: str) -> None:
    if _FORBIDDEN.search(text):
        raise InvalidDefinition(f"{path or 'the definition'}: NUL and lone surrogates are not allowed")
