"""What runs on this machine."""

from pathlib import Path

_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def runs(pid: int) -> bool:
    """True while the process exists and is not merely waiting to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except _GONE:
        return False
    return state not in "ZX"


def started_with(entry: str) -> set[str]:
    """Names of the running programs of ours that have this `NAME=value` in the environment they were started with."""
    names = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"\0{entry}\0" in f"\0{(process / 'environ').read_text(errors='replace')}":
                names.add((process / "comm").read_text().strip())
        except _GONE:
            continue
    return names
