"""The report of a migration, in Markdown. It has no secrets."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from cli.migrate.plan import Action, Kind, Step

_NAMES = {Kind.API: "APIs", Kind.POLICY: "Policies", Kind.CLIENT: "Client apps"}
_DONE = {
    Action.CREATE: "created",
    Action.UPDATE: "updated",
    Action.UNCHANGED: "unchanged",
    Action.CANNOT_MOVE: "not moved",
}
_PLANNED = {
    Action.CREATE: "to create",
    Action.UPDATE: "to update",
    Action.UNCHANGED: "unchanged",
    Action.CANNOT_MOVE: "cannot move",
}


def named(action: Action, *, applied: bool) -> str:
    """What became of a record, or what will become of it."""
    return (_DONE if applied else _PLANNED)[action]


def markdown(steps: Sequence[Step], notes: Sequence[str], source: str, *, applied: bool) -> str:
    """The whole report."""
    return "\n".join(_lines(steps, notes, source, applied=applied)) + "\n"


def as_json(steps: Sequence[Step], notes: Sequence[str], *, applied: bool) -> dict[str, Any]:
    """The same for programs."""
    records = [
        {
            "kind": step.kind,
            "id": step.key,
            **({"name": step.name} if step.name else {}),
            **({"api_id": step.api_id} if step.api_id else {}),
            "action": step.action,
            "warnings": step.warnings,
            **({"reason": step.reason} if step.reason else {}),
        }
        for step in steps
    ]
    return {"applied": applied, "records": records, "notes": list(notes)}


def _lines(steps: Sequence[Step], notes: Sequence[str], source: str, *, applied: bool) -> Iterator[str]:
    yield f"# Migration from Tyk: {'report' if applied else 'plan'}"
    yield ""
    yield f"Read from {source}. " + ("" if applied else "Nothing has been written; `--apply` does it.")
    yield ""
    actions = list(Action)
    yield "| | " + " | ".join(named(action, applied=applied) for action in actions) + " | with warnings |"
    yield "|---|" + "---|" * (len(actions) + 1)
    for kind, name in _NAMES.items():
        own = [step for step in steps if step.kind is kind]
        counted = Counter(step.action for step in own)
        numbers = [counted[action] for action in actions] + [sum(bool(step.warnings) for step in own)]
        yield f"| {name} | " + " | ".join(map(str, numbers)) + " |"
    yield from _section("Not moved" if applied else "Cannot move", [s for s in steps if not s.moves], reasons=True)
    yield from _section("Warnings", [step for step in steps if step.warnings], reasons=False)
    done = [step for step in steps if step.moves]
    yield from ["", "## Moved" if applied else "## To move", ""]
    yield from (f"- {_label(step)}: {named(step.action, applied=applied)}" for step in done)
    yield from ["", "## What stays", ""]
    yield "- Tokens do not move: clients get new ones from Tokenwire, so users of authorization codes log in again."
    yield from (f"- {_plain(note)}" for note in notes)
    yield from ["", "`docs/from-tyk.md` describes the cut-over, and what clients and receivers have to change."]


def _section(title: str, steps: Sequence[Step], *, reasons: bool) -> Iterator[str]:
    if not steps:
        return
    yield from ["", f"## {title}", ""]
    for step in steps:
        if reasons:
            yield f"- {_label(step)}: {_plain(step.reason)}"
        else:
            yield f"- {_label(step)}"
            yield from (f"  - {_plain(warning)}" for warning in step.warnings)


def _label(step: Step) -> str:
    about = f" of `{_plain(step.api_id)}`" if step.api_id else ""
    name = f" ({_plain(step.name)})" if step.name and step.name != step.key else ""
    return f"{step.kind} `{_plain(step.key)}`{name}{about}"


def _plain(text: str) -> str:
    """On one line, and without what Markdown would take for code."""
    return " ".join(text.replace("`", "'").split())
