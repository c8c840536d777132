"""Deliveries in MongoDB: which notifier may claim one, how it changes, and that nothing happens twice."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter

from contracts.events import AnyEvent, Event, NotificationRedelivered, PendingEvent
from contracts.operators import Actor
from contracts.webhooks import Attempt, Delivery, DeliveryQuery, DeliveryState, RedeliveryRequest
from libs.event_encoding import EventContext, new_event_id
from libs.store.deliveries import KEPT, KEPT_ATTEMPTS, Deliveries
from libs.store.mongo import Conflict, Mongo
from tests.provision.mongodb import Database
from tests.store.connected import connected

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CTX = EventContext("urn:tokenwire:notifier", NOW)
EVENTS: TypeAdapter[Event] = TypeAdapter(AnyEvent)
LEASE = timedelta(seconds=30)
MAX_AGE = timedelta(days=3)
FAILED = Attempt(at=NOW, latency_ms=7, status=500)
ARRIVED = Attempt(at=NOW, latency_ms=7, status=204)


class Shelf:
    """The collection in a database of its own, and the events that were announced."""

    def __init__(self, mongo: Mongo) -> None:
        self.mongo = mongo
        self.events: list[PendingEvent] = []
        self.deliveries = Deliveries(mongo, lambda _, event: self.events.append(event))

    async def added(self, api_id: str = "api-1", **fields: object) -> Delivery:
        delivery = due(api_id=api_id, **fields)
        await self.deliveries.add(delivery)
        return delivery

    async def claimed(self, now: datetime = NOW, api_id: str = "api-1") -> Delivery:
        (delivery,) = (await self.deliveries.claim(api_id, 10, now + LEASE, now)).deliveries
        return delivery

    async def raw(self, delivery: Delivery) -> dict[str, object]:
        document = await self.mongo["deliveries"].find_one({"_id": delivery.delivery_id})
        assert document is not None
        return document


def due(**fields: object) -> Delivery:
    at = fields.get("event_at", NOW)
    assert isinstance(at, datetime)
    given = {
        "delivery_id": new_event_id(at),
        "state": DeliveryState.PENDING,
        "api_id": "api-1",
        "client_id": "client-1",
        "grant_id": secrets.token_hex(8),
        "event_type": "token.new",
        "event_at": at,
        "sealed": b"sealed",
        "next_attempt_at": NOW,
        "give_up_at": NOW + MAX_AGE,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Delivery.model_validate(given | fields)


@pytest.fixture(name="shelf")
async def _shelf(mongodb_url: str, database_name: str) -> AsyncIterator[Shelf]:
    async with connected(Shelf, mongodb_url, database_name) as shelf:
        yield shelf


async def test_every_field_is_stored(shelf: Shelf) -> None:
    """Every field is stored, including encrypted body and trace."""
    added = await shelf.added(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", lease_until=NOW + LEASE)
    assert await shelf.deliveries.get(added.delivery_id) == added


async def test_an_event_is_a_delivery_once(shelf: Shelf) -> None:
    """The delivery id is the event id, so the same notification can be stored only once."""
    added = await shelf.added()
    with pytest.raises(Conflict):
        await shelf.deliveries.add(added)
    claimed = await shelf.claimed()
    assert await shelf.deliveries.delivered(claimed, ARRIVED, CTX)
    with pytest.raises(Conflict):
        await shelf.deliveries.add(added)


async def test_a_due_delivery_is_claimed_by_one(shelf: Shelf) -> None:
    """If many claim at the same time, each delivery goes to exactly one of them."""
    wanted = {(await shelf.added()).delivery_id for _ in range(20)}
    others = [Deliveries(shelf.mongo) for _ in range(8)]
    claims = await asyncio.gather(*(each.claim("api-1", 20, NOW + LEASE, NOW) for each in others))
    claimed = [delivery.delivery_id for claim in claims for delivery in claim.deliveries]
    assert sorted(claimed) == sorted(wanted)


async def test_the_longest_due_is_claimed_first(shelf: Shelf) -> None:
    """No more than requested; the result says whether there are more."""
    moments = [NOW - timedelta(minutes=minutes) for minutes in (1, 3, 2)]
    added = [await shelf.added(next_attempt_at=moment) for moment in moments]
    first = await shelf.deliveries.claim("api-1", 2, NOW + LEASE, NOW)
    assert {delivery.delivery_id for delivery in first.deliveries} == {added[1].delivery_id, added[2].delivery_id}
    assert first.more
    rest = await shelf.deliveries.claim("api-1", 2, NOW + LEASE, NOW)
    assert [delivery.delivery_id for delivery in rest.deliveries] == [added[0].delivery_id]
    assert not rest.more


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"next_attempt_at": NOW + timedelta(milliseconds=1)}, id="not-due"),
        pytest.param({"lease_until": NOW + timedelta(milliseconds=1)}, id="leased"),
        pytest.param({"state": DeliveryState.DELIVERED, "sealed": None}, id="delivered"),
        pytest.param({"state": DeliveryState.EXHAUSTED}, id="exhausted"),
        pytest.param({"state": DeliveryState.DISCARDED, "sealed": None}, id="discarded"),
        pytest.param({"api_id": "api-2"}, id="of-another-api"),
    ],
)
async def test_only_due_deliveries_are_claimed(shelf: Shelf, fields: dict[str, Any]) -> None:
    """Only deliveries that are pending, due and not leased."""
    await shelf.added(**fields)
    assert (await shelf.deliveries.claim("api-1", 10, NOW + LEASE, NOW)).deliveries == []


async def test_a_lease_that_ran_out_is_no_lease(shelf: Shelf) -> None:
    """Deliveries of a dead process are claimed by another, and a late result of the first changes nothing."""
    await shelf.added()
    first = await shelf.claimed()
    later = NOW + LEASE
    second = await shelf.claimed(later)
    assert await shelf.deliveries.delivered(first, ARRIVED, CTX) is None
    assert await shelf.deliveries.delivered(second, ARRIVED, CTX) is not None
    assert len(shelf.events) == 1


async def test_a_released_delivery_is_due_at_once(shelf: Shelf) -> None:
    """A notifier that stops leaves no lease behind, and no attempt is used up."""
    added = await shelf.added()
    claimed = await shelf.claimed()
    (released,) = await shelf.deliveries.release([claimed], NOW)
    assert released.lease_until is None
    again = await shelf.claimed()
    assert (again.delivery_id, again.retries, again.attempt_count) == (added.delivery_id, 0, 0)
    assert await shelf.deliveries.release([claimed], NOW) == []


async def test_a_delivered_webhook_has_no_body_and_an_event(shelf: Shelf) -> None:
    """State, attempt and event are one write, which also deletes the body."""
    added = await shelf.added(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    ctx = replace(CTX, traceparent=added.traceparent)
    after = await shelf.deliveries.delivered(await shelf.claimed(), ARRIVED, ctx)
    assert after == await shelf.deliveries.get(added.delivery_id)
    assert after is not None
    assert (after.state, after.sealed, after.attempts) == (DeliveryState.DELIVERED, None, (ARRIVED,))
    (pending,) = await shelf.deliveries.pending(NOW + timedelta(seconds=1), 10)
    assert pending == shelf.events[0]
    assert pending.key == "notification.delivered.api-1"
    event = orjson.loads(pending.body)
    assert event["subject"] == added.delivery_id
    assert event["sequence"] == "0000000001"
    assert event["traceparent"] == added.traceparent
    assert event["data"] == {
        "delivery_id": added.delivery_id,
        "api_id": added.api_id,
        "client_id": added.client_id,
        "grant_id": added.grant_id,
        "attempts": 1,
        "status": 204,
    }


async def test_events_of_a_delivery_are_numbered_without_gaps(shelf: Shelf) -> None:
    """Events are numbered without gaps; claims and leases are no events."""
    await shelf.added()
    now = NOW
    for _ in range(3):
        failed = await shelf.deliveries.failed(await shelf.claimed(now), FAILED, now, replace(CTX, now=now))
        assert failed is not None
        now += LEASE
    assert await shelf.deliveries.exhausted(await shelf.claimed(now), FAILED, replace(CTX, now=now))
    as_written = [
        EVENTS.validate_json(event.body).model_dump_json(exclude_none=True).encode() for event in shelf.events
    ]
    assert [event.body for event in shelf.events] == as_written, "as the models write them"
    numbers = [orjson.loads(event.body)["sequence"] for event in shelf.events]
    assert numbers == ["0000000001", "0000000002", "0000000003", "0000000004"]
    pending = await shelf.deliveries.pending(now + LEASE, 10)
    assert [event.id for event in pending] == [event.id for event in shelf.events]


async def test_a_failed_attempt_is_counted_once(shelf: Shelf) -> None:
    """It is due again at the planned time, and not before."""
    added = await shelf.added()
    later = NOW + timedelta(minutes=5)
    after = await shelf.deliveries.failed(await shelf.claimed(), FAILED, later, CTX)
    assert after == await shelf.deliveries.get(added.delivery_id)
    assert after is not None
    assert (after.retries, after.attempt_count, after.next_attempt_at, after.sealed) == (1, 1, later, b"sealed")
    assert orjson.loads(shelf.events[0].body)["data"]["next_attempt_at"] == "2026-03-01T12:05:00Z"
    early = later - timedelta(milliseconds=1)
    assert (await shelf.deliveries.claim("api-1", 10, later + LEASE, early)).deliveries == []
    assert (await shelf.claimed(later)).delivery_id == added.delivery_id


async def test_the_latest_attempts_are_kept(shelf: Shelf) -> None:
    """A delivery that is redelivered for months does not grow; the count of attempts goes on."""
    added, now = await shelf.added(), NOW
    for number in range(KEPT_ATTEMPTS + 3):
        now += LEASE
        attempt = Attempt(at=now, latency_ms=number, status=500)
        await shelf.deliveries.failed(await shelf.claimed(now), attempt, now, replace(CTX, now=now))
    kept = await shelf.deliveries.get(added.delivery_id)
    assert kept is not None
    assert kept.attempt_count == KEPT_ATTEMPTS + 3
    assert [attempt.latency_ms for attempt in kept.attempts] == list(range(3, KEPT_ATTEMPTS + 3))


async def test_only_what_is_over_and_published_is_purged(shelf: Shelf) -> None:
    """`purge_at` is set when the last event is confirmed as published, and removed by a redelivery."""
    added = await shelf.added()
    assert await shelf.deliveries.exhausted(await shelf.claimed(), FAILED, CTX)
    assert "purge_at" not in await shelf.raw(added)
    await shelf.deliveries.clear(shelf.events)
    assert (await shelf.raw(added))["purge_at"] == NOW + KEPT
    exhausted = await shelf.deliveries.get(added.delivery_id)
    assert exhausted is not None
    assert await shelf.deliveries.redeliver(exhausted, NOW + MAX_AGE, CTX)
    assert "purge_at" not in await shelf.raw(added)
    await shelf.deliveries.clear(shelf.events)
    assert "purge_at" not in await shelf.raw(added)


async def test_a_redelivery_event_names_its_api_and_client(shelf: Shelf) -> None:
    """Each redelivery has an event with the operator, even if one request redelivers many."""
    added = [await shelf.added(state=DeliveryState.EXHAUSTED, attempts=(FAILED,), attempt_count=1) for _ in range(3)]
    actor = Actor(operator_id="operator-1", name="somebody", request_id="request-1")
    request = RedeliveryRequest(api_id="api-1", since=NOW)
    assert await shelf.deliveries.redeliver_all(request, NOW + MAX_AGE, replace(CTX, actor=actor)) == 3
    events = [NotificationRedelivered.model_validate_json(event.body) for event in shelf.events]
    assert [event.body for event in shelf.events] == [
        event.model_dump_json(exclude_none=True).encode() for event in events
    ]
    assert {event.subject for event in events} == {delivery.delivery_id for delivery in added}
    for event in events:
        assert (event.data.actor, event.data.next_attempt_at, event.data.status) == (actor, NOW, 500)
        stored = await shelf.deliveries.get(event.subject)
        assert stored is not None
        assert (stored.sequence, int(event.sequence), stored.sealed) == (1, 1, b"sealed")


async def test_a_cleared_failure_does_not_set_a_time_to_go(shelf: Shelf) -> None:
    """A delivery that is still to be sent stays, however old it is."""
    added = await shelf.added()
    await shelf.deliveries.failed(await shelf.claimed(), FAILED, NOW, CTX)
    await shelf.deliveries.clear(shelf.events)
    document = await shelf.raw(added)
    assert "purge_at" not in document
    assert "pending" not in document


async def test_a_discarded_delivery_has_no_body_and_is_purged(shelf: Shelf) -> None:
    """Discarding is not an event, so `purge_at` is set at once."""
    added = await shelf.added()
    (discarded,) = await shelf.deliveries.discarded([await shelf.claimed()], NOW)
    assert (discarded.state, discarded.sealed) == (DeliveryState.DISCARDED, None)
    assert await shelf.deliveries.get(added.delivery_id) == discarded
    assert (await shelf.raw(added))["purge_at"] == NOW + KEPT
    assert shelf.events == []


async def test_a_discarded_delivery_is_kept_until_its_events_are_published(shelf: Shelf) -> None:
    """An earlier failure that is not published yet stays, however long the bus is down."""
    added = await shelf.added()
    await shelf.deliveries.failed(await shelf.claimed(), FAILED, NOW, CTX)
    await shelf.deliveries.discarded([await shelf.claimed()], NOW)
    assert "purge_at" not in await shelf.raw(added)
    await shelf.deliveries.clear(shelf.events)
    assert (await shelf.raw(added))["purge_at"] == NOW + KEPT


async def test_many_results_at_once_each_get_their_own_response(shelf: Shelf) -> None:
    """Changes in one batch succeed and fail individually."""
    for _ in range(40):
        await shelf.added()
    claimed = (await shelf.deliveries.claim("api-1", 40, NOW + LEASE, NOW)).deliveries
    stale = {delivery.delivery_id for delivery in claimed[::3]}
    await shelf.deliveries.release([delivery for delivery in claimed if delivery.delivery_id in stale], NOW)
    results = await asyncio.gather(*(shelf.deliveries.delivered(delivery, ARRIVED, CTX) for delivery in claimed))
    lost = {delivery.delivery_id for delivery, after in zip(claimed, results, strict=True) if after is None}
    assert lost == stale
    assert len(shelf.events) == 40 - len(stale)


async def test_of_two_results_of_one_delivery_one_counts(shelf: Shelf) -> None:
    """Whichever changes share a batch, each version is followed by exactly one version."""
    await shelf.added()
    claimed = await shelf.claimed()
    results = await asyncio.gather(
        shelf.deliveries.delivered(claimed, ARRIVED, CTX), shelf.deliveries.exhausted(claimed, FAILED, CTX)
    )
    assert [result is None for result in results].count(True) == 1
    assert len(await shelf.deliveries.pending(NOW + LEASE, 10)) == 1


async def test_a_result_for_a_purged_delivery_is_ignored(shelf: Shelf) -> None:
    """A record that was purged meanwhile is not created again."""
    await shelf.added()
    claimed = await shelf.claimed()
    await shelf.mongo["deliveries"].delete_one({"_id": claimed.delivery_id})
    assert await shelf.deliveries.delivered(claimed, ARRIVED, CTX) is None
    assert await shelf.deliveries.get(claimed.delivery_id) is None


async def test_the_agenda_says_when_each_api_is_next(shelf: Shelf) -> None:
    """The first that can be claimed, with one index step per API, however long its backlog is."""
    for minutes in (3, 1, 2):
        await shelf.added("api-1", next_attempt_at=NOW + timedelta(minutes=minutes))
        await shelf.added("api-2", lease_until=NOW + timedelta(minutes=10 * minutes))
    await shelf.added("api-3", state=DeliveryState.DELIVERED, sealed=None)
    assert await shelf.deliveries.agenda() == {
        "api-1": NOW + timedelta(minutes=1),
        "api-2": NOW + timedelta(minutes=10),
    }


async def test_the_agenda_does_not_read_the_backlog(shelf: Shelf) -> None:
    """A dead endpoint with many deliveries does not slow down the claims of others."""
    documents = [due(api_id=f"api-{number % 3}") for number in range(300)]
    await asyncio.gather(*(shelf.deliveries.add(document) for document in documents))
    database = shelf.mongo["deliveries"].database
    await database.command("profile", 2)
    await shelf.deliveries.agenda()
    await database.command("profile", 0)
    (profile,) = await database["system.profile"].find({"command.aggregate": "deliveries"}).to_list(None)
    assert profile["keysExamined"] <= 6
    assert profile["docsExamined"] == 0


async def test_an_overdue_delivery_is_exhausted_without_an_attempt(shelf: Shelf) -> None:
    """A delivery is overdue if it is due, not leased and too old; it can be exhausted without an attempt."""
    overdue = await shelf.added(give_up_at=NOW)
    await shelf.added(give_up_at=NOW, lease_until=NOW + LEASE)
    await shelf.added(give_up_at=NOW + timedelta(milliseconds=1))
    claimed = (await shelf.deliveries.claim_overdue(10, NOW + LEASE, NOW)).deliveries
    assert [delivery.delivery_id for delivery in claimed] == [overdue.delivery_id]
    after = await shelf.deliveries.exhausted(claimed[0], None, CTX)
    assert after is not None
    assert (after.state, after.attempts, after.sealed) == (DeliveryState.EXHAUSTED, (), b"sealed")


async def test_a_redelivery_restarts_the_schedule(shelf: Shelf) -> None:
    """Due now, from the first attempt of the schedule, with a new deadline, and with all its past attempts."""
    added = await shelf.added(retries=8, attempt_count=9, attempts=(FAILED,))
    exhausted = await shelf.deliveries.exhausted(await shelf.claimed(), FAILED, CTX)
    assert exhausted is not None
    later = NOW + timedelta(days=10)
    assert await shelf.deliveries.redeliver(exhausted, later + MAX_AGE, replace(CTX, now=later))
    assert not await shelf.deliveries.redeliver(exhausted, later + MAX_AGE, replace(CTX, now=later))
    again = await shelf.claimed(later)
    assert (again.delivery_id, again.retries, again.give_up_at) == (added.delivery_id, 0, later + MAX_AGE)
    assert (again.attempt_count, len(again.attempts)) == (10, 2)


async def test_everything_exhausted_of_an_api_since_a_time_is_redelivered(shelf: Shelf) -> None:
    """Exactly those: not older, delivered or pending ones, nor those of another API."""
    since = NOW - timedelta(hours=1)
    wanted = [
        await shelf.added(state=DeliveryState.EXHAUSTED, event_at=moment)
        for moment in (since, NOW - timedelta(minutes=1), NOW)
    ]
    await shelf.added(state=DeliveryState.EXHAUSTED, event_at=since - timedelta(milliseconds=1))
    await shelf.added(state=DeliveryState.DELIVERED, sealed=None)
    await shelf.added(state=DeliveryState.EXHAUSTED, api_id="api-2")
    await shelf.added(next_attempt_at=NOW + timedelta(hours=5))
    request = RedeliveryRequest(api_id="api-1", since=since)
    assert await shelf.deliveries.redeliver_all(request, NOW + MAX_AGE, CTX) == 3
    claimed = (await shelf.deliveries.claim("api-1", 10, NOW + LEASE, NOW)).deliveries
    assert {delivery.delivery_id for delivery in claimed} == {delivery.delivery_id for delivery in wanted}


async def test_waiting_deliveries_can_be_redelivered(shelf: Shelf) -> None:
    """With `pending`; deliveries that are being attempted are not touched."""
    waiting = await shelf.added(next_attempt_at=NOW + timedelta(hours=5), retries=6)
    under_way = await shelf.added(lease_until=NOW + LEASE)
    request = RedeliveryRequest(api_id="api-1", since=NOW - timedelta(hours=1), state=DeliveryState.PENDING)
    assert await shelf.deliveries.redeliver_all(request, NOW + MAX_AGE, CTX) == 1
    claimed = await shelf.claimed()
    assert (claimed.delivery_id, claimed.retries) == (waiting.delivery_id, 0)
    assert await shelf.deliveries.get(under_way.delivery_id) == under_way


async def test_many_are_redelivered_in_parts(shelf: Shelf) -> None:
    """More than one batch, each delivery counted once."""
    many = [due(state=DeliveryState.EXHAUSTED) for _ in range(1100)]
    await asyncio.gather(*(shelf.deliveries.add(delivery) for delivery in many))
    request = RedeliveryRequest(api_id="api-1", since=NOW)
    assert await shelf.deliveries.redeliver_all(request, NOW + MAX_AGE, CTX) == 1100
    assert await shelf.deliveries.redeliver_all(request, NOW + MAX_AGE, CTX) == 0


async def test_pages_go_from_the_latest_event_to_the_oldest(shelf: Shelf) -> None:
    """Pages are newest first, each delivery once."""
    moments = [NOW + timedelta(seconds=number) for number in (2, 0, 4, 1, 3)]
    added = {moment: await shelf.added(event_at=moment) for moment in moments}
    seen: list[str] = []
    query = DeliveryQuery(limit=2)
    while True:
        page, more = await shelf.deliveries.page(query)
        seen += [delivery.delivery_id for delivery in page]
        if not more:
            break
        query = DeliveryQuery(limit=2, after=seen[-1])
    assert seen == [added[moment].delivery_id for moment in sorted(moments, reverse=True)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param({}, "abcd", id="all"),
        pytest.param({"api_id": "api-1"}, "abd", id="api"),
        pytest.param({"client_id": "client-2"}, "b", id="client"),
        pytest.param({"state": "exhausted"}, "cd", id="state"),
        pytest.param({"from": "2026-03-01T12:00:01Z"}, "bcd", id="from"),
        pytest.param({"to": "2026-03-01T12:00:02Z"}, "ab", id="to"),
        pytest.param({"from": "2026-03-01T12:00:01Z", "to": "2026-03-01T12:00:02Z"}, "b", id="between"),
        pytest.param({"api_id": "api-1", "state": "exhausted", "from": "2026-03-01T13:00:00+01:00"}, "d", id="several"),
        pytest.param({"api_id": "api-1", "client_id": "client-9"}, "", id="none"),
    ],
)
async def test_deliveries_are_found_by_filters(shelf: Shelf, query: dict[str, str], expected: str) -> None:
    """Filters by API, client, state and event time, alone and combined."""
    fields: dict[str, dict[str, Any]] = {
        "a": {},
        "b": {"client_id": "client-2"},
        "c": {"api_id": "api-2", "state": DeliveryState.EXHAUSTED},
        "d": {"state": DeliveryState.EXHAUSTED},
    }
    names = {}
    for number, (name, given) in enumerate(fields.items()):
        added = await shelf.added(**{"event_at": NOW + timedelta(seconds=number)} | given)
        names[added.delivery_id] = name
    page, _ = await shelf.deliveries.page(DeliveryQuery.model_validate(query))
    assert "".join(sorted(names[delivery.delivery_id] for delivery in page)) == expected


async def test_a_result_whose_fate_is_unknown_is_recorded_once(
    shelf: Shelf, mongodb: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If mongod dies under writes and comes back, every result is stored once with its event."""
    monkeypatch.setattr("libs.store.mongo.AMBIGUITY_DEADLINE", 60.0)
    many = [due() for _ in range(600)]
    await asyncio.gather(*(shelf.deliveries.add(delivery) for delivery in many))
    claimed = (await shelf.deliveries.claim("api-1", 600, NOW + LEASE, NOW)).deliveries
    recording = [asyncio.create_task(shelf.deliveries.delivered(delivery, ARRIVED, CTX)) for delivery in claimed]
    await asyncio.wait(recording, return_when=asyncio.FIRST_COMPLETED)
    mongodb.kill()
    await mongodb.start()
    assert all(await asyncio.gather(*recording))
    documents = await shelf.mongo["deliveries"].find({}).to_list(None)
    assert [len(document["attempts"]) for document in documents] == [1] * 600
    assert sorted(entry["id"] for document in documents for entry in document["pending"]) == sorted(
        event.id for event in shelf.events
    )
