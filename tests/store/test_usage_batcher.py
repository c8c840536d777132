"""Recorded events are counted exactly once, whichever process dies when, and however often they are delivered."""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.reconciliation import RecordedEvent
from contracts.usage import UsagePeriod, UsageQuery
from libs.event_encoding import new_event_id
from libs.store.mongo import Document, Mongo
from libs.store.recorded_events import RecordedEvents
from libs.store.usage import Usage
from libs.store.usage_batcher import COUNTED, Batch, UsageBatcher
from tests.store.lossy import Lossy

NOW = datetime.now(UTC).replace(hour=12, minute=30, second=0, microsecond=0) - timedelta(days=2)
"""Recent, because MongoDB deletes events after eight days, also in the middle of a test."""
AT_ONCE = timedelta(0)


class Process:
    """A recording process with a connection of its own."""

    def __init__(self, mongo: Mongo) -> None:
        self.mongo = mongo
        self.usage = Usage(mongo)
        self.events = RecordedEvents(mongo, self.usage)

    @property
    def batches(self) -> UsageBatcher:
        return self.events.batches

    async def add(self, events: Sequence[RecordedEvent]) -> None:
        """Record all of them at the same time, as the bus delivers them."""
        await asyncio.gather(*(self.events.add(event) for event in events))

    async def finish(self) -> None:
        """Finish abandoned batches, however recent."""
        await self.batches.finish_abandoned(AT_ONCE)

    async def counted(self) -> dict[str, int]:
        """The total numbers."""
        found = await self.usage.sums(UsageQuery(per=UsagePeriod.TOTAL), NOW - timedelta(days=400), NOW + timedelta(9))
        return {name: count for name, count in found.total.model_dump().items() if count}

    async def write_ahead_entries(self) -> Sequence[Document]:
        return await self.mongo["batches"].find({}).to_list(None)


Start = Callable[[], Any]


@asynccontextmanager
async def processes(url: str, database: str) -> AsyncIterator[Start]:
    """Starts processes on the same database."""
    async with AsyncExitStack() as stack:

        async def start() -> Process:
            process = Process(mongo := Mongo(url, database))
            await mongo.open()
            stack.push_async_callback(mongo.close)
            await mongo.prepared()
            return process

        yield start


@pytest.fixture(name="start")
async def _start(mongodb_url: str, database_name: str) -> AsyncIterator[Start]:
    async with processes(mongodb_url, database_name) as start:
        yield start


def event(kind: str = "token.new", at: datetime = NOW, client: str = "client-1") -> RecordedEvent:
    return RecordedEvent(
        id=new_event_id(at),
        type=kind,
        collection="grants",
        subject=secrets.token_hex(8),
        sequence=1,
        time=at,
        api_id="api-1",
        client_id=client,
        grant_id="grant",
    )


def several(count: int = 5) -> list[RecordedEvent]:
    return [event(client=f"client-{number % 2}") for number in range(count)]


def batch_of(process: Process, events: Sequence[RecordedEvent]) -> Batch:
    """The events as the next batch of the process, with no step done."""
    return process.batches.next_batch([{"_id": each.id, **each.model_dump(exclude={"id"})} for each in events])


async def done(process: Process, batch: Batch, *steps: str) -> None:
    """Do only these steps."""
    for step in steps:
        await getattr(process.batches, step)(batch)


STEPS = ("write_ahead", "insert", "count")


# Which events count, and when


async def test_token_events_count_in_their_own_hour(start: Start) -> None:
    """By type, in the hour in which they happened, however late they arrive; other types are not counted."""
    process = await start()
    earlier = NOW - timedelta(days=3, minutes=31)
    kinds = ["token.new"] * 4 + ["token.refresh"] * 3 + ["token.revoked"] * 2 + ["grant.revoked"]
    others = ["code.issued", "client.created", "notification.delivered"]
    await process.add([event(kind) for kind in (*kinds, *others)] + [event(at=earlier)])
    found = await process.usage.sums(UsageQuery(), earlier - timedelta(hours=1), NOW + timedelta(hours=1))
    rows = [(each.at, each.issued, each.refreshed, each.revoked, each.verified) for each in found.clients]
    assert rows == [
        (earlier.replace(hour=11, minute=0), 1, 0, 0, 0),
        (NOW.replace(minute=0), 4, 3, 3, 0),
    ]
    assert await process.mongo["events"].count_documents({}) == 14


async def test_an_event_brought_again_counts_once(start: Start) -> None:
    """In the same batch, in a later one, and at another process, also among new events."""
    one, other = await start(), await start()
    events = several()
    await one.add([*events, *events])
    await one.add(events)
    await other.add([*several(3), *events, *several(3)])
    assert await one.counted() == {"issued": 11}


async def test_two_recorders_at_once(start: Start) -> None:
    """Delivered to both at the same time, each event counts once."""
    one, other = await start(), await start()
    events = several(300)
    shuffled = random.sample(events, len(events))
    await asyncio.gather(one.add(events), other.add(shuffled), one.add(several(50)))
    assert await one.counted() == {"issued": 350}


# Crashes


@pytest.mark.parametrize("steps", range(len(STEPS) + 1), ids=lambda steps: f"after-{'-'.join(STEPS[:steps]) or 'none'}")
@pytest.mark.parametrize("first", ["finished", "brought-again"])
async def test_a_process_dies_between_its_steps(start: Start, steps: int, first: str) -> None:
    """The bus redelivers the events to another process, which also finishes the abandoned batch, in either order."""
    dead, alive = await start(), await start()
    events = several()
    await done(dead, batch_of(dead, events), *STEPS[:steps])
    if first == "finished":
        await alive.finish()
        assert await alive.counted() == ({"issued": 5} if steps >= 2 else {})
    await alive.add(events)
    await alive.finish()
    assert await alive.counted() == {"issued": 5}
    assert await alive.write_ahead_entries() == []


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    "others", [("add",), ("finish",), ("add", "finish"), ("finish", "add"), ("add", "finish", "add")]
)
async def test_a_process_that_lost_its_lease_continues(start: Start, steps: int, others: Sequence[str]) -> None:
    """A process stops between two steps until others have done its work, then goes on: nothing counts twice."""
    slow, other = await start(), await start()
    events = several()
    batch = batch_of(slow, events)
    await done(slow, batch, *STEPS[:steps])
    for deed in others:
        await (other.add(events) if deed == "add" else other.finish())
    await done(slow, batch, *STEPS[steps:])
    await slow.add([*events, *several(2)])
    await other.add(events)
    await other.finish()
    assert await other.counted() == {"issued": 7}


async def test_a_process_that_dies_in_the_middle_of_an_insert(start: Start) -> None:
    """Some of its events exist. They count once the others exist too, whichever process inserts them."""
    dead, alive = await start(), await start()
    events = several()
    batch = batch_of(dead, events)
    await dead.batches.write_ahead(batch)
    part = Batch(batch.source, batch.number, batch.documents[:2])
    await dead.batches.insert(part)
    await alive.finish()
    assert await alive.counted() == {}
    assert len(await alive.write_ahead_entries()) == 1
    await alive.add(events)
    assert await alive.counted() == {"issued": 3}
    await alive.finish()
    assert await alive.counted() == {"issued": 5}


async def test_a_write_ahead_entry_that_comes_late_does_not_replace_the_next(start: Start) -> None:
    """A repeated write that arrives after the process has gone on does not hide the newer entry."""
    dead, alive = await start(), await start()
    first, events = batch_of(dead, several(3)), several()
    await done(dead, first, *STEPS)
    await done(dead, batch_of(dead, events), "write_ahead", "insert")
    await dead.batches.write_ahead(first)
    await alive.finish()
    assert await alive.counted() == {"issued": 8}


async def test_only_what_is_old_enough_is_abandoned(start: Start) -> None:
    """A batch that another process is working on is left alone."""
    busy, other = await start(), await start()
    batch = batch_of(busy, several())
    await done(busy, batch, "write_ahead", "insert")
    await other.batches.finish_abandoned(timedelta(hours=1))
    assert await other.counted() == {}
    await done(busy, batch, "count")
    assert await other.counted() == {"issued": 5}


@pytest.mark.parametrize("seed", range(8))
async def test_chaos(start: Start, seed: int) -> None:
    """Processes die anywhere, events are redelivered, batches are finished meanwhile: every event counts once."""
    chance = random.Random(seed)
    alive = [await start() for _ in range(3)]
    events = [event(chance.choice(list(COUNTED)), client=f"client-{chance.randrange(3)}") for _ in range(60)]

    async def deed() -> None:
        process, some = chance.choice(alive), chance.sample(events, chance.randrange(1, 12))
        match chance.randrange(4):
            case 0:
                await done(await start(), batch_of(await start(), some), *STEPS[: chance.randrange(4)])
            case 1:
                await process.finish()
            case _:
                await process.add(some)

    for _ in range(8):
        await asyncio.gather(*(deed() for _ in range(4)))
    for process in alive:
        await process.add(events)
        await process.finish()
    expected = Counter(COUNTED[each.type] for each in events)
    assert await alive[0].counted() == dict(expected)


# The connection to MongoDB


@pytest.fixture(name="lossy")
def _lossy(mongodb_url: str) -> Iterator[Lossy]:
    with Lossy(mongodb_url).running() as lossy:
        yield lossy


@pytest.mark.parametrize("what", ["question", "answer"])
@pytest.mark.parametrize(
    ("command", "after"),
    [
        pytest.param("update", 0, id="write-ahead"),
        pytest.param("insert", 0, id="insert"),
        pytest.param("update", 1, id="count"),
    ],
)
async def test_a_step_whose_outcome_is_unknown(
    lossy: Lossy, database_name: str, command: str, after: int, what: str
) -> None:
    """Whether the write or only its reply was lost, at any step: each event counts once."""
    async with processes(lossy.url, database_name) as start:
        process = await start()
        await process.add(several(3))
        events = several()
        lossy.lose(command, what, after=after)
        await process.add(events)
        assert lossy.lost.is_set()
        await process.add([*events, *several(2)])
        await process.finish()
        assert await process.counted() == {"issued": 10}
