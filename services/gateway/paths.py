"""Readings of a path: every path that some proxy or server may make of the one that was sent.

Servers differ in what they decode, merge and resolve. The decision is made for all readings, so that an upstream which
reads a path differently from the gateway never serves something that the caller may not access (ADR 15).
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote

from contracts.apis import Api

ORIGIN_FORM = re.compile(r"/[\x21\x22\x24-\x7e]*")
"""Path and query of a request line (RFC 9112 §3.2.1)."""
_CLEAR = re.compile(r"(/[^/.%;\\][^/%;\\]*)*/?")
"""A path that every server reads in the same way: no empty segments, leading dots, parameters or encoded characters."""
_PARAMETER = re.compile(r";[^/]*")
"""A path parameter: some servers drop it, and then treat `..;x` as `..`."""
_SLASHES = re.compile("/{2,}")
_MOST_READINGS = 128
_MOST_TEXT = 32 * 1024
"""Characters of all readings of one path together: bounds the time that one path can cost."""


def readings(path: str) -> frozenset[str]:
    """Every path that some chain of servers may make of this one, including the path itself.

    They may, in any order and repeatedly: decode it, replace backslashes by slashes, merge repeated slashes, drop
    parameters (`;x`), and resolve `.` and `..`. Empty if there are too many: over 128, or over 32 KiB together.
    """
    if _CLEAR.fullmatch(path):
        return frozenset((path,))
    found, text = {path: None}, len(path)
    for known in (waiting := [path]):
        for other in _read_otherwise(known):
            if other in found:
                continue
            text += len(other)
            if len(found) == _MOST_READINGS or text > _MOST_TEXT:
                return frozenset()
            found[other] = None
            waiting.append(other)
    return frozenset(found)


def below(path: str, api: Api) -> str:
    """The part of the path after the API's listen path (or its id): empty, or starting with a slash."""
    below_id = f"/{api.api_id}/"
    if api.listen_path == "/":
        return path[len(below_id) - 1 :] if f"{path}/".startswith(below_id) else path
    prefix = api.listen_path if f"{path}/".startswith(api.listen_path) else below_id
    return path[len(prefix) - 1 :]


def leads_out(path: str) -> bool:
    """Whether some reading of the path climbs out of the upstream's base path, or the path has too many readings."""
    if _CLEAR.fullmatch(path):
        return False
    found = readings(path)
    return not found or any(map(_climbs, found))


def _read_otherwise(path: str) -> Iterator[str]:
    if "%" in path:
        yield unquote(path)
    if "\\" in path:
        yield path.replace("\\", "/")
    if "//" in path:
        yield _SLASHES.sub("/", path)
    if ";" in path:
        yield _PARAMETER.sub("", path)
    if "/." in path:
        yield _resolved(path)


def _resolved(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
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
