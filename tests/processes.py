"""Processes running on this machine."""

from collections.abc import Iterator
from pathlib import Path

_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def runs(pid: int) -> bool:
    """True while the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except _GONE:
        return False
    return state not in "ZX"


def started_with(entry: str) -> set[str]:
    """Names of our running programs that were started with this `NAME=value` in their environment."""
    return {name for _, name in _started_with(entry)}


def pids_of(program: str, entry: str) -> list[int]:
    """Process ids of those programs with this name."""
    return [pid for pid, name in _started_with(entry) if name == program]


def _started_with(entry: str) -> Iterator[tuple[int, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"\0{entry}\0" in f"\0{(process / 'environ').read_text(errors='replace')}":
                yield int(process.name), (process / "comm").read_text().strip()
        except _GONE:
            continue
