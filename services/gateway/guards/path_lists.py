"""Path lists: which calls of an API are refused, which need no token, and which are the only ones admitted.

For one reading of a path the lists apply in Tyk's order: internal, ignored, blocked, allowed. A call is refused if any
reading of it is refused, and needs no token only if no reading of it does.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from contracts.apis import Api
from contracts.guards import PathGuards, PathRule
from libs.policies import Pattern, compiled
from services.gateway.guards.guard_input import GuardInput
from services.gateway.guards.literals import Literals
from services.gateway.paths import below
from services.gateway.refusals import Denial

FORBIDDEN = Denial("endpoint", 403, "Requested endpoint is forbidden", challenges=False)

_WILD = re.compile(r"\(\[\^/\]\+\)|\.\*?")
"""What a path pattern contains besides plain text: a parameter, any text, or any character."""
_PLAIN = re.compile(r"[A-Za-z0-9/_~-]*")

R = TypeVar("R", bound=PathRule)


class Spellings:
    """One reading of a path, in every form that Tyk compares with its rules: with or without listen path, version."""

    __slots__ = ("_below", "whole")

    def __init__(self, path: str, api: Api) -> None:
        rest = below(path, api)
        rest = rest if rest.startswith("/") else f"/{rest}"
        self._below = [rest.encode(errors="surrogateescape")]
        self.whole = (api.listen_path.rstrip("/") + rest).encode(errors="surrogateescape")
        if api.versioning and api.versioning.location == "url":
            segment, _, after = rest[1:].partition("/")
            if segment in api.versioning.names:
                self._below.append(f"/{after}".encode(errors="surrogateescape"))

    def match(self, pattern: Pattern, *, with_listen_path: bool) -> bool:
        """Whether the pattern matches one of the forms."""
        if any(pattern.search(text) is not None for text in self._below):
            return True
        return with_listen_path and pattern.search(self.whole) is not None


def literal_of(pattern: str) -> bytes:
    """A text that occurs in every path that matches the pattern; empty if there is none."""
    core = pattern.removeprefix("^").removesuffix("$")
    if core.startswith("(?:") and core.endswith(")/?"):
        core = core[3:-3]
    pieces = _WILD.split(core)
    return max(pieces, key=len).encode() if all(map(_PLAIN.fullmatch, pieces)) else b""


class CompiledRule(Generic[R]):
    """A rule with its compiled pattern."""

    __slots__ = ("_pattern", "literal", "rule")

    def __init__(self, rule: R) -> None:
        self.rule = rule
        self.literal = literal_of(rule.pattern)
        self._pattern = compiled(rule.pattern)

    def matches(self, method: str, spellings: Spellings) -> bool:
        """Whether the rule applies to this method and path."""
        rule = self.rule
        if rule.methods and method not in rule.methods:
            return False
        return self.is_found(spellings)

    def is_found(self, spellings: Spellings) -> bool:
        """Whether the pattern matches the path."""
        # A substring test costs a fraction of a regular expression, and excludes almost every rule.
        if self.literal not in spellings.whole:
            return False
        return spellings.match(self._pattern, with_listen_path=self.rule.with_listen_path)


def compiled_rules(rules: Iterable[R]) -> tuple[CompiledRule[R], ...]:
    """The compiled rules, in the same order."""
    return tuple(map(CompiledRule, rules))


def readings_of(call: GuardInput, api: Api) -> Iterator[tuple[str, Spellings]]:
    """Every combination of method and path that an upstream may read from the call."""
    for path in call.paths:
        spellings = Spellings(path, api)
        for method in call.methods:
            yield method.upper(), spellings


class Verdict(Enum):
    """What the path lists say about a call."""

    CLOSED = "closed"
    NEEDS_TOKEN = "needs token"  # noqa: S105 - not a secret
    OPEN = "open"


class RuleList:
    """Rules of which it only matters whether any of them applies."""

    __slots__ = ("_any_method", "_by_method")

    def __init__(self, rules: Iterable[PathRule]) -> None:
        made = compiled_rules(rules)
        methods = {method for each in made for method in each.rule.methods}
        self._any_method = _Alternatives(each for each in made if not each.rule.methods)
        self._by_method = {
            method: _Alternatives(each for each in made if not each.rule.methods or method in each.rule.methods)
            for method in methods
        }

    def match(self, method: str, spellings: Spellings) -> bool:
        """Whether any rule applies to this method and path."""
        return self._by_method.get(method, self._any_method).match(spellings)


class _Alternatives:
    """Rules for one method. Those with a literal are only tried if the literal occurs in the path."""

    __slots__ = ("_literals", "_others", "_with_literal")

    def __init__(self, rules: Iterable[CompiledRule[PathRule]]) -> None:
        made = tuple(rules)
        self._with_literal = tuple(rule for rule in made if rule.literal)
        self._others = tuple(rule for rule in made if not rule.literal)
        self._literals = Literals([rule.literal for rule in self._with_literal])

    def match(self, spellings: Spellings) -> bool:
        """Whether any rule matches the path."""
        if any(rule.is_found(spellings) for rule in self._others):
            return True
        rules = self._with_literal
        return any(rules[number].is_found(spellings) for number in self._literals.found(spellings.whole))


@dataclass(frozen=True, slots=True)
class PathListGuard:
    """The path lists of one version."""

    internal: RuleList
    ignored: RuleList
    blocked: RuleList
    allowed: RuleList
    allowed_only: bool

    @classmethod
    def of(cls, guards: PathGuards) -> "PathListGuard | None":
        """The guard, or None if the version has no path lists."""
        if not (guards.internal or guards.ignored or guards.blocked or guards.allowed_only):
            return None
        return cls(
            internal=RuleList(guards.internal),
            ignored=RuleList(guards.ignored),
            blocked=RuleList(guards.blocked),
            allowed=RuleList(guards.allowed),
            allowed_only=guards.allowed_only,
        )

    def verdict(self, call: GuardInput, api: Api) -> Verdict:
        """The verdict over all readings of the call; CLOSED if there are none (fail closed)."""
        found = {self._of_reading(method, spellings) for method, spellings in readings_of(call, api)}
        if Verdict.CLOSED in found or not found:
            return Verdict.CLOSED
        return Verdict.OPEN if found == {Verdict.OPEN} else Verdict.NEEDS_TOKEN

    def _of_reading(self, method: str, spellings: Spellings) -> Verdict:
        if self.internal.match(method, spellings):
            return Verdict.CLOSED
        if self.ignored.match(method, spellings):
            return Verdict.OPEN
        if self.blocked.match(method, spellings):
            return Verdict.CLOSED
        closed = self.allowed_only and not self.allowed.match(method, spellings)
        return Verdict.CLOSED if closed else Verdict.NEEDS_TOKEN
