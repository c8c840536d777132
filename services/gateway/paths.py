"""A path as whoever forwards the call may read it: proxies differ, and the call goes where theirs leads."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

from contracts.apis import Api

ORIGIN_FORM = re.compile(r"/[\x21\x22\x24-\x7e]*")
"""Path and query as a request line has them (RFC 9112 §3.2.1)."""
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
    spelled = _spellings(path)
    return frozenset(spelled | {_resolved(spelling) for spelling in spelled})


def below(path: str, api: Api) -> str:
    """What follows the listen path of the API in the path, or its id: empty, or begun with a slash."""
    place = api.listen_path if f"{path}/".startswith(api.listen_path) else f"/{api.api_id}/"
    return path[len(place) - 1 :]


def leads_out(path: str) -> bool:
    """Whether the path, in some reading, climbs above the place that it is appended to."""
    return not _CLEAR.fullmatch(path) and any(_climbs(spelling) for spelling in _spellings(path))


def _spellings(path: str) -> set[str]:
    spelled = set(_decoded(path))
    spelled |= {spelling.replace("\\", "/") for spelling in spelled}
    merged = spelled | {re.sub("/+", "/", spelling) for spelling in spelled}
    return merged | {_PARAMETER.sub("", spelling) for spelling in merged}


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


def _climbs(path: str) -> bool:
    depth = 0
    for segment in path.split("/"):
        if segment == "..":
            depth -= 1
        elif segment not in {"", "."}:
            depth += 1
        if depth < 0:
            return True
    return False
