"""Which routing keys a binding key takes in, as a topic exchange decides it."""

from collections.abc import Sequence


def matches(binding: str, key: str) -> bool:
    """True when `binding` takes in `key`: `*` stands for exactly one dot-separated word, `#` for any number of them."""
    return _matches(binding.split("."), key.split("."))


def _matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    if not pattern:
        return not words
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(_matches(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and head in ("*", words[0]) and _matches(rest, words[1:])
