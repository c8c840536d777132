"""The transactional outbox: record and event are one write, one writer wins, and nothing is left half done."""

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.events import PendingEvent, RefusedBy
from libs.event_encoding import new_event_id
from libs.oauth.errors import TemporarilyUnavailable
from libs.store import mongo as module
from libs.store.mongo import DURABLE, Conflict, Document, Mongo
from libs.store.outbox_collection import LEAD, Announce, OutboxCollection, announce_nothing
from services.embedded import EmbeddedMongo
from tests.eventually import eventually
from tests.store.connected import connected
from tests.store.lossy import Lossy

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
SOON = NOW + timedelta(hours=1)
PURGE = NOW + timedelta(days=900)
_moments = itertools.count()


class Notes(OutboxCollection):
    """The simplest outbox collection."""

    name = "notes"

    def __init__(self, mongo: Mongo, announce: Announce = announce_nothing) -> None:
        super().__init__(mongo, announce)
        self.mongo = mongo

    async def make(self, event: PendingEvent, **fields: object) -> None:
        """Insert a record with a random id."""
        await self._insert({"_id": event.owner, "version": 1, "last_event": event.id, **fields}, event)

    async def make_named(self, event: PendingEvent, **fields: object) -> None:
        """Insert a record with a chosen id."""
        await self._insert_named({"_id": event.owner, "version": 1, "last_event": event.id, **fields}, event)

    async def advance(self, event: PendingEvent, version: int, **fields: object) -> bool:
        """Change the record with an event."""
        return await self._advance(
            event.owner, version, {"version": version + 1, "last_event": event.id, **fields}, event
        )

    async def advance_quietly(self, key: str, version: int) -> bool:
        """The next version, without an event."""
        return await self._advance(key, version, {"version": version + 1}, None)

    async def raw(self, key: str) -> Document:
        document = await self.mongo[self.name].find_one({"_id": key})
        assert document is not None
        return document


def event_of(key: str | None = None, *, at: datetime | None = None, sealed: bytes | None = None) -> PendingEvent:
    """An event of this record, or of a new one; each later than the one before."""
    at = at or NOW + timedelta(milliseconds=next(_moments))
    key = key or secrets.token_hex(8)
    return PendingEvent(id=new_event_id(at), owner=key, key=f"note.made.{key}", body=b'{"a":1}', sealed=sealed, at=at)


class Shelf:
    """The notes, and the events that were announced."""

    def __init__(self, mongo: Mongo) -> None:
        self.announced: list[PendingEvent] = []
        self.notes = Notes(mongo, lambda _, event: self.announced.append(event))


@pytest.fixture(name="shelf")
async def _shelf(mongodb_url: str, database_name: str) -> AsyncIterator[Shelf]:
    async with connected(Shelf, mongodb_url, database_name) as shelf:
        yield shelf


@pytest.fixture(name="notes")
def _notes(shelf: Shelf) -> Notes:
    return shelf.notes


def ids(events: Sequence[PendingEvent]) -> list[str]:
    return [event.id for event in events]


# One write for both


@pytest.mark.parametrize("make", [Notes.make, Notes.make_named], ids=["random-id", "chosen-id"])
async def test_a_record_is_made_with_its_event(
    shelf: Shelf, make: Callable[[Notes, PendingEvent], Awaitable[None]]
) -> None:
    """The event is pending exactly as given, and announced once."""
    event = event_of(sealed=b"\0sealed\xff")
    await make(shelf.notes, event)
    assert await shelf.notes.pending(SOON, 10) == [event]
    assert shelf.announced == [event]


async def test_a_change_comes_with_its_event(shelf: Shelf) -> None:
    """State and event are one write; earlier events stay pending in order."""
    first = event_of()
    await shelf.notes.make(first)
    second = event_of(first.owner)
    assert await shelf.notes.advance(second, 1, colour="red")
    document = await shelf.notes.raw(first.owner)
    assert (document["version"], document["colour"], document["last_event"]) == (2, "red", second.id)
    assert await shelf.notes.pending(SOON, 10) == [first, second]
    assert shelf.announced == [first, second]


async def test_a_change_of_an_outdated_version_is_refused(shelf: Shelf) -> None:
    """Version, state and events stay as the other writer left them, and nothing is announced."""
    first = event_of()
    await shelf.notes.make(first)
    assert await shelf.notes.advance(event_of(first.owner), 1)
    before, announced = await shelf.notes.raw(first.owner), len(shelf.announced)
    assert not await shelf.notes.advance(event_of(first.owner), 1, colour="red")
    assert not await shelf.notes.advance_quietly(first.owner, 1)
    assert not await shelf.notes.advance(event_of("nobody"), 1)
    assert await shelf.notes.raw(first.owner) == before
    assert len(shelf.announced) == announced


async def test_a_change_may_have_no_event(shelf: Shelf) -> None:
    """Without an event the version increments, and nothing is announced."""
    first = event_of()
    await shelf.notes.make(first)
    assert await shelf.notes.advance_quietly(first.owner, 1)
    assert (await shelf.notes.raw(first.owner))["version"] == 2
    assert ids(await shelf.notes.pending(SOON, 10)) == [first.id]
    assert shelf.announced == [first]


async def test_of_many_concurrent_changes_one_succeeds(shelf: Shelf, mongodb_url: str, database_name: str) -> None:
    """Of N writers in two processes, exactly one wins each version, and only its event exists."""
    first = event_of()
    await shelf.notes.make(first)
    async with connected(Shelf, mongodb_url, database_name) as other:
        for version in (1, 2, 3):
            events = [event_of(first.owner) for _ in range(24)]
            writers = itertools.cycle((shelf.notes, other.notes))
            outcomes = await asyncio.gather(
                *(writer.advance(event, version) for writer, event in zip(writers, events, strict=False))
            )
            winners = [event for event, won in zip(events, outcomes, strict=True) if won]
            assert len(winners) == 1
            assert (await shelf.notes.raw(first.owner))["last_event"] == winners[0].id
        assert ids(await shelf.notes.pending(SOON, 10)) == sorted(ids(shelf.announced + other.announced))
        assert len(shelf.announced + other.announced) == 4


async def test_a_chosen_id_is_taken_once(shelf: Shelf) -> None:
    """Of N concurrent inserts with one id, exactly one succeeds; the others are conflicts without an event."""
    key = secrets.token_hex(8)
    events = [event_of(key) for _ in range(16)]
    outcomes = await asyncio.gather(*(shelf.notes.make_named(event) for event in events), return_exceptions=True)
    winners = [event for event, outcome in zip(events, outcomes, strict=True) if outcome is None]
    assert len(winners) == 1
    assert {type(outcome) for outcome in outcomes} == {type(None), Conflict}
    assert await shelf.notes.pending(SOON, 10) == winners == shelf.announced


# Batched inserts


async def test_batched_inserts_have_separate_outcomes(shelf: Shelf) -> None:
    """Of two inserts with one id in one batch, one succeeds and only the other gets a conflict."""
    twice = event_of()
    events = [event_of() for _ in range(30)] + [twice, event_of(twice.owner)] + [event_of() for _ in range(30)]
    outcomes = await asyncio.gather(*(shelf.notes.make(event) for event in events), return_exceptions=True)
    refused = [event.owner for event, outcome in zip(events, outcomes, strict=True) if outcome is not None]
    assert refused == [twice.owner]
    assert {type(outcome) for outcome in outcomes} == {type(None), Conflict}
    assert len(shelf.announced) == len(events) - 1
    assert await shelf.notes.mongo["notes"].count_documents({}) == len(events) - 1


async def test_a_cancelled_caller_stops_no_insert(shelf: Shelf) -> None:
    """A client that hangs up removes neither its own record nor another from the batch."""
    events = [event_of() for _ in range(12)]
    inserts = [asyncio.create_task(shelf.notes.make(event)) for event in events]
    await asyncio.sleep(0)
    inserts[3].cancel()
    inserts[7].cancel()
    outcomes = await asyncio.gather(*inserts, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(asyncio.CancelledError) == 2
    await eventually(lambda: _counted(shelf.notes, 12))
    assert len(shelf.announced) == 10
    assert sorted(ids(await shelf.notes.pending(SOON, 20))) == sorted(ids(events))


async def _counted(notes: Notes, count: int) -> bool:
    return await notes.mongo[notes.name].count_documents({}) == count


# Pending events


async def test_the_oldest_records_come_first(notes: Notes) -> None:
    """The sweeper gets the oldest events, as many as it asks for, and none younger than its limit."""
    moments = [NOW + timedelta(seconds=seconds) for seconds in (5, 1, 4, 2, 3)]
    events = [event_of(at=moment) for moment in moments]
    for event in events:
        await notes.make(event)
    in_order = ids(sorted(events, key=lambda event: event.at))
    assert ids(await notes.pending(SOON, 10)) == in_order
    assert ids(await notes.pending(SOON, 2)) == in_order[:2]
    assert ids(await notes.pending(NOW + timedelta(seconds=4), 10)) == in_order[:3]


async def test_the_backlog_counts_records_and_names_the_oldest(notes: Notes) -> None:
    """How many records wait and since when; 0 and None if none does."""
    assert await notes.backlog() == (0, None)
    first, second = event_of(at=NOW), event_of(at=NOW + timedelta(seconds=1))
    await notes.make(second)
    await notes.make(first)
    await notes.advance(event_of(first.owner), 1)
    assert await notes.backlog() == (2, NOW)
    await notes.clear(await notes.pending(SOON, 10))
    assert await notes.backlog() == (0, None)


async def test_swept_events_cannot_be_rolled_back(notes: Notes) -> None:
    """Both sweeps read with majority concern: an event that an election rolls back must never be published."""
    await notes.make(event_of())
    database = notes.mongo["notes"].database
    await database.command("profile", 2)
    await notes.pending(SOON, 10)
    await notes.awaiting_handover(SOON, 10)
    await database.command("profile", 0)
    profiles = await database["system.profile"].find({"command.find": "notes"}).to_list(None)
    assert [profile["command"]["readConcern"] for profile in profiles] == [{"level": "majority"}] * 2


async def test_a_write_counts_once_it_is_journaled_by_a_majority(notes: Notes) -> None:
    """All writes use this write concern by default; the driver retries what an election interrupts."""
    collection, grouped = notes.mongo["notes"], notes.mongo.grouped("notes")
    for each in (collection, grouped):
        assert each.write_concern.document == DURABLE == {"w": "majority", "j": True}
    assert collection.database.delegate.client.options.retry_writes
    assert grouped.database.client.options.retry_writes


# Clearing


async def test_a_published_event_is_forgotten(notes: Notes) -> None:
    """The record stays, may be purged from now on, and is not in the backlog; clearing twice changes nothing."""
    event = event_of()
    await notes.make(event, purge_after=PURGE, colour="red")
    for _ in range(2):
        await notes.clear([event])
        document = await notes.raw(event.owner)
        assert document["purge_at"] == PURGE
        assert document["colour"] == "red"
        assert not {"pending", "pending_since", "handover_since"} & document.keys()


async def test_a_record_is_not_purged_while_an_event_waits(notes: Notes) -> None:
    """One of two events is published; the other still waits, so the record must stay, however old it is."""
    one = event_of()
    await notes.make(one, purge_after=PURGE)
    two = event_of(one.owner)
    await notes.advance(two, 1)
    await notes.clear([one])
    document = await notes.raw(one.owner)
    assert "purge_at" not in document
    assert document["pending_since"] == two.at
    assert await notes.pending(SOON, 10) == [two]
    await notes.clear([two])
    assert (await notes.raw(one.owner))["purge_at"] == PURGE


async def test_later_events_may_be_cleared_before_earlier_ones(notes: Notes) -> None:
    """Publications overtake each other; what remains are the events that were not published."""
    one = event_of()
    await notes.make(one)
    two = event_of(one.owner)
    await notes.advance(two, 1)
    await notes.clear([two])
    assert await notes.pending(SOON, 10) == [one]
    assert (await notes.raw(one.owner))["pending_since"] == one.at


async def test_a_change_cancels_the_purge_of_a_record(notes: Notes) -> None:
    """A record that may be purged and then changes has a new event, and stays until that is published."""
    one = event_of()
    await notes.make(one, purge_after=PURGE)
    await notes.clear([one])
    two = event_of(one.owner)
    assert await notes.advance(two, 1)
    assert "purge_at" not in await notes.raw(one.owner)
    await notes.clear([two])
    assert (await notes.raw(one.owner))["purge_at"] == PURGE


async def test_a_record_without_an_end_is_never_purged(notes: Notes) -> None:
    """Without `purge_after` a record is never deleted."""
    event = event_of()
    await notes.make(event, purge_after=None)
    await notes.clear([event])
    assert (await notes.raw(event.owner)).get("purge_at") is None
    assert await notes.pending(SOON, 10) == []


async def test_many_events_of_many_records_are_cleared_at_once(notes: Notes) -> None:
    """A batch with new records, changed records, and some that are deleted or cleared already."""
    made = [event_of() for _ in range(20)]
    for event in made:
        await notes.make(event, purge_after=PURGE)
    changed = [event_of(event.owner) for event in made[:5]]
    for event in changed:
        await notes.advance(event, 1)
    await notes.clear([*made[:-2], *changed[:-1], event_of("nobody")])
    assert ids(await notes.pending(SOON, 30)) == ids([*made[-2:], changed[-1]])


async def test_a_sealed_event_waits_to_be_handed_over(notes: Notes) -> None:
    """A published notification stays in its record until the notifier confirms that it has stored it."""
    public, sealed = event_of(), event_of(sealed=b"sealed")
    await notes.make(public, purge_after=PURGE)
    await notes.make(sealed, purge_after=PURGE)
    for _ in range(2):
        await notes.clear([public, sealed])
        assert await notes.pending(SOON, 10) == []
        assert await notes.backlog() == (0, None)
        later = datetime.now(UTC) + timedelta(hours=1)
        assert await notes.awaiting_handover(later, 10) == [sealed]
        assert "purge_at" not in await notes.raw(sealed.owner)
    for _ in range(2):
        await notes.handed_over([sealed])
        assert await notes.awaiting_handover(later, 10) == []
        assert (await notes.raw(sealed.owner))["purge_at"] == PURGE


async def test_acknowledging_a_notification_keeps_other_events(notes: Notes) -> None:
    """A notification that is handed over does not remove events that are not published yet."""
    sealed = event_of(sealed=b"sealed")
    await notes.make(sealed, purge_after=PURGE)
    public = event_of(sealed.owner)
    await notes.advance(public, 1)
    await notes.clear([sealed])
    await notes.handed_over([sealed])
    assert await notes.pending(SOON, 10) == [public]
    assert "purge_at" not in await notes.raw(sealed.owner)


# Refused events


async def test_b1_a_refused_event_is_set_aside(notes: Notes) -> None:
    """It is not in the backlog, does not hold up later events, and waits with other refused ones."""
    refused, behind, full = event_of(), event_of(), event_of()
    for event in (refused, behind, full):
        await notes.make(event, purge_after=PURGE)
    for _ in range(2):
        await notes.set_aside([refused], RefusedBy.SUBSCRIBER)
        await notes.set_aside([full], RefusedBy.POOL)
    assert await notes.pending(SOON, 10) == [behind]
    assert await notes.backlog() == (1, behind.at)
    assert await notes.refusals() == (2, refused.at)
    assert await notes.refused_by() == {RefusedBy.SUBSCRIBER, RefusedBy.POOL}
    by_subscriber = refused._replace(refused_by=RefusedBy.SUBSCRIBER)
    by_pool = full._replace(refused_by=RefusedBy.POOL)
    assert await notes.refused(10) == [by_subscriber, by_pool]
    assert await notes.refused(1) == [by_subscriber]
    assert await notes.refused(10, key=full.key) == [by_pool]
    assert await notes.refused(10, without={refused.key}) == [by_pool]
    assert await notes.refused(10, by=RefusedBy.SUBSCRIBER) == [by_subscriber]
    assert "purge_at" not in await notes.raw(refused.owner)


async def test_b1_a_refused_event_is_cleared_as_any_other(notes: Notes) -> None:
    """Once a queue has accepted it, the record is as if it had never been refused."""
    refused = event_of()
    await notes.make(refused, purge_after=PURGE)
    await notes.set_aside([refused], RefusedBy.SUBSCRIBER)
    await notes.clear([refused])
    assert await notes.refusals() == (0, None)
    assert await notes.refused(10) == []
    assert await notes.refused_by() == frozenset()
    document = await notes.raw(refused.owner)
    assert document["purge_at"] == PURGE
    assert not {"pending", "pending_since", "refused_since", "handover_since"} & document.keys()


async def test_b1_the_notification_of_a_refused_event_waits_for_no_queue(notes: Notes) -> None:
    """The notifier finds it as if the event were published; afterwards only the public event still waits."""
    refused = event_of(sealed=b"sealed")
    await notes.make(refused)
    assert await notes.awaiting_handover(SOON, 10) == []
    await notes.set_aside([refused], RefusedBy.SUBSCRIBER)
    marked = refused._replace(refused_by=RefusedBy.SUBSCRIBER)
    assert await notes.awaiting_handover(SOON, 10) == [marked]
    for _ in range(2):
        await notes.handed_over([refused])
        assert await notes.awaiting_handover(SOON, 10) == []
        assert await notes.refused(10) == [marked._replace(sealed=None)]
    await notes.clear([refused])
    assert "pending" not in await notes.raw(refused.owner)


async def test_b1_a_refused_event_may_be_published_before_its_notification_is_handed_over(notes: Notes) -> None:
    """Then it is a sent event like any other with a notification."""
    refused = event_of(sealed=b"sealed")
    await notes.make(refused)
    await notes.set_aside([refused], RefusedBy.POOL)
    await notes.clear([refused])
    assert await notes.refused(10) == []
    later = datetime.now(UTC) + timedelta(hours=1)
    assert ids(await notes.awaiting_handover(later, 10)) == [refused.id]
    await notes.handed_over([refused])
    assert "pending" not in await notes.raw(refused.owner)


async def test_b1_a_record_can_change_while_an_event_of_it_is_refused(notes: Notes) -> None:
    """Later events of the same record are published and cleared independently."""
    refused = event_of()
    await notes.make(refused)
    await notes.set_aside([refused], RefusedBy.SUBSCRIBER)
    later = event_of(refused.owner)
    assert await notes.advance(later, 1)
    assert await notes.pending(SOON, 10) == [later]
    await notes.clear([later])
    assert await notes.pending(SOON, 10) == []
    assert await notes.refusals() == (1, refused.at)


# The sweeper's leader


async def test_one_process_leads_until_its_time_is_over(notes: Notes) -> None:
    """The holder may extend its lease; another process gets it when it has expired, not before."""
    assert await notes.lead("one", NOW)
    assert await notes.lead("one", NOW + LEAD / 2)
    assert not await notes.lead("two", NOW + LEAD)
    assert await notes.lead("two", NOW + LEAD * 3 / 2)
    assert not await notes.lead("one", NOW + LEAD * 2)


async def test_of_many_candidates_one_leads(notes: Notes) -> None:
    """Also for the first lease ever: one process gets it."""
    outcomes = await asyncio.gather(*(notes.lead(str(number), NOW) for number in range(12)))
    assert outcomes.count(True) == 1


# Unknown outcomes


@pytest.fixture(name="lossy")
def _lossy(mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lossy]:
    monkeypatch.setattr(module, "OPERATION_TIMEOUT_MS", 1000)
    with Lossy(mongodb_url).running() as lossy:
        yield lossy


async def make(notes: Notes, event: PendingEvent) -> Any:
    return await notes.make(event)


async def make_named(notes: Notes, event: PendingEvent) -> Any:
    return await notes.make_named(event)


async def change(notes: Notes, event: PendingEvent) -> Any:
    return await notes.advance(event, 1)


WRITES = [
    pytest.param(make, "insert", None, id="insert"),
    pytest.param(make_named, "insert", None, id="insert-named"),
    pytest.param(change, "update", True, id="change"),
]
Write = Callable[[Notes, PendingEvent], Awaitable[Any]]


@pytest.mark.parametrize("what", ["question", "answer"])
@pytest.mark.parametrize(("write", "command", "success"), WRITES)
async def test_a_write_whose_outcome_is_unknown_is_repeated(
    lossy: Lossy, database_name: str, write: Write, command: str, success: bool | None, what: str
) -> None:
    """Request or reply was lost: the write is repeated with the same values and applied once, with one event."""
    async with connected(Shelf, lossy.url, database_name) as shelf:
        key = secrets.token_hex(8)
        if write is change:
            await shelf.notes.make(event_of(key))
        event = event_of(key)
        lossy.lose(command, what)
        assert await write(shelf.notes, event) is success
        assert lossy.lost.is_set()
        document = await shelf.notes.raw(key)
        assert (document["last_event"], document["version"]) == (event.id, 2 if write is change else 1)
        assert [entry["id"] for entry in document["pending"]].count(event.id) == 1
        assert ids(shelf.announced).count(event.id) == 1


async def test_a_repeated_change_does_not_count_another_writer_s_change(
    lossy: Lossy, mongodb_url: str, database_name: str
) -> None:
    """The request was lost and another writer was first: that is a miss, although the version fits."""
    async with (
        connected(Shelf, lossy.url, database_name) as shelf,
        connected(Shelf, mongodb_url, database_name) as other,
    ):
        key = secrets.token_hex(8)
        await shelf.notes.make(event_of(key))
        mine, theirs = event_of(key), event_of(key)
        lossy.lose("update", "question")
        losing = asyncio.create_task(shelf.notes.advance(mine, 1))
        await eventually(lossy.lost.is_set)
        assert await other.notes.advance(theirs, 1)
        assert not await losing
        assert (await shelf.notes.raw(key))["last_event"] == theirs.id
        assert mine.id not in ids(shelf.announced)


async def test_a_repeated_change_is_known_by_its_event(lossy: Lossy, mongodb_url: str, database_name: str) -> None:
    """The reply was lost and another writer went on from there: its event in the record proves that it was applied."""
    async with (
        connected(Shelf, lossy.url, database_name) as shelf,
        connected(Shelf, mongodb_url, database_name) as other,
    ):
        key = secrets.token_hex(8)
        await shelf.notes.make(event_of(key))
        mine, theirs = event_of(key), event_of(key)
        lossy.lose("update", "answer")
        losing = asyncio.create_task(shelf.notes.advance(mine, 1))
        await eventually(lossy.lost.is_set)
        assert await other.notes.advance(theirs, 2)
        assert await losing
        assert (await shelf.notes.raw(key))["version"] == 3


async def test_a_repeated_insert_does_not_count_another_writer_s_record(
    lossy: Lossy, mongodb_url: str, database_name: str
) -> None:
    """The request was lost and another writer took the id: that is a conflict."""
    async with (
        connected(Shelf, lossy.url, database_name) as shelf,
        connected(Shelf, mongodb_url, database_name) as other,
    ):
        key = secrets.token_hex(8)
        lossy.lose("insert", "question")
        losing = asyncio.create_task(shelf.notes.make_named(event_of(key)))
        await eventually(lossy.lost.is_set)
        await other.notes.make_named(event_of(key))
        with pytest.raises(Conflict):
            await losing
        assert shelf.announced == []


# Crashes of MongoDB


async def test_a_crash_leaves_nothing_partly_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL under load: callers are told soon, acknowledged writes exist, and each record has its event.

    Writes continue without a restart.
    """
    monkeypatch.setattr(module, "OPERATION_TIMEOUT_MS", 1500)
    monkeypatch.setattr(module, "AMBIGUITY_DEADLINE", 1.0)
    done: list[PendingEvent] = []
    asked: list[PendingEvent] = []
    waits: list[float] = []
    async with EmbeddedMongo(tmp_path) as server, connected(Shelf, server.url, "crash") as shelf:
        stop, refused = asyncio.Event(), asyncio.Event()

        async def keep_writing() -> None:
            while not stop.is_set():
                event = event_of()
                asked.append(event)
                began = time.monotonic()
                try:
                    await shelf.notes.make(event)
                    done.append(event)
                    event = event_of(event.owner)
                    asked.append(event)
                    began = time.monotonic()
                    if await shelf.notes.advance(event, 1):
                        done.append(event)
                except TemporarilyUnavailable:
                    refused.set()
                waits.append(time.monotonic() - began)
                await asyncio.sleep(0.01)

        writers = [asyncio.create_task(keep_writing()) for _ in range(8)]
        await eventually(lambda: len(done) > 40)
        server.kill()
        began = time.monotonic()
        with pytest.raises(TemporarilyUnavailable):
            await shelf.notes.pending(SOON, 1)
        assert time.monotonic() - began < 10
        async with asyncio.timeout(20):
            await refused.wait()
        await server.restart()
        before = len(done)
        await eventually(lambda: len(done) > before + 40, within=30)
        stop.set()
        await asyncio.gather(*writers)

        assert max(waits) < 20
        found = {document["_id"]: document async for document in shelf.notes.mongo["notes"].find({})}
        carried = [entry["id"] for document in found.values() for entry in document["pending"]]
        assert len(set(carried)) == len(carried)
        assert set(ids(done)) <= set(carried) <= set(ids(asked))
        assert all(len(document["pending"]) == document["version"] for document in found.values())
        assert all(document["pending"][-1]["id"] == document["last_event"] for document in found.values())
        assert sorted(ids(await shelf.notes.pending(SOON, len(found)))) == sorted(carried)
