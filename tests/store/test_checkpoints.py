"""Numbered records: one checkpoint for each process tells which of their events are published, and no event is lost."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from contracts.events import PendingEvent, RefusedBy
from libs.event_encoding import new_event_id
from libs.oauth.errors import TemporarilyUnavailable
from libs.store import checkpoints as module
from libs.store.batched import insert_many
from libs.store.checkpoints import Checkpoint
from libs.store.mongo import Document, Mongo
from libs.store.outbox_collection import Announce, OutboxCollection, announce_nothing
from tests.eventually import eventually
from tests.store.connected import connected

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
SOON = NOW + timedelta(hours=1)
PURGE = NOW + timedelta(days=900)
NEVER = timedelta(days=1)
AT_ONCE = timedelta(0)


class Slips(OutboxCollection):
    """The simplest collection with numbered records."""

    name = "slips"
    numbers = True

    def __init__(self, mongo: Mongo, announce: Announce = announce_nothing) -> None:
        super().__init__(mongo, announce)
        self.mongo = mongo
        self.announced: list[str] = []
        self._announce = lambda _, event: self.announced.append(event.id)

    async def make(self, event: PendingEvent) -> None:
        """Insert a record with a random id."""
        record = {"_id": event.owner, "version": 1, "last_event": event.id, "created_at": NOW, "purge_after": PURGE}
        await self._insert(record, event)

    async def made(self, count: int) -> list[PendingEvent]:
        """That many records, one after another."""
        events = [event_of() for _ in range(count)]
        for event in events:
            await self.make(event)
        return events

    async def advance(self, event: PendingEvent) -> bool:
        """Change the record with a second event."""
        return await self._advance(event.owner, 1, {"version": 2, "last_event": event.id}, event)

    async def raw(self, key: str) -> Document:
        document = await self.mongo[self.name].find_one({"_id": key})
        assert document is not None
        return document

    async def left(self) -> list[str]:
        """What a sweeper finds: the ids of the events that no checkpoint settles."""
        return sorted(event.id for event in await self.abandoned(SOON, 5000))

    async def checkpoints(self) -> Sequence[Document]:
        return await self.mongo["checkpoints"].find().to_list(None)


def event_of(owner: str | None = None, sequence: int = 1, sealed: bytes | None = None) -> PendingEvent:
    owner = owner or secrets.token_hex(8)
    body = orjson.dumps({"sequence": f"{sequence:010d}"})
    return PendingEvent(id=new_event_id(NOW), owner=owner, key=f"slip.made.{owner}", body=body, at=NOW, sealed=sealed)


def ids(events: Sequence[PendingEvent]) -> list[str]:
    return sorted(event.id for event in events)


def unknown(event_id: str) -> bool:
    """The outbox of this process knows none of its events."""
    return False


@pytest.fixture(name="slips")
async def _slips(mongodb_url: str, database_name: str) -> AsyncIterator[Slips]:
    async with connected(Slips, mongodb_url, database_name) as slips:
        yield slips


@pytest.fixture(name="other")
async def _other(mongodb_url: str, database_name: str) -> AsyncIterator[Slips]:
    """The same collection in another process."""
    async with connected(Slips, mongodb_url, database_name) as other:
        yield other


# What is published, and what is left


async def test_a_published_event_needs_no_write_to_its_record(slips: Slips, other: Slips) -> None:
    """Before, every process finds it; afterwards none does, and the record is as it was."""
    (event,) = await slips.made(1)
    before = await slips.raw(event.owner)
    assert slips.announced == [event.id]
    for process in (slips, other):
        assert await process.abandoned(SOON, 10) == [event]
        assert await process.unpublished(event.owner) == [event]
        assert await process.backlog() == (1, NOW)
    await slips.clear([event])
    assert await slips.raw(event.owner) == before
    for process in (slips, other):
        assert await process.left() == []
        assert await process.unpublished(event.owner) == []
        assert await process.backlog() == (0, None)


async def test_confirmations_come_in_any_order(slips: Slips, other: Slips) -> None:
    """What is confirmed is settled at once, whatever before it is not."""
    events = await slips.made(9)
    for at in (4, 2, 3, 8, 0):
        await slips.clear([events[at]])
        events[at] = events[at]._replace(owner="")
        assert await other.left() == ids([event for event in events if event.owner])


async def test_many_records_take_few_checkpoints(slips: Slips) -> None:
    """The checkpoint is one document, written as often as `clear` is called."""
    events = [event_of() for _ in range(300)]
    await asyncio.gather(*(slips.make(event) for event in events))
    database = slips.mongo["slips"].database
    await database.command("profile", 2)
    await slips.clear(events)
    await database.command("profile", 0)
    writes = await database["system.profile"].find({"op": {"$in": ["insert", "update", "remove"]}}).to_list(None)
    assert [write["ns"].partition(".")[2] for write in writes] == ["checkpoints"]
    (checkpoint,) = await slips.checkpoints()
    assert (checkpoint["last"], checkpoint["open"]) == (300, [])
    assert await slips.left() == []


async def test_processes_number_independently(slips: Slips, other: Slips) -> None:
    """Equal numbers of two processes are two events."""
    mine, theirs = await slips.made(2), await other.made(2)
    await slips.clear(mine)
    assert await slips.left() == ids(theirs)
    await other.clear(theirs)
    assert await slips.left() == []
    assert len(await slips.checkpoints()) == 2


async def test_a_checkpoint_names_a_limited_number_of_open_records(
    slips: Slips, other: Slips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is behind them counts as unpublished: published again after a crash, but never lost."""
    monkeypatch.setattr(module, "MOST_OPEN", 3)
    events = await slips.made(12)
    await slips.clear(events[1::2])
    assert await other.left() == ids([*events[:6:2], *events[6:]])
    await slips.clear(events[0:6:2])
    assert await other.left() == ids(events[6::2])


async def test_an_event_with_a_notification_is_not_numbered(slips: Slips) -> None:
    """It stays in its record until the notifier has the notification."""
    event = event_of(sealed=b"sealed")
    await slips.make(event)
    assert await slips.left() == []
    assert await slips.pending(SOON, 10) == [event]


async def test_a_later_event_is_pending_as_ever(slips: Slips) -> None:
    """Clearing the second event neither settles nor publishes the first, and sweepers of older versions see neither."""
    (first,) = await slips.made(1)
    second = event_of(first.owner, 2)
    assert await slips.advance(second)
    assert "purge_at" not in await slips.raw(first.owner)
    assert await slips.unpublished(first.owner) == [first, second]
    await slips.clear([second])
    document = await slips.raw(first.owner)
    assert not {"pending", "pending_since", "purge_at"} & document.keys()
    assert await slips.pending(SOON, 10) == []
    assert await slips.left() == [first.id]


# Processes that die


async def test_a_sweeper_adopts_what_a_dead_process_left(slips: Slips, other: Slips) -> None:
    """It is then pending like every event, before later events of its record, and is not purged."""
    first, second = await slips.made(2)
    later = event_of(first.owner, 2)
    assert await slips.advance(later)
    await slips.clear([second])
    for _ in range(2):
        await other.adopt([first])
        assert await other.left() == []
        assert await other.pending(SOON, 10) == [first, later]
        assert "purge_at" not in await other.raw(first.owner)
    await other.clear([first, later])
    document = await slips.raw(first.owner)
    assert document["purge_at"] == PURGE
    assert not {"pending", "pending_since", "numbered"} & document.keys()
    assert await other.backlog() == (0, None)


async def test_a_late_confirmation_clears_what_was_adopted(
    slips: Slips, other: Slips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is slow, not dead: its event was adopted, and is not published again once it is confirmed."""
    monkeypatch.setattr(module, "RECENT", 0.0)
    events = await slips.made(2)
    await other.adopt(events)
    await slips.clear(events)
    assert await other.pending(SOON, 10) == []
    assert await other.left() == []


async def test_a_process_has_a_checkpoint_before_its_first_record(
    slips: Slips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it cannot be written, the record is not either; the next attempt is another."""

    async def fails(*_: object) -> None:
        raise TemporarilyUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(module.Checkpoints, "_write", fails)
        with pytest.raises(TemporarilyUnavailable):
            await slips.made(1)
    assert await slips.mongo["slips"].count_documents({}) == 0
    (event,) = await slips.made(1)
    assert await slips.left() == [event.id]


async def test_the_checkpoint_is_written_again_before_it_may_be_deleted(
    slips: Slips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that wakes up after a long time writes it before the next record."""
    (event,) = await slips.made(1)
    await slips.clear([event])
    await slips.mongo["checkpoints"].delete_many({})
    monkeypatch.setattr(module, "VALID_FOR", 0.0)
    (later,) = await slips.made(1)
    assert await slips.left() == [later.id]


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "written-lately"])
async def test_the_checkpoint_of_a_dead_process_is_deleted_when_nothing_is_left(
    slips: Slips, other: Slips, idle: bool
) -> None:
    """Only after a day, and only if a sweeper has found nothing that it does not settle."""
    events = await slips.made(2)
    await slips.clear(events[:1])
    later = datetime.now(UTC) + 2 * module.IDLE
    if idle:
        at = datetime.now(UTC) - module.IDLE - timedelta(minutes=1)
        await slips.mongo["checkpoints"].update_one({}, {"$set": {"written_at": at}})
    assert ids(await other.abandoned(later, 10)) == [events[1].id]
    assert len(await slips.checkpoints()) == 1
    await other.adopt(events[1:])
    assert await other.abandoned(later, 10) == []
    assert len(await slips.checkpoints()) == (0 if idle else 1)
    assert await other.backlog() == (1, NOW)


async def test_an_idle_process_renews_its_checkpoint(slips: Slips, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is not taken for dead."""
    (event,) = await slips.made(1)
    await slips.clear([event])
    (before,) = await slips.checkpoints()
    await slips.give_up(NEVER, unknown, 10)
    assert await slips.checkpoints() == [before]
    monkeypatch.setattr(module, "RENEWED_AFTER", 0.0)
    await slips.give_up(NEVER, unknown, 10)
    assert (await slips.checkpoints())[0]["written_at"] > before["written_at"]


# Refusals


async def test_a_refused_event_is_set_aside_alone(slips: Slips, other: Slips) -> None:
    """A nack of one event: it goes to the refused ones of its record; the others are settled."""
    one, refused, two = await slips.made(3)
    await slips.clear([one])
    await slips.set_aside([refused], RefusedBy.SUBSCRIBER)
    await slips.clear([two])
    assert await other.left() == []
    assert await other.pending(SOON, 10) == []
    assert await other.refused(10) == [refused._replace(refused_by=RefusedBy.SUBSCRIBER)]
    assert "purge_at" not in await other.raw(refused.owner)


# Writes whose outcome is unknown


async def test_an_insert_whose_outcome_is_unknown_stays_open(
    slips: Slips, other: Slips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If MongoDB applies it after all, even long afterwards, a sweeper finds the event."""
    held: list[Sequence[Document]] = []

    async def hold(collection: Any, documents: Sequence[Document], repeated: bool) -> Sequence[Exception | None]:
        held.append(documents)
        raise TemporarilyUnavailable("no reply")

    (before,) = await slips.made(1)
    lost = [event_of() for _ in range(4)]
    with monkeypatch.context() as patched:
        patched.setattr(module, "insert_many", hold)
        outcomes = await asyncio.gather(*(slips.make(event) for event in lost), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {TemporarilyUnavailable}
    assert slips.announced == [before.id]
    after = await slips.made(3)
    await slips.clear([before, *after])
    assert await other.left() == []
    for documents in held:
        await insert_many(slips.mongo.grouped("slips"), documents, False)
    assert await other.left() == ids(lost)
    await other.adopt(lost)
    assert ids(await other.pending(SOON, 10)) == ids(lost)


async def test_a_process_numbers_no_more_after_many_such_inserts(slips: Slips, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their ranges stay in the checkpoint, so there must be few; further records carry their event as before."""

    async def fails(*_: object) -> Sequence[Exception | None]:
        raise TemporarilyUnavailable("no reply")

    monkeypatch.setattr(module, "MOST_UNKNOWN", 2)
    with monkeypatch.context() as patched:
        patched.setattr(module, "insert_many", fails)
        for _ in range(2):
            with pytest.raises(TemporarilyUnavailable):
                await slips.made(1)
    (event,) = await slips.made(1)
    assert await slips.left() == []
    assert await slips.pending(SOON, 10) == [event]


async def test_a_cancelled_callers_event_is_adopted(slips: Slips, other: Slips) -> None:
    """The record is made, and nobody announces it: its own process gives it up, or the checkpoint would stay open."""
    event = event_of()
    insert = asyncio.create_task(slips.make(event))
    await asyncio.sleep(0)
    insert.cancel()
    await asyncio.gather(insert, return_exceptions=True)
    await eventually(lambda: _exists(slips, event))
    assert slips.announced == []
    await slips.give_up(AT_ONCE, lambda event_id: event_id == event.id, 10)
    assert await other.left() == [event.id]
    await slips.give_up(AT_ONCE, unknown, 10)
    assert await other.left() == []
    assert await other.pending(SOON, 10) == [event]
    (checkpoint,) = await slips.checkpoints()
    assert (checkpoint["last"], checkpoint["open"]) == (1, [])


async def _exists(slips: Slips, event: PendingEvent) -> bool:
    return await slips.mongo["slips"].count_documents({"_id": event.owner}) == 1


async def test_a_record_on_its_way_is_not_given_up(slips: Slips, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its number would be settled before it exists, and a crash would lose its event."""
    started, go = asyncio.Event(), asyncio.Event()

    async def slow(collection: Any, documents: Sequence[Document], repeated: bool) -> Sequence[Exception | None]:
        started.set()
        await go.wait()
        return await insert_many(collection, documents, repeated)

    monkeypatch.setattr(module, "insert_many", slow)
    event = event_of()
    insert = asyncio.create_task(slips.make(event))
    await started.wait()
    await slips.give_up(AT_ONCE, unknown, 10)
    go.set()
    await insert
    assert await slips.left() == [event.id]


async def test_a_checkpoint_that_was_not_written_is_written_later(
    slips: Slips, other: Slips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MongoDB is away while events are confirmed: the next attempt settles all of them."""
    events = await slips.made(3)

    async def fails(*_: object) -> None:
        raise TemporarilyUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(module.Checkpoints, "_write", fails)
        with pytest.raises(TemporarilyUnavailable):
            await slips.clear(events)
    assert await other.left() == ids(events)
    await slips.clear(events[:1])
    assert await other.left() == []


# Purge


async def test_a_record_is_purged_when_its_time_is_over_and_its_events_are_published(
    slips: Slips, other: Slips
) -> None:
    """Not a moment before, whatever any clock says, and not while one of its events waits."""
    long_ago, ever = datetime(2020, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
    published, waiting, changed, young, adopted = await slips.made(5)
    second = event_of(changed.owner, 2)
    assert await slips.advance(second)
    await slips.clear([published, changed, young])
    await slips.adopt([adopted])
    old = {"_id": {"$ne": young.owner}}
    await slips.mongo["slips"].update_many(old, {"$set": {"purge_after": long_ago}})
    assert await other.purgeable(long_ago, 10) == []
    assert await other.purgeable(ever, 10) == [published.owner]
    await other.purge([each.owner for each in (published, waiting, changed, young, adopted)], ever)
    left = await slips.mongo["slips"].find({"purge_at": {"$exists": True}}).to_list(None)
    assert {document["_id"]: document["purge_at"] for document in left} == {published.owner: ever}
    assert await other.purgeable(ever, 10) == []
    await slips.clear([waiting, second])
    assert sorted(await other.purgeable(ever, 10)) == sorted([waiting.owner, changed.owner])
    assert len(await other.purgeable(ever, 1)) == 1


# Reconciliation


async def test_reconciliation_tells_published_from_unpublished(slips: Slips, other: Slips) -> None:
    """By the checkpoint, for all records and for single ones."""
    published, waiting = await slips.made(2)
    await slips.clear([published])
    found = [each async for batch in other.outbox_statuses(NOW, SOON, 10) for each in batch]
    assert {each.subject: list(each.unpublished) for each in found} == {published.owner: [], waiting.owner: [1]}
    assert {each.subject: list(each.carried) for each in found} == {published.owner: [], waiting.owner: [waiting.id]}
    (status,) = await other.outbox_statuses_of([waiting.owner])
    assert list(status.unpublished) == [1]


@pytest.mark.parametrize(
    ("number", "settled"), [(1, True), (2, False), (3, False), (4, True), (5, False), (6, True), (7, False)]
)
def test_a_checkpoint_settles_numbers_up_to_its_last_outside_the_open_ranges(number: int, settled: bool) -> None:
    """Both ends of a range belong to it."""
    assert Checkpoint("p", 6, [(2, 3), (5, 5)], NOW).settles(number) is settled
