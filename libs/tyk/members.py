"""Classes for the members of a definition (used, unused, unsupported), and the walk that reports them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.tyk.import_notes import ImportNotes
from libs.tyk.invalid_definition import shown
from libs.tyk.part import Part


@dataclass(frozen=True, slots=True)
class Known:
    """Used here, or irrelevant for calls."""


@dataclass(frozen=True, slots=True)
class Unused:
    """Changes how Tyk handles calls and has no effect here; reported as a warning unless it has an empty value."""

    effect: str = "not used"


@dataclass(frozen=True, slots=True)
class Refused:
    """Protects the API in Tyk and is not supported here; the import is refused unless the operator accepts it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Each:
    """Applies to every item of an array, or every value of an object with arbitrary keys."""

    node: Any


@dataclass(frozen=True, slots=True)
class When:
    """Applies only if another member of the same object has this value (`default` if it is absent)."""

    key: str
    value: bool
    node: Any
    default: bool = False


@dataclass(frozen=True, slots=True)
class Members:
    """An object whose members are these; members with other names are reported."""

    known: Mapping[str, Any]
    open_prefix: str = ""
    """Names that begin with this are never reported."""
    rest: bool = False
    """Members with other names are of no consequence."""


KNOWN = Known()
FORGEABLE = "headers with these names are dropped from every call to the API, so that callers cannot forge them"
"""The end of the warning about headers that a definition sets or removes for some calls alone."""


def is_off(value: Any) -> bool:
    """Whether the object is switched off, in the words of either language."""
    return isinstance(value, dict) and (value.get("enabled") is False or value.get("disabled") is True)


def says_something(value: Any) -> bool:
    """Whether a member differs from Tyk's zero values, and is not switched off."""
    if isinstance(value, dict):
        return not is_off(value) and any(map(says_something, value.values()))
    if isinstance(value, list):
        return any(map(says_something, value))
    return value not in (None, False, "", 0)


def is_on(part: Part, notes: ImportNotes) -> bool:
    """Whether `enabled` is true. A warning where it is absent from an object that says something, as Tyk takes it for
    false then.
    """
    if not part.has("enabled") and says_something(part.members):
        notes.unused(part.path, "not used, since it has no enabled: true")
    return part.flag("enabled")


def report(value: Any, node: Any, path: str, notes: ImportNotes) -> None:
    """Report all parts of the value that have no effect or are not supported, and members that Tyk does not know."""
    match node:
        case Unused(effect):
            if says_something(value):
                notes.unused(path, effect)
        case Refused(reason):
            if says_something(value):
                notes.refuse(path, reason)
        case Each(inner):
            for place, item in _items(value, path):
                report(item, inner, place, notes)
        case Members():
            if isinstance(value, dict) and not is_off(value):
                _report_members(value, node, path, notes)


def _items(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"{path}.{shown(key)}", item) for key, item in value.items()]
    return [(f"{path}[{index}]", item) for index, item in enumerate(value)] if isinstance(value, list) else []


def _report_members(value: dict[str, Any], members: Members, path: str, notes: ImportNotes) -> None:
    for key, member in value.items():
        place = f"{path}.{shown(key)}" if path else shown(key)
        node = members.known.get(key)
        if node is None:
            meant = _meant(key, members)
            is_open = members.rest or (members.open_prefix and key.startswith(members.open_prefix))
            if not is_open or (meant and meant.startswith(members.open_prefix or "\0")):
                notes.unused(place, f"unknown, and not used{f'; did you mean {meant}?' if meant else ''}")
            continue
        if isinstance(node, When):
            other = value.get(node.key)
            if (node.default if other is None else other) != node.value:
                continue
            node = node.node
        report(member, node, place, notes)


def _meant(key: str, members: Members) -> str | None:
    """The known member of which this is probably a misspelling; None if there is none."""
    plain = {_plain(known): known for known in members.known}
    if (meant := plain.get(_plain(key))) is not None:
        return meant
    close = difflib.get_close_matches(key[:64], [*members.known], n=1, cutoff=0.75)
    return close[0] if close else None


def _plain(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "")
