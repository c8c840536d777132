"""Usage in MongoDB: a batch counts exactly once, however often it is attempted, and the sums are right."""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from contracts.usage import ClientUsage, UsagePeriod, UsageQuery, UsageReport
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import Mongo
from libs.store.usage import BEFORE_DAYS, DAYS, HOURS, KEPT, SUMS, Usage, UsageKey, hour_of, new_source
from tests.profiled import profiled
from tests.store.connected import connected
from tests.store.lossy import Lossy

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=9)
"""Recent, because MongoDB deletes documents older than ninety days, also in the middle of a test."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
KEY = UsageKey(NOON, "api-1", "client.1")


class Shelf:
    """The collection in its own database."""

    def __init__(self, mongo: Mongo) -> None:
        self.mongo = mongo
        self.usage = Usage(mongo)
        self.source, self.number = new_source(), 0

    async def count(
        self, *moments: datetime, api: str | None = "api-1", client: str | None = "client.1", **n: int
    ) -> None:
        """The same numbers in the hours of these times."""
        self.number += 1
        counts = {UsageKey(hour_of(moment), api, client): n for moment in moments or (NOON,)}
        await self.usage.add(self.source, self.number, counts)

    async def sums(self, since: datetime = NOON - DAY, until: datetime = NOON + DAY, **query: Any) -> UsageReport:
        return await self.usage.sums(UsageQuery.model_validate(query), since, until)

    async def numbers(self, key: UsageKey = KEY) -> Mapping[str, int]:
        """The numbers of this key."""
        document = await self.mongo[HOURS].find_one({"_id": key.row})
        return dict(document["counts"]) if document else {}


@pytest.fixture(name="shelf")
async def _shelf(mongodb_url: str, database_name: str) -> AsyncIterator[Shelf]:
    async with connected(Shelf, mongodb_url, database_name) as shelf:
        yield shelf


# A batch counts once


async def test_a_batch_given_again_counts_nothing(shelf: Shelf) -> None:
    """Once, however often it is added; the next batch adds to it."""
    for number, times in ((1, 3), (2, 2)):
        for _ in range(times):
            await shelf.usage.add("source", number, {KEY: {"issued": 2, "verified": number}})
    assert await shelf.numbers() == {"issued": 4, "verified": 3}


async def test_an_earlier_batch_that_comes_late_counts_nothing(shelf: Shelf) -> None:
    """The next batch of a source begins after this one was counted; a late repetition changes nothing."""
    await shelf.usage.add("source", 1, {KEY: {"issued": 1}})
    await shelf.usage.add("source", 2, {KEY: {"issued": 1}})
    await shelf.usage.add("source", 1, {KEY: {"issued": 1}})
    assert await shelf.numbers() == {"issued": 2}


async def test_concurrent_sources_all_count(shelf: Shelf, mongodb_url: str, database_name: str) -> None:
    """Concurrent batches of many processes for the same new hour all count once."""
    clients = [KEY._replace(client_id=f"client-{number}") for number in range(200)]
    async with (
        connected(Shelf, mongodb_url, database_name) as second,
        connected(Shelf, mongodb_url, database_name) as third,
    ):

        async def process(usage: Usage, source: str) -> None:
            for start in range(0, len(clients), 20):
                batch = {client: {"issued": 1} for client in clients[start : start + 20]}
                await asyncio.gather(*(usage.add(source, start + 1, batch) for _ in range(2)))

        shelves = (shelf, second, third) * 10
        await asyncio.gather(*(process(each.usage, new_source()) for each in shelves))
    for client in clients:
        assert await shelf.numbers(client) == {"issued": len(shelves)}


async def test_a_large_batch_is_one_batch(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """More clients than fit in one command; the part that was applied before an outage is not applied again."""
    clients = {KEY._replace(client_id=f"client-{number}"): {"verified": number} for number in range(1, 1300)}
    write, writes = shelf.usage._write, 0

    async def interrupted(*statements: Any) -> Any:
        nonlocal writes
        writes += 1
        if writes > 4:
            raise AutoReconnect("interrupted")
        return await write(*statements)

    with monkeypatch.context() as patched:
        patched.setattr(shelf.usage, "_write", interrupted)
        with pytest.raises(TemporarilyUnavailable):
            await shelf.usage.add("source", 1, clients)
    await shelf.usage.add("source", 1, clients)
    await shelf.usage.add("source", 1, clients)
    found = await shelf.sums(per="total", limit=1000)
    assert found.total.verified == sum(range(1300))
    rest = await shelf.sums(per="total", limit=1000, after=found.next)
    assert sum(row.verified for row in (*found.clients, *rest.clients)) == sum(range(1300))


@pytest.fixture(name="lossy")
def _lossy(mongodb_url: str) -> Iterator[Lossy]:
    with Lossy(mongodb_url).running() as lossy:
        yield lossy


@pytest.mark.parametrize("what", ["question", "answer"])
async def test_a_batch_whose_outcome_is_unknown_is_given_again(lossy: Lossy, database_name: str, what: str) -> None:
    """Whether the write or only its reply was lost, the batch counts once."""
    async with connected(Shelf, lossy.url, database_name) as shelf:
        await shelf.count(issued=1)
        lossy.lose("update", what)
        with pytest.raises(TemporarilyUnavailable):
            await shelf.usage.add("source", 1, {KEY: {"issued": 1}})
        assert lossy.lost.is_set()
        assert await shelf.numbers() == {"issued": 2 if what == "answer" else 1}
        await shelf.usage.add("source", 1, {KEY: {"issued": 1}})
        assert await shelf.numbers() == {"issued": 2}


async def test_numbers_expire(shelf: Shelf) -> None:
    """Removed ninety days after their hour, a day with its last hour, even if the client was deleted."""
    await shelf.count(issued=1)
    for collection, days in ((HOURS, 90), (DAYS, 91), (SUMS, 91)):
        indexes = await shelf.mongo[collection].index_information()
        assert (indexes["purge"]["key"], indexes["purge"]["expireAfterSeconds"]) == ([("at", 1)], days * 24 * 3600)
        moments = {document["at"] async for document in shelf.mongo[collection].find({})}
        assert moments <= {NOON, NOON.replace(hour=0)}
    assert timedelta(days=90) == KEPT


# Queries


def row(at: datetime | None, api: str | None = "api-1", client: str | None = "client.1", **numbers: Any) -> ClientUsage:
    return ClientUsage(at=at, api_id=api, client_id=client, **numbers)


@pytest.fixture(name="counted")
async def _counted(shelf: Shelf) -> Shelf:
    """Two clients on two APIs over two days, and calls without a client."""
    await shelf.count(NOON, NOON + HOUR, issued=2, verified=10, refused_expired=1)
    await shelf.count(NOON + DAY, refreshed=1, refused_rate_limit=4, refused_expired=1)
    await shelf.count(NOON, api="api-2", client="another", revoked=1)
    await shelf.count(NOON, client=None, refused_unknown_token=7)
    await shelf.count(NOON, api=None, client=None, refused_no_api=3)
    return shelf


async def test_each_hour_is_a_row(counted: Shelf) -> None:
    """Sorted by time, API and client; calls without a client come first."""
    found = await counted.sums(until=NOON + HOUR + DAY)
    expired: dict[str, Any] = {"refused": 1, "reasons": {"expired": 1}}
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
    """Days are UTC."""
    midnight = NOON.replace(hour=0)
    found = await counted.sums(until=NOON + HOUR + DAY, per="day", client_id="client.1")
    assert found.clients == [
        row(midnight, issued=4, verified=20, refused=2, reasons={"expired": 2}),
        row(midnight + DAY, refreshed=1, refused=5, reasons={"expired": 1, "rate_limit": 4}),
    ]


async def test_the_total_is_one_row_a_client_and_api(counted: Shelf) -> None:
    """One row for each client and API, over all hours."""
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
    """Rows and total include what the query asks for, and nothing else."""
    found = await counted.sums(**{"until": NOON + DAY, **query})
    assert (found.total.verified, found.total.refused) == (verified, refused)
    assert sum(each.verified for each in found.clients) == verified
    assert sum(each.refused for each in found.clients) == refused


@pytest.mark.parametrize("per", list(UsagePeriod))
async def test_pages(shelf: Shelf, per: UsagePeriod) -> None:
    """`next` returns every row once, in order, with the same total on each page."""
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


# Hours, days and totals


async def seeded(shelf: Shelf, chance: random.Random, batches: int = 40) -> dict[UsageKey, Counter[str]]:
    """Numbers of several clients on several APIs over five days, by key."""
    counted: dict[UsageKey, Counter[str]] = {}
    for number in range(1, batches + 1):
        counts: dict[UsageKey, Mapping[str, int]] = {}
        for _ in range(chance.randrange(1, 9)):
            hour = NOON.replace(hour=0) + chance.randrange(5 * 24) * HOUR
            key = UsageKey(hour, chance.choice(["a", "a-b", None]), chance.choice(["c", "c.d", "e~", None]))
            counts[key] = {chance.choice(["issued", "verified", "refused_expired"]): chance.randrange(1, 9)}
        await shelf.usage.add("source", number, counts)
        for key, added in counts.items():
            counted.setdefault(key, Counter()).update(added)
    return counted


def expected(
    counted: Mapping[UsageKey, Counter[str]], since: datetime, until: datetime, query: UsageQuery
) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Issued, verified and refused by row, added up naively."""
    forms = {UsagePeriod.HOUR: "%Y-%m-%dT%H", UsagePeriod.DAY: "%Y-%m-%d", UsagePeriod.TOTAL: ""}
    rows: dict[tuple[str, str], Counter[str]] = {}
    for key, numbers in counted.items():
        wanted = query.api_id in {None, key.api_id} and query.client_id in {None, key.client_id}
        if since <= key.hour < until and wanted:
            rows.setdefault((key.hour.strftime(forms[query.per]), key.who), Counter()).update(numbers)
    return {
        row: (numbers["issued"], numbers["verified"], numbers["refused_expired"])
        for row, numbers in sorted(rows.items())
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("per", list(UsagePeriod))
async def test_b8_days_and_sums_are_what_the_hours_add_up_to(shelf: Shelf, per: UsagePeriod, seed: int) -> None:
    """Rows and total for any time, API and client, page by page."""
    chance = random.Random(seed)
    counted = await seeded(shelf, chance)
    midnight = NOON.replace(hour=0)
    spans = [(0, 120), (5, 100), (30, 40), (24, 48), (20, 30), (119, 120), (-500, 900), (13, 24)]
    for begin, end in spans:
        since, until = midnight + begin * HOUR, midnight + end * HOUR
        for whose in ({}, {"api_id": "a"}, {"client_id": "c"}, {"api_id": "a-b", "client_id": "c.d"}):
            query = UsageQuery.model_validate({"per": per, "limit": 4, **whose})
            wanted = expected(counted, since, until, query)
            rows: list[ClientUsage] = []
            while True:
                found = await shelf.usage.sums(query, since, until)
                assert found.total.issued == sum(issued for issued, _, _ in wanted.values())
                assert found.total.verified == sum(verified for _, verified, _ in wanted.values())
                assert len(found.clients) <= 4
                rows += found.clients
                if found.next is None:
                    break
                query = UsageQuery.model_validate({"per": per, "limit": 4, **whose, "after": found.next})
            assert [(row.issued, row.verified, row.refused) for row in rows] == list(wanted.values())
            assert [f"{row.api_id or ''}.{row.client_id or ''}" for row in rows] == [who for _, who in wanted]


async def test_b8_counts_from_before_daily_totals_are_added_once(shelf: Shelf) -> None:
    """Hour by hour, however often interrupted; added to newer numbers; then the old numbers are deleted."""
    hours = [NOON + number * HOUR for number in range(3)]
    old = [
        {"_id": UsageKey(hour, api, client).row, "hour": hour, "counts": {"issued": 2, "refused_expired": 1}}
        | {name: value for name, value in (("api_id", api), ("client_id", client)) if value}
        | {"applied": {"somebody": 7}}
        for hour in hours
        for api, client in (("api-1", "client.1"), ("api-1", "c2"), ("api-2", "c3"), ("api-1", None), (None, None))
    ]
    before = shelf.mongo[BEFORE_DAYS]
    await before.insert_many(old)
    await shelf.count(*hours, issued=10)
    assert await shelf.usage.add_days() == 3
    assert await before.count_documents({}) == 0
    # As if the process had died before removing the old counts, and again while removing.
    await before.insert_many(old)
    await shelf.usage.add_days()
    await before.insert_many(old[:2])
    await asyncio.gather(shelf.usage.add_days(), shelf.usage.add_days())
    for per in UsagePeriod:
        found = await shelf.sums(per=per)
        assert (found.total.issued, found.total.refused) == (3 * 10 + 15 * 2, 15)
        assert sum(row.issued for row in found.clients) == 3 * 10 + 15 * 2
    assert (await shelf.sums(per="total", api_id="api-1")).total.issued == 3 * 10 + 9 * 2
    assert await shelf.usage.add_days() == 0


BUSY_HOURS = [NOON.replace(hour=0) + number * HOUR for number in range(-2, 27)]


@pytest.fixture(scope="module", name="busy")
async def _busy(mongodb_url: str) -> AsyncIterator[Shelf]:
    """600 clients of two APIs in each of 29 hours. Read-only, because writing it takes seconds."""
    clients = [f"c{number}" for number in range(600)]
    async with connected(Shelf, mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}") as shelf:
        for number, hour in enumerate(BUSY_HOURS):
            counts = {UsageKey(hour, f"api-{at % 2}", client): {"issued": 1} for at, client in enumerate(clients)}
            await shelf.usage.add("source", number + 1, counts)
        yield shelf


@pytest.mark.parametrize("per", list(UsagePeriod))
@pytest.mark.parametrize("names", ["", "api_id", "client_id", "api_id client_id"])
async def test_b8_analytics_read_only_what_they_return(busy: Shelf, per: UsagePeriod, names: str) -> None:
    """However many clients there are, every document that is read is part of a row or of the total."""
    whose = {name: {"api_id": "api-1", "client_id": "c17"}[name] for name in names.split()}
    after = ""
    for _ in range(2):
        query = UsageQuery.model_validate({"per": per, "limit": 20, "after": after, **whose})
        async with profiled(busy.mongo, HOURS, DAYS, SUMS) as profile:
            found = await busy.usage.sums(query, BUSY_HOURS[0], BUSY_HOURS[-1] + HOUR)
        profile.require_indexed()
        # The period has five hours and a day, so a total row reads that many documents.
        parts = 1 if per is UsagePeriod.HOUR else 6
        assert profile.examined <= 3 * parts * len(found.clients) + 30, (profile.examined, len(found.clients))
        after = found.next or ""
        if not after:
            break
