"""Usage counters of the gateway: no write for each call, yet nothing is lost or counted twice."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.usage import UsageQuery
from libs.bus.local import LocalBus
from libs.oauth.errors import TemporarilyUnavailable
from libs.runtime import new_deps
from libs.store.mongo import Mongo
from libs.store.usage import Usage
from libs.telemetry import USAGE_LOST
from services.embedded import EmbeddedMongo
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from services.gateway.usage_counter import USAGE, UsageCounter
from tests.builders import running, settings
from tests.clock import Clock
from tests.eventually import eventually
from tests.store.lossy import Lossy

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=9)
HOUR = timedelta(hours=1)


class Gateway:
    """A usage counter with its own connection and clock."""

    def __init__(self, mongo: Mongo, **limits: int) -> None:
        self.mongo = mongo
        self.usage = Usage(mongo)
        self.clock = Clock(NOON + timedelta(minutes=10))
        self.counter = UsageCounter(self.usage, self.clock.now, **limits)

    async def rows(self) -> list[tuple[Any, ...]]:
        """The rows in MongoDB: hour, API, client, admitted calls, refusals by reason."""
        found = await self.usage.sums(UsageQuery(), NOON - HOUR, NOON + 9 * HOUR)
        return [(row.at, row.api_id, row.client_id, row.verified, row.reasons) for row in found.clients]

    async def updates(self) -> int:
        """Number of update commands that MongoDB has received."""
        status: Mapping[str, Any] = await self.mongo["usage"].database.command("serverStatus")
        return int(status["metrics"]["commands"]["update"]["total"])


@asynccontextmanager
async def opened(url: str, database: str, **limits: int) -> AsyncIterator[Gateway]:
    gateway = Gateway(Mongo(url, database), **limits)
    await gateway.mongo.open()
    await gateway.mongo.prepared()
    try:
        yield gateway
    finally:
        await gateway.mongo.close()


@pytest.fixture(name="gateway")
async def _gateway(mongodb_url: str, database_name: str) -> AsyncIterator[Gateway]:
    async with opened(mongodb_url, database_name) as gateway:
        yield gateway


async def test_counts_are_written(gateway: Gateway) -> None:
    """Calls are counted by API, client and reason; without a client, under none."""
    count = gateway.counter
    for _ in range(3):
        count.verified("api-1", "one")
    count.verified("api-2", "one")
    count.refused("api-1", "one", "expired")
    count.refused("api-1", "one", "quota")
    count.refused("api-1", None, "unknown_token")
    count.refused(None, None, "no_api")
    assert await gateway.rows() == []
    await count.write()
    assert await gateway.rows() == [
        (NOON, None, None, 0, {"no_api": 1}),
        (NOON, "api-1", None, 0, {"unknown_token": 1}),
        (NOON, "api-1", "one", 3, {"expired": 1, "quota": 1}),
        (NOON, "api-2", "one", 1, {}),
    ]


async def test_no_call_writes(gateway: Gateway) -> None:
    """Thousands of calls make three commands (hours, days, totals); no calls make none."""
    count = gateway.counter
    count.verified("api-1", "client-0")
    await count.write()
    before = await gateway.updates()
    for number in range(5000):
        count.verified("api-1", f"client-{number % 10}")
        count.refused("api-1", f"client-{number % 10}", "rate_limit")
    assert await gateway.updates() == before
    await count.write()
    assert await gateway.updates() == before + 3
    await count.write()
    assert await gateway.updates() == before + 3
    rows = await gateway.rows()
    assert sum(row[3] for row in rows) == 5001
    assert sum(row[4]["rate_limit"] for row in rows) == 5000


async def test_an_hour_has_its_own_numbers(gateway: Gateway) -> None:
    """Calls of the next hour are counted there."""
    for _ in range(2):
        gateway.counter.verified("api-1", "one")
        await gateway.counter.write()
        await gateway.clock.move(HOUR)
    assert await gateway.rows() == [(NOON, "api-1", "one", 1, {}), (NOON + HOUR, "api-1", "one", 1, {})]


async def test_gateways_count_together(gateway: Gateway) -> None:
    """Several gateways' counts are added, even if all start an hour at the same time."""
    counters = [gateway.counter, *(UsageCounter(gateway.usage, gateway.clock.now) for _ in range(9))]
    for _ in range(3):
        for counter in counters:
            counter.verified("api-1", "one")
        await asyncio.gather(*(counter.write() for counter in counters))
    assert await gateway.rows() == [(NOON, "api-1", "one", 30, {})]


# Without MongoDB


async def test_an_outage_loses_nothing(tmp_path: Path) -> None:
    """Counts made during an outage are written once afterwards, to the hour in which they were made."""
    async with EmbeddedMongo(tmp_path) as mongo, opened(mongo.url, "usage") as gateway:
        count = gateway.counter
        count.verified("api-1", "one")
        await count.write()
        mongo.kill()
        for _ in range(2):
            count.verified("api-1", "one")
            with pytest.raises(TemporarilyUnavailable):
                await count.write()
            await gateway.clock.move(HOUR)
        await mongo.restart()
        count.verified("api-1", "one")

        async def written() -> bool:
            try:
                await count.write()
            except TemporarilyUnavailable:
                return False
            return True

        await eventually(written, within=30)
        assert await gateway.rows() == [
            (NOON, "api-1", "one", 2, {}),
            (NOON + HOUR, "api-1", "one", 1, {}),
            (NOON + 2 * HOUR, "api-1", "one", 1, {}),
        ]


@pytest.mark.parametrize("what", ["question", "answer"])
async def test_a_write_whose_outcome_is_unknown_counts_once(mongodb_url: str, database_name: str, what: str) -> None:
    """If a write's outcome is unknown, the same numbers are sent again, and later counts after them."""
    with Lossy(mongodb_url).running() as lossy:
        async with opened(lossy.url, database_name) as gateway:
            count = gateway.counter
            count.verified("api-1", "one")
            lossy.lose("update", what)
            with pytest.raises(TemporarilyUnavailable):
                await count.write()
            assert lossy.lost.is_set()
            count.verified("api-1", "one")
            count.verified("api-1", "other")
            await count.write()
            assert await gateway.rows() == [(NOON, "api-1", "one", 2, {}), (NOON, "api-1", "other", 1, {})]


async def test_unwritten_counts_are_bounded(tmp_path: Path) -> None:
    """Unwritten counts are bounded: new keys beyond are dropped and reported as a metric; existing ones continue."""
    async with EmbeddedMongo(tmp_path) as mongo, opened(mongo.url, "usage", max_pending=3) as gateway:
        count, lost = gateway.counter, USAGE_LOST._value.get()
        count.verified("api-1", "one")
        mongo.kill()
        with pytest.raises(TemporarilyUnavailable):
            await count.write()
        for client in ("one", "two", "three", "four", "one", "two"):
            count.verified("api-1", client)
        assert USAGE_LOST._value.get() - lost == 2
        await mongo.restart()

        async def written() -> list[tuple[Any, ...]]:
            await asyncio.gather(count.write(), return_exceptions=True)
            return await gateway.rows()

        rows = await eventually(written, within=30)
        assert [(row[2], row[3]) for row in rows] == [("one", 3), ("two", 2)]
        for client in ("three", "four", "five"):
            count.verified("api-1", client)
        assert USAGE_LOST._value.get() - lost == 2


# In a running gateway


async def counted(url: str, database: str) -> int:
    """Admitted calls in MongoDB, as another process reads them."""
    async with opened(url, database) as reader:
        found = await reader.usage.sums(
            UsageQuery(), datetime(2026, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
        )
    return found.total.verified


async def test_a_gateway_writes_every_second_and_at_its_end(mongodb_url: str, database_name: str) -> None:
    """Counts are written every second and at a graceful stop."""
    configured = settings(GatewaySettings, mongodb_url, database_name)
    app = create_app(configured, new_deps(configured, "gateway", bus=LocalBus()))
    async with running(app):
        app[USAGE].verified("api-1", "one")

        async def written() -> bool:
            return await counted(mongodb_url, database_name) == 1

        await eventually(written)
        app[USAGE].verified("api-1", "one")
        app[USAGE].verified("api-1", "two")
    assert await counted(mongodb_url, database_name) == 3


async def test_a_gateway_ends_in_time_without_mongodb(tmp_path: Path) -> None:
    """Without MongoDB the gateway stops in time, and loses what it could not write."""
    async with EmbeddedMongo(tmp_path) as mongo:
        configured = settings(GatewaySettings, mongo.url, "usage")
        app = create_app(configured, new_deps(configured, "gateway", bus=LocalBus()))
        async with running(app):
            app[USAGE].verified("api-1", "one")
            mongo.kill()
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 40
