"""What JSON and YAML text have in common: numbers, objects, and what no string of them may hold."""

import math
import re
from collections.abc import Iterable
from typing import Any

from libs.tyk.errors import InvalidDefinition, shown

MAX_DEPTH = 100
"""Objects and arrays within one another; the deepest definitions seen in practice have about 30."""

_LONGEST = 100
_EXACT = range(-(2**63), 2**64)
_UNSPEAKABLE = re.compile("[\x00\ud800-\udfff]")


def whole_number(digits: str, base: int = 10) -> int | float:
    """An integer; beyond 64 bits the nearest double, as other readers of JSON take it (RFC 8259 §6)."""
    if len(digits) > _LONGEST:
        raise InvalidDefinition("a number is too large")
    number = int(digits, base)
    return number if number in _EXACT else float(number)


def real_number(text: str) -> float:
    """A finite number. Raises InvalidDefinition where a double cannot hold it."""
    number = float(text)
    if not math.isfinite(number):
        raise InvalidDefinition("a number is too large")
    return number


def object_of(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these members. Raises InvalidDefinition where a key stands twice."""
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise InvalidDefinition(f"the key {shown(key)!r} stands twice in one object")
        members[key] = value
    return members


def require_sound(value: Any, path: str = "", depth: int = 0) -> None:
    """Raises InvalidDefinition on nesting beyond MAX_DEPTH, on NUL and on half a surrogate pair."""
    if depth > MAX_DEPTH:
        raise InvalidDefinition(f"more than {MAX_DEPTH} objects and arrays within one another")
    if isinstance(value, str):
        _require_speakable(value, path)
    elif isinstance(value, dict):
        for key, member in value.items():
            _require_speakable(key, path)
            require_sound(member, f"{path}.{shown(key)}" if path else shown(key), depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            require_sound(item, f"{path}[{index}]", depth + 1)


def _require_speakable(text: str, path: str) -> None:
    if _UNSPEAKABLE.search(text):
        raise InvalidDefinition(f"{path or 'the definition'}: NUL and lone surrogates are not allowed")
