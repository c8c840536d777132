"""Usage in MongoDB: a batch counts once, whatever becomes of its attempts, and the sums are what was counted."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.usage import ClientUsage, UsageAnswer, UsagePeriod, UsageQuery
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import Mongo
from libs.store.usage import KEPT, Usage, UsageKey, hour_of, new_source
from tests.store.lossy import Lossy

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
KEY = UsageKey(NOON, "api-1", "client.1")


class Shelf:
    """The collection on a database of its own."""

    def __init__(self, mongo: Mongo) -> None:
        self.mongo = mongo
        self.usage = Usage(mongo)
        self.source, self.number = new_source(), 0

    async def count(
        self, *moments: datetime, api: str | None = "api-1", client: str | None = "client.1", **n: int
    ) -> None:
        """The same numbers in the hours of these moments."""
        self.number += 1
        counts = {UsageKey(hour_of(moment), api, client): n for moment in moments or (NOON,)}
        await self.usage.add(self.source, self.number, counts)

    async def sums(self, since: datetime = NOON - DAY, until: datetime = NOON + DAY, **query: Any) -> UsageAnswer:
        return await self.usage.sums(UsageQuery.model_validate(query), since, until)

    async def numbers(self, key: UsageKey = KEY) -> Mapping[str, int]:
        """What is counted under this key."""
        document = await self.mongo["usage"].find_one({"_id": key.row})
        return dict(document["counts"]) if document else {}


@asynccontextmanager
async def opened(url: str, database: str) -> AsyncIterator[Shelf]:
    mongo = Mongo(url, database)
    shelf = Shelf(mongo)
    await mongo.open()
    await mongo.prepared()
    try:
        yield shelf
    finally:
        await mongo.close()


@pytest.fixture(name="shelf")
async def _shelf(mongodb_url: str, database_name: str) -> AsyncIterator[Shelf]:
    async with opened(mongodb_url, database_name) as shelf:
        yield shelf


# A batch counts once


async def test_a_batch_given_again_counts_nothing(shelf: Shelf) -> None:
    """Once, however often it is given; the next one adds to it."""
    for number, times in ((1, 3), (2, 2)):
        for _ in range(times):
            await shelf.usage.add("source", number, {KEY: {"issued": 2, "verified": number}})
    assert await shelf.numbers() == {"issued": 4, "verified": 3}


async def test_an_earlier_batch_that_comes_late_counts_nothing(shelf: Shelf) -> None:
    """The next one of a source begins when this is counted: whoever repeats it then repeats what is there."""
    await shelf.usage.add("source", 1, {KEY: {"issued": 1}})
    await shelf.usage.add("source", 2, {KEY: {"issued": 1}})
    await shelf.usage.add("source", 1, {KEY: {"issued": 1}})
    assert await shelf.numbers() == {"issued": 2}


async def test_sources_count_beside_each_other(shelf: Shelf, mongodb_url: str, database_name: str) -> None:
    """Batches of many processes for the same clients in the same new hour all count, each once."""
    clients = [KEY._replace(client_id=f"client-{number}") for number in range(200)]
    async with opened(mongodb_url, database_name) as second, opened(mongodb_url, database_name) as third:

        async def process(usage: Usage, source: str) -> None:
            for start in range(0, len(clients), 20):
                batch = {client: {"issued": 1} for client in clients[start : start + 20]}
                await asyncio.gather(*(usage.add(source, start + 1, batch) for _ in range(2)))

        shelves = (shelf, second, third) * 10
        await asyncio.gather(*(process(each.usage, new_source()) for each in shelves))
    for client in clients:
        assert await shelf.numbers(client) == {"issued": len(shelves)}


async def test_a_large_batch_is_one_batch(shelf: Shelf) -> None:
    """More clients than one command takes; part of it done before, as after an outage, is not done again."""
    clients = {KEY._replace(client_id=f"client-{number}"): {"verified": number} for number in range(1, 1300)}
    done = dict(list(clients.items())[:700])
    await shelf.usage.add("source", 1, done)
    await shelf.usage.add("source", 1, clients)
    assert (await shelf.sums(per="total")).total.verified == sum(range(1300))


@pytest.fixture(name="lossy")
def _lossy(mongodb_url: str) -> Iterator[Lossy]:
    with Lossy(mongodb_url).running() as lossy:
        yield lossy


@pytest.mark.parametrize("what", ["question", "answer"])
async def test_a_batch_whose_outcome_is_unknown_is_given_again(lossy: Lossy, database_name: str, what: str) -> None:
    """Whether the write was lost or only its answer, the batch counts once."""
    async with opened(lossy.url, database_name) as shelf:
        await shelf.count(issued=1)
        lossy.lose("update", what)
        with pytest.raises(TemporarilyUnavailable):
            await shelf.usage.add("source", 1, {KEY: {"issued": 1}})
        assert lossy.lost.is_set()
        assert await shelf.numbers() == {"issued": 2 if what == "answer" else 1}
        await shelf.usage.add("source", 1, {KEY: {"issued": 1}})
        assert await shelf.numbers() == {"issued": 2}


async def test_numbers_expire(shelf: Shelf) -> None:
    """MongoDB removes them ninety days after their hour, whatever became of the client."""
    await shelf.count(issued=1)
    indexes = await shelf.mongo["usage"].index_information()
    assert (indexes["purge"]["key"], indexes["purge"]["expireAfterSeconds"]) == ([("hour", 1)], 90 * 24 * 3600)
    assert timedelta(days=90) == KEPT
    document = await shelf.mongo["usage"].find_one({})
    assert document is not None
    assert document["hour"] == NOON


# What is asked for


def row(at: datetime | None, api: str | None = "api-1", client: str | None = "client.1", **numbers: Any) -> ClientUsage:
    return ClientUsage(at=at, api_id=api, client_id=client, **numbers)


@pytest.fixture(name="counted")
async def _counted(shelf: Shelf) -> Shelf:
    """Two clients on two APIs over two days, and calls of nobody's."""
    await shelf.count(NOON, NOON + HOUR, issued=2, verified=10, refused_expired=1)
    await shelf.count(NOON + DAY, refreshed=1, refused_rate_limit=4, refused_expired=1)
    await shelf.count(NOON, api="api-2", client="another", revoked=1)
    await shelf.count(NOON, client=None, refused_unknown_token=7)
    await shelf.count(NOON, api=None, client=None, refused_no_api=3)
    return shelf


async def test_each_hour_is_a_row(counted: Shelf) -> None:
    """By time, API and client; what is nobody's comes first."""
    found = await counted.sums(until=NOON + HOUR + DAY)
    expired = {"refused": 1, "reasons": {"expired": 1}}
    assert found.clients == [
        row(NOON, None, None, refused=3, reasons={"no_api": 3}),
        row(NOON, client=None, refused=7, reasons={"unknown_token": 7}),
        row(NOON, issued=2, verified=10, **expired),
        row(NOON, "api-2", "another", revoked=1),
        row(NOON + HOUR, issued=2, verified=10, **expired),
        row(NOON + DAY, refreshed=1, refused=5, reasons={"expired": 1, "rate_limit": 4}),
    ]
    assert (found.since, found.until, found.per, found.next) == (
        NOON - DAY,
        NOON + HOUR + DAY,
        UsagePeriod.HOUR,
        None,
    )
    assert found.total.model_dump() == {
        "issued": 4,
        "refreshed": 1,
        "revoked": 1,
        "verified": 20,
        "refused": 17,
        "reasons": {"expired": 3, "no_api": 3, "rate_limit": 4, "unknown_token": 7},
    }


async def test_a_day_is_the_sum_of_its_hours(counted: Shelf) -> None:
    """Days are those of UTC."""
    midnight = NOON.replace(hour=0)
    found = await counted.sums(until=NOON + HOUR + DAY, per="day", client_id="client.1")
    assert found.clients == [
        row(midnight, issued=4, verified=20, refused=2, reasons={"expired": 2}),
        row(midnight + DAY, refreshed=1, refused=5, reasons={"expired": 1, "rate_limit": 4}),
    ]


async def test_the_total_is_one_row_a_client_and_api(counted: Shelf) -> None:
    """However many hours there were."""
    found = await counted.sums(until=NOON + HOUR + DAY, per="total")
    assert [(each.at, each.api_id, each.client_id, each.verified) for each in found.clients] == [
        (None, None, None, 0),
        (None, "api-1", None, 0),
        (None, "api-1", "client.1", 20),
        (None, "api-2", "another", 0),
    ]


@pytest.mark.parametrize(
    ("query", "verified", "refused"),
    [
        pytest.param({"api_id": "api-1"}, 20, 9, id="api"),
        pytest.param({"client_id": "client.1"}, 20, 2, id="client"),
        pytest.param({"api_id": "api-2", "client_id": "client.1"}, 0, 0, id="both-must-be-true"),
        pytest.param({"since": NOON + HOUR}, 10, 1, id="from-is-inclusive"),
        pytest.param({"until": NOON + HOUR}, 10, 11, id="to-is-exclusive"),
        pytest.param({"until": NOON + HOUR + timedelta(milliseconds=1)}, 20, 12, id="an-hour-that-began-before-to"),
        pytest.param({"since": NOON + 2 * DAY, "until": NOON + 3 * DAY}, 0, 0, id="nothing-there"),
    ],
)
async def test_filters(counted: Shelf, query: dict[str, Any], verified: int, refused: int) -> None:
    """Rows and total are of what was asked for, and of nothing else."""
    found = await counted.sums(**{"until": NOON + DAY, **query})
    assert (found.total.verified, found.total.refused) == (verified, refused)
    assert sum(each.verified for each in found.clients) == verified
    assert sum(each.refused for each in found.clients) == refused


@pytest.mark.parametrize("per", list(UsagePeriod))
async def test_pages(shelf: Shelf, per: UsagePeriod) -> None:
    """`next` leads through every row once, in order, and the total is the same on every page."""
    await shelf.usage.add(
        "source",
        1,
        {
            UsageKey(NOON + hour * HOUR, api, client): {"verified": 1}
            for hour in range(3)
            for api in ("a", "a-b", "a_b")
            for client in ("c", "c.d", "c~d", None)
        },
    )
    whole = await shelf.sums(per=per)
    pages, after = [], ""
    while True:
        page = await shelf.sums(per=per, limit=5, after=after)
        assert len(page.clients) <= 5
        assert page.total.verified == 36
        pages += page.clients
        if page.next is None:
            break
        after = page.next
    assert pages == whole.clients
    assert len({(each.at, each.api_id, each.client_id) for each in pages}) == len(pages)
    assert len(pages) == (36 if per is UsagePeriod.HOUR else 12)
