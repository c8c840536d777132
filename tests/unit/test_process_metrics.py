"""Metrics of the process: the lag of the event loop, and the container's memory limit."""

import asyncio
import time
from pathlib import Path

import pytest

from libs.process_metrics import EventLoopLag, memory_limit
from libs.telemetry import exposition
from tests.eventually import eventually


def lag() -> float:
    """The value of the metric, as Prometheus reads it."""
    (line,) = [
        line for line in exposition().decode().splitlines() if line.startswith("tokenwire_event_loop_lag_seconds ")
    ]
    return float(line.split()[1])


async def test_a_blocked_event_loop_is_seen_for_a_scrape_interval() -> None:
    """Something that blocks the event loop shows in the metric, and later measurements do not hide it."""
    task = asyncio.create_task(EventLoopLag(every=0.01).watch())
    try:
        await asyncio.sleep(0.05)
        time.sleep(0.3)
        await eventually(lambda: lag() >= 0.25)
        await asyncio.sleep(0.05)
        assert lag() >= 0.25
    finally:
        task.cancel()


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        pytest.param("536870912\n", 536_870_912, id="limit"),
        pytest.param("max\n", None, id="no-limit"),
        pytest.param(None, None, id="no-cgroup"),
    ],
)
def test_the_memory_limit_is_the_containers(tmp_path: Path, content: str | None, limit: int | None) -> None:
    """The limit comes from the cgroup; without one there is none."""
    file = tmp_path / "memory.max"
    if content is not None:
        file.write_text(content)
    assert memory_limit(file) == limit
