"""How many workers a service has: the setting, and the cores that are available to this process."""

import os
from collections.abc import Iterator
from pathlib import Path

AUTO = "auto"
MOST = 128
"""Workers of one service."""
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def worker_count(value: object) -> object:
    """The number for `auto`: the available cores. Anything else is returned as it is.

    Raises ValueError for a text that is neither.
    """
    if not isinstance(value, str):
        return value
    if value.strip() == AUTO:
        return min(available_cores(), MOST)
    if not value.strip().isdecimal():
        raise ValueError(f"a whole number from 1 to {MOST}, or auto")
    return int(value)


def available_cores(groups: Path = _GROUPS, own_group: Path = _OWN_GROUP) -> int:
    """Cores that this process may use: its CPU affinity, and no more than the CPU quotas of its control groups allow.

    A quota is rounded down, because a worker needs a whole core, but at least one core is available.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(int, _quotas(groups, own_group))]))


def _quotas(groups: Path, own_group: Path) -> Iterator[float]:
    """Quotas in cores, of the process's control group and all groups above it (cgroup v2), or of the container (v1)."""
    group = groups / _path_of(own_group)
    for directory in (group, *group.parents):
        if not directory.is_relative_to(groups):
            break
        quota, _, period = _text(directory / "cpu.max").partition(" ")
        yield from _cores(quota, period)
    yield from _cores(_text(groups / "cpu" / "cpu.cfs_quota_us"), _text(groups / "cpu" / "cpu.cfs_period_us"))


def _path_of(own_group: Path) -> str:
    """The path of the process's own group in cgroup v2; empty if it is the root, as seen in a container."""
    for line in _text(own_group).splitlines():
        if line.startswith("0::/"):
            return line.removeprefix("0::/")
    return ""


def _cores(quota: str, period: str) -> Iterator[float]:
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield int(quota) / int(period)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
