"""Query strings as different servers read them: separators, encoding, case and parameter names are not standardized."""

import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote_plus

_SEPARATORS = re.compile("[&;]")
"""`;` also separates parameters, for servers that follow HTML 4 appendix B.2.2."""
_BRACKETS = re.compile(r"[\[\]]")
_PUNCTUATION = re.compile(r"[\W_]+")
_DECODINGS = 3
"""How often a name is decoded, because a chain of servers may decode it more than once."""
_OVERRIDES = frozenset(
    {"-method", "-httpmethod", "-http-method", "x-http-method", "x-http-method-override", "x-method-override"}
)


def named_value(query: str, key: str) -> str | list[str] | None:
    """The decoded value of this parameter, or None.

    If servers could disagree, the result is a list of every value that some server may use: the parameter is repeated,
    separated by `;`, or spelled differently (`KEY`, `%6bey` decoded twice, `key[]`, ` key`, `[key]`).
    """
    wanted, exact, others = _folded(key), list[str](), list[str]()
    for pair in query.split("&"):
        pieces = _SEPARATORS.split(pair)
        for piece in pieces:
            name, _, value = piece.partition("=")
            decoded = unquote_plus(name)
            if decoded == key and len(pieces) == 1:
                exact.append(unquote_plus(value))
            elif decoded == key or any(_folded(spelling) == wanted for spelling in _decoded(name)):
                others.append(unquote_plus(value))
    if others or len(exact) > 1:
        return exact + others
    return exact[0] if exact else None


def overriding_methods(query: str) -> Iterator[str]:
    """The methods that parameters such as `_method` would override the request's method with, in capitals."""
    if "%" not in query and "method" not in query.lower():
        return
    for piece in _SEPARATORS.split(query):
        name, _, value = piece.partition("=")
        for spelling in _decoded(name):
            if _variable(spelling) in _OVERRIDES:
                yield unquote_plus(value).strip().upper()
                break


def without_parameter(query: str, name: str | None) -> str:
    """The query without this parameter; the others stay byte for byte."""
    if not name:
        return query
    return "&".join(pair for pair in query.split("&") if unquote_plus(pair.partition("=")[0]) != name)


def _decoded(name: str) -> Iterator[str]:
    for _ in range(_DECODINGS):
        decoded = unquote_plus(name)
        yield decoded
        if decoded == name:
            return
        name = decoded


def _folded(name: str) -> str:
    """The name without what some server ignores: case, brackets, punctuation, a NUL byte and what follows it."""
    name = name.partition("\0")[0]
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name)
    name = _BRACKETS.split(name.lstrip("[ "), maxsplit=1)[0]
    return _PUNCTUATION.sub("-", name.casefold()).strip("-")


def _variable(name: str) -> str:
    """The variable name that PHP would derive from it, with hyphens instead of underscores."""
    name = name.partition("\0")[0].lstrip(" ").lower()
    return _PUNCTUATION.sub("-", name[:1] + _BRACKETS.split(name[1:], maxsplit=1)[0])
