"""Finds which of many literal texts occur in a path, in one pass however many there are."""

from collections.abc import Sequence

import re2

FEW = 8
"""Up to this many texts are searched one by one."""
_AT_ONCE = 1000
"""Texts in one automaton."""
_MEMORY = 8 << 20
"""Memory limit of an automaton in bytes; RE2 builds it lazily, so it uses a small part of that."""


class Literals:
    """Literal texts that are searched together.

    Why not one regular expression for all rules: with parameters in many of them it needs more memory than RE2 may use,
    and RE2 then falls back to a search whose time grows with the number of rules for every character of the path. An
    automaton of literal texts stays small.
    """

    __slots__ = ("_automata", "_texts")

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._texts = texts
        self._automata = [] if len(texts) <= FEW else [_automaton(texts, at) for at in range(0, len(texts), _AT_ONCE)]

    def found(self, text: bytes) -> Sequence[int]:
        """The indexes of the texts that occur in this one."""
        if not self._automata:
            return [place for place, literal in enumerate(self._texts) if literal in text]
        return [place for at, automaton in self._automata for place in _places(automaton, at, text)]


def _automaton(texts: Sequence[bytes], at: int) -> tuple[int, re2.Set]:
    options = re2.Options()
    options.literal = True
    options.log_errors = False
    options.max_mem = _MEMORY
    automaton = re2.Set.SearchSet(options)
    for text in texts[at : at + _AT_ONCE]:
        automaton.Add(text)
    automaton.Compile()
    return at, automaton


def _places(automaton: re2.Set, at: int, text: bytes) -> list[int]:
    return [at + place for place in automaton.Match(text) or ()]  # Match returns None if there is no match
