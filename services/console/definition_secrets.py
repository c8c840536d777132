"""Definitions as the designer shows them: secrets are masked, and put back where the mask was left alone."""

import json
from collections.abc import Sequence
from typing import Any

from libs.masking import MASK, with_secrets_masked

CHANGED = f"{MASK} (changed)"
"""What a difference shows in place of a new secret."""

_MOST_MATCHED = 500
"""Items of a list with secrets that are compared with each other; in a longer one they are matched by their place."""


def shown_text(document: Any) -> str:
    """The definition as indented JSON, with secrets masked."""
    return _text(with_secrets_masked(document))


def shown_change(before: Any, after: Any) -> tuple[str, str]:
    """Both definitions as `shown_text` has them; the second one says where a secret is another than before."""
    return shown_text(before), _text(_marked(after, with_secrets_masked(after), before))


def _text(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


def _marked(value: Any, masked: Any, before: Any) -> Any:
    if isinstance(value, dict):
        old = before if isinstance(before, dict) else {}
        return {key: _marked(value[key], member, old.get(key)) for key, member in masked.items()}
    if isinstance(value, list):
        old_items = before if isinstance(before, list) and len(before) == len(value) else [None] * len(value)
        return [_marked(*each) for each in zip(value, masked, old_items, strict=True)]
    return CHANGED if masked == MASK and value != before else masked


def restored(edited: Any, original: Any) -> Any:
    """The edited definition, with the secrets of the original one where its mask is still there.

    A mask whose secret cannot be told for certain stays, and the import refuses it by its path.
    """
    return _restored(edited, original, with_secrets_masked(original))


def _restored(edited: Any, original: Any, masked: Any) -> Any:
    if masked == original:
        return edited  # there is no secret in it
    if isinstance(edited, str):
        return original if edited == masked else edited
    if isinstance(edited, dict) and isinstance(masked, dict):
        return {
            key: _restored(member, original[key], masked[key]) if key in masked else member
            for key, member in edited.items()
        }
    if isinstance(edited, list) and isinstance(masked, list):
        return _restored_items(edited, original, masked)
    return edited


def _restored_items(edited: Sequence[Any], original: Sequence[Any], masked: Sequence[Any]) -> list[Any]:
    """Items are matched by what they show, wherever they are now, and then those in the same place by their name."""
    if max(len(edited), len(masked)) > _MOST_MATCHED:
        return _restored_in_place(edited, original, masked)
    left = dict(enumerate(masked))
    matched: dict[int, int] = {}
    names = [_name(item) for item in masked]
    for at, item in enumerate(edited):
        alike = next((number for number, each in left.items() if each == item), None)
        same = at if at in left and left[at] == item else alike
        if same is not None and (len(edited) == len(masked) or masked.count(item) == 1):
            matched[at] = same
            del left[same]
    for at, item in enumerate(edited):
        if at in matched or at not in left or _name(item) != names[at]:
            continue
        if len(edited) == len(masked) or names.count(names[at]) == 1:
            matched[at] = at
    return [
        _restored(item, original[matched[at]], masked[matched[at]]) if at in matched else item
        for at, item in enumerate(edited)
    ]


def _restored_in_place(edited: Sequence[Any], original: Sequence[Any], masked: Sequence[Any]) -> list[Any]:
    """For lists that are too long to compare every item with every other one: if none was added or removed."""
    if len(edited) != len(masked):
        return list(edited)
    items = zip(edited, original, masked, strict=True)
    return [_restored(item, was, shown) if _name(item) == _name(shown) else item for item, was, shown in items]


def _name(item: Any) -> str:
    return str(item.get("name")) if isinstance(item, dict) else ""
