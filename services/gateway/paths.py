"""A path as whoever forwards the call may read it: proxies differ, and the call goes where theirs leads."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

_CLEAR = re.compile(r"(/[^/.%;\\][^/%;\\]*)*/?")
"""No empty segment, none that begins with a dot, no parameter, nothing encoded: every proxy reads it alike."""
_PARAMETER = re.compile(r";[^/]*")
"""What follows the semicolon is a parameter of its segment to some servers, which take `..;x` for `..`."""
_DECODINGS = 3
"""A chain of proxies may decode more than once."""


def readings(path: str) -> frozenset[str]:
    """The path, and all that it is once decoded, its backslashes taken for slashes, `//`, `.` and `..` resolved."""
    if _CLEAR.fullmatch(path):
        return frozenset({path})
    spelled = set(_decoded(path))
    spelled |= {spelling.replace("\\", "/") for spelling in spelled}
    merged = spelled | {re.sub("/+", "/", spelling) for spelling in spelled}
    merged |= {_PARAMETER.sub("", spelling) for spelling in merged}
    return frozenset(merged | {_resolved(spelling) for spelling in merged})


def _decoded(path: str) -> Iterator[str]:
    for _ in range(_DECODINGS + 1):
        yield path
        path = unquote(path)


def _resolved(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1] if len(kept) > 1 else kept
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept)
