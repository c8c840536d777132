"""What the parent adds to the metrics of its workers: a series for each of them, and its own memory and time."""

import os
from collections.abc import Iterator
from pathlib import Path

from libs.workers.metric_families import Families

_REQUESTS = "tokenwire_http_requests_total"
_SECONDS = "process_cpu_seconds_total"
_MEMORY = "process_resident_memory_bytes"
_STARTED = "process_start_time_seconds"
_LAG = "tokenwire_event_loop_lag_seconds"


def add_worker(families: Families, number: int, own: Families, *, restarts: int, is_up: bool) -> None:
    """Add the series of one worker. `own` are its metrics, with the counters of its processes that have ended.

    They are declared in libs/telemetry.py, so `families` has them already, without a series.
    """
    label = (("worker", str(number)),)
    values = {
        "tokenwire_worker_up": float(is_up),
        "tokenwire_worker_restarts_total": restarts,
        "tokenwire_worker_http_requests_total": own.total(_REQUESTS),
        "tokenwire_worker_cpu_seconds_total": own.total(_SECONDS),
    }
    if is_up:
        values["tokenwire_worker_resident_memory_bytes"] = own.total(_MEMORY)
        values["tokenwire_worker_event_loop_lag_seconds"] = own.total(_LAG)
    for name, value in values.items():
        families.family(name.removesuffix("_total"), "").add(name, label, value)


def add_parent(families: Families) -> None:
    """Add this process's memory and processor time; the service was started when it was."""
    statistics = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    memory = int(statistics[21]) * os.sysconf("SC_PAGE_SIZE")
    families.family(_MEMORY, "").add(_MEMORY, (), memory)
    families.family("process_cpu_seconds", "").add(_SECONDS, (), (int(statistics[11]) + int(statistics[12])) / ticks)
    started = next(_boot_times()) + int(statistics[19]) / ticks
    families.family(_STARTED, "").samples[_STARTED, ()] = started


def _boot_times() -> Iterator[float]:
    """When the machine was started, as Unix time."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            yield float(line.split()[1])
    yield 0.0
