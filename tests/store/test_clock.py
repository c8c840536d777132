"""The clock that processes share: theirs where it is right, MongoDB's where it is not."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from libs.runtime import utc_now
from libs.store.clock import AGREES, SharedClock
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
    """By as much as it is off, so that no process takes for over what another has just begun."""
    async with opened(mongodb_url, database_name, lambda: utc_now() + timedelta(seconds=seconds)) as clock:
        assert abs(clock() - utc_now()) < AGREES


@pytest.mark.parametrize("milliseconds", [0, 200, -200])
async def test_a_right_clock_is_left_alone(mongodb_url: str, database_name: str, milliseconds: int) -> None:
    """Clocks that are kept right differ a little, and asking is less exact than they are."""
    own = utc_now() + timedelta(milliseconds=milliseconds)
    async with opened(mongodb_url, database_name, lambda: own) as clock:
        assert clock() == own


async def test_times_are_whole_milliseconds(mongodb_url: str, database_name: str) -> None:
    """As MongoDB keeps them: what is written is what is read."""
    async with opened(mongodb_url, database_name, lambda: utc_now() + timedelta(seconds=60)) as clock:
        assert clock().microsecond % 1000 == 0


async def test_without_mongodb_the_own_clock_counts(database_name: str) -> None:
    """Opening waits for a moment only."""
    own = utc_now()
    url = f"mongodb://127.0.0.1:{free_port()}/?directConnection=true"
    async with opened(url, database_name, lambda: own) as clock:
        assert clock() == own


async def test_the_time_is_known_once_mongodb_is_there(database_name: str) -> None:
    """A process that started first asks until it is answered."""
    server = await mongodb.own()
    try:
        await server.stop()
        async with opened(server.url, database_name, lambda: utc_now() + timedelta(seconds=60)) as clock:
            assert clock() - utc_now() > timedelta(seconds=59)
            await server.start()
            await eventually(lambda: abs(clock() - utc_now()) < AGREES, within=30)
    finally:
        await server.close()
