"""The shared clock: the machine's clock if it is right, MongoDB's otherwise."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from libs.runtime import utc_now
from libs.store import clock as clock_module
from libs.store.clock import TOLERANCE, SharedClock
from libs.store.mongo import Mongo
from tests.eventually import eventually
from tests.ports import free_port
from tests.provision import mongodb


@asynccontextmanager
async def opened(url: str, database: str, own: Callable[[], datetime]) -> AsyncIterator[SharedClock]:
    mongo = Mongo(url, database)
    clock = SharedClock(mongo, own)
    await mongo.open()
    await clock.open()
    try:
        yield clock
    finally:
        await clock.close()
        await mongo.close()


@pytest.mark.parametrize("seconds", [-3600, -60, -2, 2, 60, 3600])
async def test_a_wrong_clock_is_put_right(mongodb_url: str, database_name: str, seconds: int) -> None:
    """By the difference, so that no process takes a lease for expired that another has just taken."""
    async with opened(mongodb_url, database_name, lambda: utc_now() + timedelta(seconds=seconds)) as clock:
        assert abs(clock() - utc_now()) < TOLERANCE


@pytest.mark.parametrize("milliseconds", [0, 200, -200])
async def test_a_correct_clock_is_used(mongodb_url: str, database_name: str, milliseconds: int) -> None:
    """Synchronised clocks differ a little, and asking MongoDB is less exact than they are."""
    off = timedelta(milliseconds=milliseconds)
    async with opened(mongodb_url, database_name, lambda: utc_now() + off) as clock:
        assert abs(clock() - utc_now() - off) < timedelta(milliseconds=100)


async def test_times_are_whole_milliseconds(mongodb_url: str, database_name: str) -> None:
    """MongoDB stores milliseconds, so that what is written is what is read."""
    async with opened(mongodb_url, database_name, lambda: utc_now() + timedelta(seconds=60)) as clock:
        assert clock().microsecond % 1000 == 0


async def test_without_mongodb_the_own_clock_counts(database_name: str) -> None:
    """Without MongoDB the own clock is used; opening waits for a moment only."""
    off = timedelta(hours=1)
    url = f"mongodb://127.0.0.1:{free_port()}/?directConnection=true"
    async with opened(url, database_name, lambda: utc_now() + off) as clock:
        assert abs(clock() - utc_now() - off) < TOLERANCE


@pytest.mark.parametrize("jump", [-300, 300])
@pytest.mark.parametrize("agreed", [0, 3600], ids=["right-clock", "wrong-clock"])
async def test_b9_a_clock_that_jumps_changes_nothing(
    mongodb_url: str, database_name: str, monkeypatch: pytest.MonkeyPatch, jump: int, agreed: int
) -> None:
    """Neither before MongoDB is asked again nor afterwards, forwards or backwards."""
    monkeypatch.setattr(clock_module, "INTERVAL", 0.05)
    off = timedelta(seconds=agreed)
    asked = 0

    def own() -> datetime:
        nonlocal asked
        asked += 1
        return utc_now() + off

    async with opened(mongodb_url, database_name, own) as clock:
        before = clock()
        off += timedelta(seconds=jump)
        assert timedelta(0) <= clock() - before < TOLERANCE
        jumped_at = asked
        await eventually(lambda: asked > jumped_at + 3)
        assert abs(clock() - utc_now()) < TOLERANCE


async def test_b9_the_time_goes_on_steadily_between_two_readings(database_name: str) -> None:
    """By the time that passed, whatever the machine's clock says; never backwards, and in whole milliseconds."""
    seconds, own = 1000.0, utc_now()
    mongo = Mongo("mongodb://127.0.0.1:1/", database_name)
    clock = SharedClock(mongo, lambda: own, lambda: seconds)
    began = own
    for passed in (0.0004, 0.0015, 1.5, 86_400.0):
        own -= timedelta(days=1)
        seconds = 1000.0 + passed
        assert clock() - began == timedelta(milliseconds=int(passed * 1000))


async def test_the_time_is_known_once_mongodb_is_there(database_name: str) -> None:
    """A process that starts before MongoDB asks until it gets an answer."""
    server = await mongodb.own()
    try:
        await server.stop()
        async with opened(server.url, database_name, lambda: utc_now() + timedelta(seconds=60)) as clock:
            assert clock() - utc_now() > timedelta(seconds=59)
            await server.start()
            await eventually(lambda: abs(clock() - utc_now()) < TOLERANCE, within=30)
    finally:
        await server.close()
