"""Unusual values: nearly valid ones, and those that have broken parsers before."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

Path = tuple[str | int, ...]

BITS = (
    *("", " ", "\0", "\r\n", "\t", "\x7f", "\x85", "\u2028", "\ufeff", "\u202e", "é", "ß", "İ", "٣", "𝟘", "\U0010ffff"),
    *("%", "%00", "%zz", "%ff", "%2e%2e%2f", "%252e", "..", "//", "/", "\\", "?", "#", "&", "=", ";", "+", ":", "@"),
    *("null", "true", "NaN", "Infinity", "-1", "0", "1e400", "9" * 20, "0x7f", "1_000", "٣", "${jndi:x}", "$where"),
    *(
        "a" * 300,
        "[" * 300,
        "(" * 60,
        "(a+)+$",
        "[[:alpha:]",
        "\\Q",
        "(?P<n>",
        "x{1000}",
        "*",
        "&a",
        "!!python/name:os",
    ),
)
"""Text with a special meaning somewhere."""

NUMBERS: Sequence[Any] = (
    *(0, -0.0, 1, -1, -2, 0.5, 1e-320, 1e308, 1.5e16, 2**31, 2**32, 2**53 + 1),
    *(2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400),
)
"""Numbers around limits of representation."""

CONFUSED = ("inf", "-Infinity", "nan", "NaN", "1e30", "1e400", "9" * 20, "-1", " 1 ", "1_0", "true", "null", "٣")
"""Text that may be parsed as a number."""

NESTED = b"[" * 5000 + b"]" * 5000

any_text = st.text(st.characters(), max_size=40)
"""Includes lone surrogates, which occur in JSON and in non-UTF-8 headers and paths."""
plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
pieces = st.lists(st.sampled_from(BITS) | any_text, max_size=6).map("".join)
scalars = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.integers() | st.floats(allow_nan=False) | pieces
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(pieces, inner, max_size=4), max_leaves=12
)


@st.composite
def texts_like(draw: st.DrawFn, *models: str) -> str:
    """A model with a few changes, or any other text."""
    if not models or draw(st.integers(0, 7)) == 0:
        return draw(pieces)
    text = draw(st.sampled_from(models))
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(len(text), begin + 8)))
        text = text[:begin] + draw(st.sampled_from(BITS) | st.text(st.characters(), max_size=2)) + text[end:]
    return text


@st.composite
def bytes_like(draw: st.DrawFn, *models: bytes) -> bytes:
    """A model with a few changes, or any other bytes."""
    if not models or draw(st.integers(0, 7)) == 0:
        return draw(st.binary(max_size=60))
    data = draw(st.sampled_from(models))
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 8)))
        data = data[:begin] + draw(st.binary(max_size=4)) + data[end:]
    return data


@st.composite
def documents_like(draw: st.DrawFn, *models: Any) -> Any:
    """A model with up to three members replaced, changed, removed or added."""
    document = copy.deepcopy(draw(st.sampled_from(models)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(_paths(document))))
        document = _changed(document, path, draw(st.sampled_from(_CHANGES)), draw)
    return document


def _paths(document: Any) -> Iterator[Path]:
    waiting: list[tuple[Path, Any]] = [((), document)]
    while waiting:
        path, value = waiting.pop()
        yield path
        members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting += [((*path, key), member) for key, member in members]


def _changed(document: Any, path: Path, change: "Change", draw: st.DrawFn) -> Any:
    if not path:
        return change({"": document}, "", draw)[""] if change is not _taken_away else document
    place = document
    for key in path[:-1]:
        place = place[key]
    change(place, path[-1], draw)
    return document


def _replaced(place: Any, key: Any, draw: st.DrawFn) -> Any:
    place[key] = draw(documents)
    return place


def _altered(place: Any, key: Any, draw: st.DrawFn) -> Any:
    value = place[key]
    place[key] = draw(_INSTEAD | texts_like(value) | texts_like(value) if isinstance(value, str) else _INSTEAD)
    return place


def _taken_away(place: Any, key: Any, draw: st.DrawFn) -> Any:
    del place[key]
    return place


def _added(place: Any, key: Any, draw: st.DrawFn) -> Any:
    value = place[key]
    if isinstance(value, dict):
        value[draw(pieces | st.sampled_from(sorted(map(str, place))))] = draw(documents)
    elif isinstance(value, list):
        value.extend([*value, draw(documents)])
    else:
        place[key] = [value]
    return place


def _buried(place: Any, key: Any, draw: st.DrawFn) -> Any:
    """Nested about as deep as parsers and writers allow."""
    for _ in range(draw(st.sampled_from([20, 99, 101, 254, 260, 500]))):
        place[key] = [place[key]]
    return place


_INSTEAD = st.sampled_from(NUMBERS) | st.sampled_from(CONFUSED) | scalars
Change = Callable[[Any, Any, st.DrawFn], Any]
_CHANGES: Sequence[Change] = (_replaced, _altered, _altered, _taken_away, _added, _buried)


def json_bytes(document: Any) -> bytes:
    """JSON; documents too deep for the writer are built as text."""
    try:
        return json.dumps(document).encode()
    except (RecursionError, ValueError):
        return NESTED


def yaml_bytes(document: Any) -> bytes:
    """The document as YAML, or as JSON if it cannot be written as YAML."""
    try:
        return yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)).encode(errors="replace")
    except (RecursionError, yaml.YAMLError, UnicodeError):
        return json_bytes(document)
