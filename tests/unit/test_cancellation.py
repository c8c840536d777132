"""Tasks end when they are to end, even if a library drops a cancellation."""

import asyncio

import pytest

from libs import cancellation
from libs.cancellation import cancel_and_wait
from libs.supervision import Supervisor


class Dropping:
    """Work in rounds, of which the first drops the cancellation that arrives in it."""

    def __init__(self) -> None:
        self.began, self.rounds = asyncio.Event(), 0

    async def round(self) -> None:
        self.rounds += 1
        self.began.set()
        try:
            await asyncio.sleep(0.01 if self.rounds > 1 else 60)
        except asyncio.CancelledError:
            if self.rounds > 1:
                raise

    async def forever(self) -> None:
        while True:
            await self.round()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "AGAIN_AFTER", 0.1)


async def test_a_task_that_goes_on_is_cancelled_again() -> None:
    work = Dropping()
    task = asyncio.create_task(work.forever())
    await work.began.wait()
    async with asyncio.timeout(30):
        await cancel_and_wait(task)
    assert task.cancelled()
    assert work.rounds > 1


@pytest.mark.parametrize("periodic", [True, False])
async def test_a_supervised_task_that_drops_its_cancellation_is_stopped(periodic: bool) -> None:
    """Stopping a process would otherwise wait for it until the process is killed."""
    work, supervisor = Dropping(), Supervisor()
    task = supervisor.every("x", 0, work.round) if periodic else supervisor.start("x", work.forever)
    await work.began.wait()
    async with asyncio.timeout(30):
        await task.stop()
    assert work.rounds > 1


async def test_tasks_that_ended_or_fail_meanwhile_are_no_error() -> None:
    async def fails() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError

    ended, failing = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(fails())
    await asyncio.sleep(0.01)
    await cancel_and_wait(ended, failing)
    assert isinstance(failing.exception(), ValueError)
