"""YAML text as JSON values: the core schema of YAML 1.2, one document, no anchors, aliases or tags of one's own."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.json_values import MAX_DEPTH, object_of, real_number, whole_number

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAGS = {None, "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def read_yaml(text: str) -> Any:
    """The one document in the text. Scalars that YAML 1.1 takes for dates, `yes` or `no` stay strings, and so do keys.

    Raises InvalidDefinition with the line where reading stopped.
    """
    try:
        return _only_document(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        raise InvalidDefinition(f"not YAML: {error.problem}{_at(error.problem_mark)}") from None
    except InvalidDefinition:
        raise
    except (yaml.YAMLError, ValueError, OverflowError):
        # The scanner's own conversions (escapes, directives) raise the latter two.
        raise InvalidDefinition("not YAML: a character or an escape that is not allowed there") from None


def _only_document(events: Iterator[yaml.Event]) -> Any:
    document: Any = None
    seen = False
    for event in events:
        if isinstance(event, yaml.NodeEvent):
            if seen:
                raise _refused(event, "one document is expected")
            document, seen = _node(events, event, 1), True
    return document


def _node(events: Iterator[yaml.Event], event: yaml.Event, depth: int) -> Any:
    _require_plain_yaml(event)
    if depth > MAX_DEPTH + 1:
        raise _refused(event, f"more than {MAX_DEPTH} mappings and sequences within one another")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if isinstance(event, yaml.SequenceStartEvent):
        return [_node(events, item, depth + 1) for item in _until(events, yaml.SequenceEndEvent)]
    return _mapping(events, event, depth)


def _mapping(events: Iterator[yaml.Event], start: yaml.Event, depth: int) -> dict[str, Any]:
    members = [(_key(key), _node(events, next(events), depth + 1)) for key in _until(events, yaml.MappingEndEvent)]
    try:
        return object_of(members)
    except InvalidDefinition as twice:
        raise _refused(start, str(twice)) from None


def _until(events: Iterator[yaml.Event], end: type[yaml.Event]) -> Iterator[yaml.Event]:
    for event in events:
        if isinstance(event, end):
            return
        yield event


def _key(event: yaml.Event) -> str:
    _require_plain_yaml(event)
    if not isinstance(event, yaml.ScalarEvent):
        raise _refused(event, "a key is a scalar")
    return str(event.value)


def _require_plain_yaml(event: yaml.Event) -> None:
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise _refused(event, "anchors and aliases are not supported; write the value out")
    if getattr(event, "tag", None) not in _TAGS:
        raise _refused(event, "tags are not supported")


def _scalar(event: yaml.ScalarEvent) -> Any:
    text = str(event.value)
    if not event.implicit[0]:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _NOT_FINITE.fullmatch(text):
        raise _refused(event, "infinity and not-a-number are not supported")
    return _number(text)


def _number(text: str) -> str | int | float:
    if _DECIMAL.fullmatch(text):
        return whole_number(text)
    if _OCTAL.fullmatch(text):
        return whole_number(text[2:], 8)
    if _HEXADECIMAL.fullmatch(text):
        return whole_number(text[2:], 16)
    return real_number(text) if _REAL.fullmatch(text) else text


def _refused(event: yaml.Event, sentence: str) -> InvalidDefinition:
    return InvalidDefinition(f"{sentence}{_at(event.start_mark)}")


def _at(mark: Any) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
