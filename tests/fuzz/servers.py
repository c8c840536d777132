"""Models of how common servers read a request: path, version, method and headers.

Written from those servers' documentation and behaviour, independently of the gateway's code.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, unquote_plus

Line = tuple[str, str]


@dataclass(frozen=True)
class Seen:
    """A request as received."""

    method: str
    path: str
    query: str
    lines: Sequence[Line]

    @classmethod
    def of(cls, head: bytes) -> "Seen":
        """Parse the bytes up to the empty line."""
        first, *rest = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        return cls(method, path, query, [(name, value.strip()) for name, _, value in (x.partition(":") for x in rest)])


# Paths


def _dots(path: str) -> str:
    """RFC 3986 §5.2.4; `..` at the root is dropped."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def _merged(path: str) -> str:
    return re.sub("/+", "/", path)


def nginx(path: str) -> str:
    """Decodes, merges slashes, resolves dots."""
    return _dots(_merged(unquote(path)))


def go(path: str) -> str:
    """net/http decodes; ServeMux redirects to the cleaned path."""
    return _dots(_merged(unquote(path)))


def express(path: str) -> str:
    """Matches the raw path case-insensitively, and decodes parameters."""
    return unquote(path).lower()


def tomcat(path: str) -> str:
    """Removes path parameters, decodes, resolves dots."""
    return _dots(unquote(re.sub(";[^/]*", "", path)))


def spring(path: str) -> str:
    """The same, after merging slashes."""
    return tomcat(_merged(path))


def iis(path: str) -> str:
    """Decodes, treats backslashes as slashes, ignores case, and dots and spaces at a segment's end."""
    path = _dots(_merged(unquote(path).replace("\\", "/")))
    return "/".join(segment.rstrip(". ") for segment in path.lower().split("/"))


def plain(path: str) -> str:
    """Uses the path as it is."""
    return path


def jetty(path: str) -> str:
    """Resolves dots before decoding."""
    return unquote(_dots(re.sub(";[^/]*", "", path)))


PATHS: Sequence[Callable[[str], str]] = (plain, nginx, go, express, tomcat, spring, iis, jetty)


def served_paths(path: str) -> Iterator[tuple[str, str]]:
    """The path that each server uses, alone and behind another that forwards its version of it."""
    for first, second in itertools.product(PATHS, repeat=2):
        yield f"{first.__name__}, {second.__name__}", second(first(path))


# Queries


def _pairs(query: str, separators: str = "&") -> list[Line]:
    pieces = (piece.partition("=") for piece in re.split(f"[{separators}]", query) if piece)
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pieces]


def _php_name(name: str) -> str:
    name = name.partition("\0")[0].lstrip(" ")
    head, bracket, _ = name.partition("[")
    return re.sub(r"[ .\[]", "_", head if head and bracket else name)


def _qs_name(name: str) -> str:
    return re.split(r"[\[\]]", name.removeprefix("["))[0]


def query_values(query: str, key: str) -> Iterator[tuple[str, str]]:
    """The value that each server uses for the query parameter: first, last, or all."""
    ways: dict[str, Iterable[Line]] = {
        "go": [pair for piece in query.split("&") if ";" not in piece for pair in _pairs(piece)],
        "servlet": _pairs(query),
        "old python, rack": _pairs(query, "&;"),
        "php": [(_php_name(name), value) for name, value in _pairs(query)],
        "qs": [(_qs_name(name), value) for name, value in _pairs(query)],
        "asp.net": [(name.lower(), value) for name, value in _pairs(query)],
        "decoded twice": [(unquote_plus(name), unquote_plus(value)) for name, value in _pairs(query)],
    }
    for server, pairs in ways.items():
        wanted = key.lower() if server == "asp.net" else key
        values = [value for name, value in pairs if name == wanted]
        yield from ((server, value) for value in (*values[:1], *values[-1:]))


# Headers


def _folded(name: str) -> str:
    return re.sub("[^a-z0-9]", "_", name.lower())


def header_values(lines: Sequence[Line], name: str) -> Iterator[tuple[str, str]]:
    """The value that each server uses for the header: by name or by CGI variable, first, last or joined."""
    ways = {
        "go, servlet": [value for other, value in lines if other.lower() == name.lower()],
        "wsgi": [value for other, value in lines if other.lower().replace("-", "_") == name.lower().replace("-", "_")],
        "cgi": [value for other, value in lines if _folded(other) == _folded(name)],
    }
    for server, values in ways.items():
        elements = [element.strip() for value in values for element in value.split(",")]
        yield from ((server, value) for value in (*values[:1], *values[-1:], *elements[:1], *elements[-1:]))


OVERRIDES = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
REWRITES = ("X-Original-URL", "X-Rewrite-URL", "X-Original-URI", "X-Forwarded-Uri")


def methods(seen: Seen) -> Iterator[tuple[str, str]]:
    """The method that each server uses."""
    yield "all", seen.method
    for name in OVERRIDES:
        yield from ((f"{server}: {name}", value.upper()) for server, value in header_values(seen.lines, name))
    yield from ((f"{server}: _method", value.upper()) for server, value in query_values(seen.query, "_method"))


def paths(seen: Seen) -> Iterator[tuple[str, str]]:
    """The path that each server uses."""
    yield from served_paths(seen.path)
    for name in REWRITES:
        yield from ((f"{server}: {name}", value) for server, value in header_values(seen.lines, name))
