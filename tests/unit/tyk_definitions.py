"""The definitions of the tests' data, and small changes to them."""

import copy
import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "data"

ABSENT = object()
"""As a value: the member is taken away."""


def definition(name: str) -> dict[str, Any]:
    """One of the definitions in the tests' data."""
    document: dict[str, Any] = json.loads((DATA / name).read_text())
    return document


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The document with the value at the path; keys are separated by slashes, absent objects are made."""
    copied = copy.deepcopy(document)
    *parents, last = path.split("/")
    place = copied
    for key in parents:
        place = place.setdefault(key, {})
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return copied
