"""Failing background tasks are logged, counted, retried and reported; they end only when stopped."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import structlog

from libs.oauth.errors import TemporarilyUnavailable
from libs.supervision import BackgroundTaskFailed, Backoff, Supervisor, error_fields, spawn
from libs.telemetry import BACKGROUND_FAILURES, BACKGROUND_UP
from tests.eventually import eventually

QUICK = Backoff(first_delay=0.01, longest_delay=0.05, recovered_after=0.05)


class Unforeseen(Exception):
    """An exception that no loop handles."""


def failing(times: int, then: Callable[[], Awaitable[None]]) -> tuple[Callable[[], Awaitable[None]], list[int]]:
    """Work that fails this many times first; records its runs."""
    runs: list[int] = []

    async def run() -> None:
        runs.append(len(runs) + 1)
        if len(runs) <= times:
            raise Unforeseen("tw_at_secret of somebody")
        await then()

    return run, runs


async def forever() -> None:
    await asyncio.Event().wait()


def failures(task: str) -> float:
    return float(BACKGROUND_FAILURES.labels(task)._value.get())


async def test_b3_a_failed_task_is_logged_counted_and_started_again() -> None:
    """The log has type and place of a failure, never its text, which may contain a secret."""
    supervisor = Supervisor(QUICK)
    run, runs = failing(3, forever)
    with structlog.testing.capture_logs() as logs:
        task = supervisor.start("b3-again", run)
        await eventually(lambda: len(runs) == 4)
        await eventually(lambda: task.failure is None)
    failed = [line for line in logs if line["event"] == "background_task_failed"]
    assert [line["failures"] for line in failed] == [1, 2, 3]
    assert all(line["task"] == "b3-again" and line["error"] == "Unforeseen" for line in failed)
    assert "test_supervision.py" in failed[0]["at"][-1]
    assert "secret" not in repr(logs)
    assert [line["event"] for line in logs][-1] == "background_task_recovered"
    assert failures("b3-again") == 3
    await task.stop()
    assert supervisor.tasks == ()


async def test_b3_a_failed_task_makes_the_process_unready_until_it_runs_again() -> None:
    """A failed essential task makes the process unready, with the error's type, until it has run for a while."""
    supervisor = Supervisor(QUICK)
    gate = asyncio.Event()

    async def run() -> None:
        await gate.wait()
        gate.clear()
        raise Unforeseen

    needed = supervisor.start("b3-needed", run)
    await supervisor.ping(essential=True)
    gate.set()
    await eventually(lambda: needed.failure is not None)
    with pytest.raises(BackgroundTaskFailed, match=r"b3-needed failed \(Unforeseen\)"):
        await supervisor.ping(essential=True)
    assert BACKGROUND_UP.labels("b3-needed")._value.get() == 0
    await eventually(lambda: needed.failure is None)
    assert BACKGROUND_UP.labels("b3-needed")._value.get() == 1
    await supervisor.ping(essential=True)
    unneeded = supervisor.start("b3-unneeded", failing(1, forever)[0], essential=False)
    await eventually(lambda: unneeded.failure is not None)
    await supervisor.ping(essential=True)
    assert supervisor.failures(essential=False) == {"b3-unneeded": "Unforeseen"}
    await asyncio.gather(needed.stop(), unneeded.stop())


async def test_b3_repeated_work_recovers_with_its_first_success() -> None:
    """A known outage is not a failure: the work is repeated at its usual interval."""
    supervisor = Supervisor(Backoff(first_delay=0.01, longest_delay=0.05, recovered_after=3600))
    faults: list[Exception] = [TemporarilyUnavailable("away", detail="away"), Unforeseen(), Unforeseen()]
    done: list[str | None] = []

    async def work() -> None:
        if faults:
            raise faults.pop(0)
        done.append(task.failure)

    with structlog.testing.capture_logs() as logs:
        task = supervisor.every("b3-every", 0.001, work)
        await eventually(lambda: len(done) > 1)
    assert done[:2] == ["Unforeseen", None]
    assert failures("b3-every") == 2
    assert logs[0]["event"] == "background_task_postponed"
    await task.stop()


async def test_b3_only_stopping_cancels_a_task() -> None:
    """Only `stop` ends a task, even during a delay; a cancellation from a library does not."""
    supervisor = Supervisor(QUICK)
    loop = asyncio.get_running_loop()
    waits = [loop.create_future(), loop.create_future()]
    waiting = iter(waits)

    async def run() -> None:
        await next(waiting)

    task = supervisor.start("b3-cancelled", run)
    await asyncio.sleep(0)
    waits[0].cancel()
    await eventually(lambda: task.failure == "CancelledError")
    await task.stop()
    assert task.ended
    pausing = Supervisor(Backoff(first_delay=3600)).start("b3-pausing", failing(1, forever)[0])
    await eventually(lambda: pausing.failure is not None)
    await pausing.stop()
    assert pausing.ended


async def test_b3_a_task_may_end_by_itself_before_it_is_stopped() -> None:
    """A task may return by itself; `stop` waits for that up to the given time."""
    supervisor = Supervisor(QUICK)
    over = asyncio.Event()
    ended: list[bool] = []

    async def run() -> None:
        await over.wait()
        ended.append(True)

    task = supervisor.start("b3-ends", run)
    asyncio.get_running_loop().call_later(0.05, over.set)
    await task.stop(within=5)
    assert ended == [True]


async def test_b3_the_delay_doubles_up_to_the_longest() -> None:
    """The backoff doubles up to the longest, with jitter of up to half."""
    backoff = Backoff(first_delay=1, longest_delay=30)
    for failed, delay in ((1, 1), (2, 2), (5, 16), (6, 30), (1000, 30)):
        assert delay / 2 <= backoff.delay(failed) <= delay


async def test_b3_a_short_task_does_not_vanish_silently() -> None:
    """A failing short task is logged and counted, even if it is never awaited."""

    async def work() -> None:
        raise Unforeseen

    with structlog.testing.capture_logs() as logs:
        task = spawn("b3-short", work())
        await asyncio.wait((task,))
        await asyncio.sleep(0)
    assert [(line["event"], line["task"], line["error"]) for line in logs] == [
        ("background_work_failed", "b3-short", "Unforeseen")
    ]
    assert failures("b3-short") == 1


def test_b3_a_database_error_is_reported_with_its_number() -> None:
    """A database error's code and cause are logged, without the text."""

    class Refused(Exception):
        code = 8000

    try:
        try:
            raise ValueError("secret")
        except ValueError as cause:
            raise Refused("secret") from cause
    except Refused as error:
        facts = error_fields(error)
    assert (facts["error"], facts["cause"]) == ("Refused 8000", "ValueError")
    assert "secret" not in repr(facts)
