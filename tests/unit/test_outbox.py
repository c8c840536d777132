"""The outbox publishes committed events at least once, whatever the state of bus and database."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from contracts.apis import GrantType
from contracts.events import PendingEvent, RefusedBy, TokenData, TokenNew
from libs.bus import outbox as module
from libs.bus.local import LocalBroker, LocalBus
from libs.bus.outbox import SWEEP_AFTER, Outbox, messages_of
from libs.bus.port import LONGEST_KEY, Delivery, Exchange, Message, Mode, Outcome, Subscription
from libs.event_encoding import pending
from libs.oauth.errors import TemporarilyUnavailable
from libs.supervision import Backoff, Supervisor
from tests.eventually import eventually

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
OLD = NOW - SWEEP_AFTER - timedelta(seconds=1)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_numbers = itertools.count(1)


def event(at: datetime = NOW, *, sealed: bytes | None = None, word: str = "orders") -> PendingEvent:
    """A token event of its own grant."""
    grant_id = f"grant-{next(_numbers)}"
    data = TokenData(
        grant_id=grant_id,
        api_id="orders",
        client_id="app",
        grant_type=GrantType.PASSWORD,
        token_id=f"{grant_id}.1",
        expires_at=NOW,
        notify=sealed is not None,
    )
    made = TokenNew(
        id=f"evt_{grant_id}",
        source="urn:tokenwire:token",
        time=at,
        subject=grant_id,
        sequence="0000000001",
        traceparent=TRACE,
        data=data,
    )
    return pending(made, word, grant_id, sealed)


class Shelf:
    """A collection of records with pending events, which can be made to fail."""

    def __init__(self, *events: PendingEvent, name: str = "grants") -> None:
        self.name = name
        self.events = {event.id: event for event in events}
        self.failure: Exception | None = None
        self.unclearable: set[str] = set()
        """Ids of events whose clearing fails."""
        self.leads = True
        self.asked = 0
        self.clearings = 0
        self.numbered: dict[str, PendingEvent] = {}
        """Events that another process has left without moving them to the pending ones."""
        self.over: list[str] = []
        """Keys of records that are to be purged."""
        self.given_up: list[str] = []
        """Ids of events that this process numbered and shall give up if the outbox does not know them."""

    async def pending(self, before: datetime, limit: int) -> Sequence[PendingEvent]:
        self._fail()
        waiting = (event for event in self.events.values() if event.at < before and event.refused_by is None)
        return sorted(waiting, key=lambda event: event.at)[:limit]

    async def abandoned(self, before: datetime, limit: int) -> Sequence[PendingEvent]:
        found = (event for event in self.numbered.values() if event.at < before)
        return sorted(found, key=lambda event: event.at)[:limit]

    async def adopt(self, events: Sequence[PendingEvent]) -> None:
        for event in events:
            self.events[event.id] = self.numbered.pop(event.id)

    async def give_up(self, after: timedelta, is_known: Callable[[str], bool], limit: int) -> int:
        found = [each for each in self.given_up if not is_known(each)][:limit]
        self.given_up = [each for each in self.given_up if each not in found]
        return len(found)

    async def purgeable(self, now: datetime, limit: int) -> Sequence[str]:
        assert now == NOW
        return self.over[:limit]

    async def purge(self, keys: Sequence[str], now: datetime) -> None:
        self.over = [key for key in self.over if key not in keys]

    async def clear(self, events: Sequence[PendingEvent]) -> None:
        self.clearings += 1
        self._fail()
        if self.unclearable & {event.id for event in events}:
            raise RuntimeError("this record cannot be written")
        for event in events:
            self.events.pop(event.id, None)

    async def lead(self, holder: str, now: datetime) -> bool:
        assert holder
        assert now == NOW
        return self.leads

    async def backlog(self) -> tuple[int, datetime | None]:
        self._fail()
        return _measured(event for event in self.events.values() if event.refused_by is None)

    async def set_aside(self, events: Sequence[PendingEvent], refused_by: RefusedBy) -> None:
        self._fail()
        for event in events:
            self.events[event.id] = self.events[event.id]._replace(refused_by=refused_by)

    async def refused(
        self, limit: int, *, key: str | None = None, without: Collection[str] = (), by: RefusedBy | None = None
    ) -> Sequence[PendingEvent]:
        self._fail()
        found = [event for event in self.events.values() if event.refused_by is not None and event.key not in without]
        found = [event for event in found if key in (None, event.key) and by in (None, event.refused_by)]
        return sorted(found, key=lambda event: event.at)[:limit]

    async def refusals(self) -> tuple[int, datetime | None]:
        self._fail()
        return _measured(event for event in self.events.values() if event.refused_by is not None)

    def _fail(self) -> None:
        self.asked += 1
        if self.failure is not None:
            raise self.failure


class SlowShelf(Shelf):
    """Such a collection, whose records cannot be cleared for a while."""

    def __init__(self, *events: PendingEvent) -> None:
        super().__init__(*events)
        self.free = asyncio.Event()

    async def clear(self, events: Sequence[PendingEvent]) -> None:
        self.clearings += 1
        await self.free.wait()
        await super().clear(events)


class MeasuredShelf(Shelf):
    """Such a collection, which notes before each clearing how many events a subscriber has that are not cleared."""

    def __init__(self, subscriber: "Subscriber", *events: PendingEvent) -> None:
        super().__init__(*events)
        self.subscriber = subscriber
        self.uncleared: list[int] = []

    async def clear(self, events: Sequence[PendingEvent]) -> None:
        await asyncio.sleep(0.002)
        still = self.events.keys()
        self.uncleared.append(sum(message.id in still for message in self.subscriber.messages))
        await super().clear(events)


def _measured(events: Iterable[PendingEvent]) -> tuple[int, datetime | None]:
    moments = [event.at for event in events]
    return len(moments), min(moments, default=None)


class Subscriber:
    """Receives every event in order; can be blocked."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.free = asyncio.Event()
        self.free.set()

    async def hear(self, delivery: Delivery) -> None:
        await self.free.wait()
        self.messages.append(delivery.message)

    def ids(self) -> list[str]:
        return [message.id for message in self.messages]


class World:
    """A bus with a subscriber to everything, and an outbox."""

    def __init__(self, *, notified: bool = True) -> None:
        self.broker = LocalBroker()
        self.bus = LocalBus(self.broker)
        self.subscriber, self.notifier = Subscriber(), Subscriber()
        self.subscribe("all", Exchange.EVENTS, "#", self.subscriber)
        if notified:
            self.subscribe("notifier", Exchange.NOTIFY, "notify", self.notifier)
        self.outbox = Outbox(self.bus, lambda: NOW)

    def subscribe(self, name: str, exchange: Exchange, key: str, subscriber: Subscriber) -> None:
        self.bus.subscribe(Subscription(name, exchange, (key,), subscriber.hear, Mode.POOL))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sweep every 20 ms instead of every second, and no log line for each failure."""
    monkeypatch.setattr(module, "SWEEP_INTERVAL", 0.02)
    monkeypatch.setattr(module, "CLEAR_INTERVAL", 0.002)
    monkeypatch.setattr(module, "FIRST_REWRITE_BACKOFF", 0.02)
    with capture_logs():
        yield


@asynccontextmanager
async def opened(world: World) -> AsyncIterator[World]:
    await world.bus.open()
    await world.outbox.open()
    try:
        yield world
    finally:
        await world.outbox.close()
        await world.bus.close()


# The messages


def test_a_public_message_is_the_event_with_its_attributes_mirrored() -> None:
    """CloudEvents in structured mode: the body as committed, attributes as headers, and the trace."""
    committed = event()
    (message,) = messages_of(committed)
    assert (message.id, message.exchange, message.key) == (committed.id, Exchange.EVENTS, "token.new.orders")
    assert message.body is committed.body
    assert (message.type, message.content_type) == (
        "io.tokenwire.token.new",
        "application/cloudevents+json; charset=utf-8",
    )
    assert message.headers == {
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": committed.id,
        "cloudEvents_source": "urn:tokenwire:token",
        "cloudEvents_type": "io.tokenwire.token.new",
        "cloudEvents_time": "2026-05-04T12:00:00Z",
        "cloudEvents_subject": committed.owner,
        "cloudEvents_sequence": "0000000001",
        "cloudEvents_datacontenttype": "application/json",
        "cloudEvents_traceparent": TRACE,
        "traceparent": TRACE,
    }


def test_a_notified_event_has_a_sealed_companion() -> None:
    """An event with a notification has a second message: the encrypted body for the notifier's exchange, with its own
    id.
    """
    public, companion = messages_of(event(sealed=b"\0sealed\xff"))
    assert companion.id == f"{public.id}:n"
    assert (companion.exchange, companion.key, companion.headers) == (Exchange.NOTIFY, "notify", {})
    assert orjson.loads(companion.body) == {"event": orjson.loads(public.body), "sealed": "AHNlYWxlZP8="}
    assert b"sealed" not in public.body


# Direct publishing


async def test_an_announced_event_is_published_and_cleared() -> None:
    """An announced event is published and cleared at once, without a sweep."""
    committed = event()
    shelf = Shelf(committed)
    async with opened(World()) as world:
        world.outbox.announce(shelf, committed)
        await world.outbox.drain()
        assert world.subscriber.ids() == [committed.id]
        assert shelf.events == {}


async def test_events_of_one_process_keep_their_order() -> None:
    """Events of one record arrive in order."""
    committed = [event() for _ in range(600)]
    shelf = Shelf(*committed)
    async with opened(World()) as world:
        for each in committed:
            world.outbox.announce(shelf, each)
        await world.outbox.drain()
        assert world.subscriber.ids() == [each.id for each in committed]
        assert shelf.events == {}


async def test_few_events_of_a_burst_are_published_and_not_cleared() -> None:
    """A process that dies at the start of a burst leaves FIRST_WINDOW events to be published again."""
    committed = [event() for _ in range(5 * module.LARGEST_WINDOW)]
    world, shelf = World(), SlowShelf(*committed)
    async with opened(world):
        for each in committed:
            world.outbox.announce(shelf, each)
        await eventually(lambda: shelf.clearings)
        await eventually(lambda: len(world.subscriber.messages) == module.FIRST_WINDOW)
        await asyncio.sleep(0.05)
        assert len(world.subscriber.messages) == module.FIRST_WINDOW
        shelf.free.set()
        await world.outbox.drain()
        assert world.subscriber.ids() == [each.id for each in committed]
        assert shelf.events == {}


async def test_the_window_grows_while_events_wait_and_shrinks_when_none_are_left() -> None:
    """Never beyond LARGEST_WINDOW; the next burst starts with FIRST_WINDOW again."""
    world = World()
    shelf = MeasuredShelf(world.subscriber)
    async with opened(world):
        for _ in range(2):
            shelf.uncleared.clear()
            for each in (burst := [event() for _ in range(20 * module.LARGEST_WINDOW)]):
                shelf.events[each.id] = each
                world.outbox.announce(shelf, each)
            await world.outbox.drain()
            assert world.subscriber.ids()[-len(burst) :] == [each.id for each in burst]
            assert shelf.uncleared[0] == module.FIRST_WINDOW
            assert max(shelf.uncleared) == module.LARGEST_WINDOW


async def test_many_confirmed_events_are_cleared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only fewer events are gathered for a while before they are cleared."""
    monkeypatch.setattr(module, "CLEAR_INTERVAL", 3600.0)
    committed = [event() for _ in range(module.FIRST_WINDOW)]
    shelf = Shelf(*committed)
    async with opened(World()) as world:
        for each in committed:
            world.outbox.announce(shelf, each)
        await world.outbox.drain()
        assert (shelf.events, shelf.clearings) == ({}, 1)


async def test_events_announced_before_opening_are_published() -> None:
    """Events announced before the outbox opened are published."""
    committed = event()
    world, shelf = World(), Shelf(committed)
    world.outbox.announce(shelf, committed)
    async with opened(world):
        await world.outbox.drain()
        assert shelf.events == {}


async def test_each_collection_is_cleared_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of several collections share publishes, but are cleared separately."""
    monkeypatch.setattr(module, "SWEEP_INTERVAL", 3600.0)
    grants, clients = Shelf(event(), name="grants"), Shelf(event(), name="clients")
    async with opened(World()) as world:
        for shelf in (grants, clients):
            for each in list(shelf.events.values()):
                world.outbox.announce(shelf, each)
        await world.outbox.drain()
        assert (grants.events, clients.events) == ({}, {})
        assert (grants.clearings, clients.clearings) == (1, 1)


async def test_b1_an_event_is_cleared_although_its_notification_was_not_taken() -> None:
    """An event is cleared even if its notification was refused: the notifier fetches it from the record."""
    committed = event(sealed=b"sealed")
    shelf = Shelf(committed)
    async with opened(World(notified=False)) as world:
        world.outbox.announce(shelf, committed)
        await world.outbox.drain()
        assert world.subscriber.ids() == [committed.id]
        assert shelf.events == {}


async def test_an_event_that_the_broker_refuses_delays_no_other() -> None:
    """In one batch each event has its own result."""
    good, bad = [event(), event()], event(word="x" * LONGEST_KEY)
    shelf = Shelf(*good, bad)
    async with opened(World()) as world:
        for each in (good[0], bad, good[1]):
            world.outbox.announce(shelf, each)
        await world.outbox.drain()
        assert world.subscriber.ids() == [each.id for each in good]
        assert shelf.events.keys() == {bad.id}


async def test_only_so_many_events_wait_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events in memory are bounded while the bus is away; the sweeper publishes the rest."""
    monkeypatch.setattr(module, "WAITING_LIMIT", 3)
    committed = [event(OLD + timedelta(milliseconds=number)) for number in range(8)]
    world, shelf = World(), Shelf(*committed)
    world.outbox.watch(shelf)
    for each in committed:
        world.outbox.announce(shelf, each)
    async with opened(world):
        await eventually(lambda: not shelf.events)
        assert sorted(world.subscriber.ids()) == sorted(each.id for each in committed)
        assert world.subscriber.ids()[:3] == [each.id for each in committed[:3]]


# The sweeper


async def test_unpublished_events_are_left_to_the_sweeper() -> None:
    """If publishing fails the event stays in its record, no request waits, and the sweeper publishes it."""
    committed = event(OLD)
    world, shelf = World(), Shelf(committed)
    await world.outbox.open()
    world.outbox.watch(shelf)
    world.outbox.announce(shelf, committed)
    await world.outbox.drain()
    assert shelf.events.keys() == {committed.id}
    await world.bus.open()
    await eventually(lambda: not shelf.events)
    assert world.subscriber.ids() == [committed.id]
    await world.outbox.close()
    await world.bus.close()


async def test_events_of_a_dead_process_are_swept_in_order() -> None:
    """The sweeper publishes a dead process's events, oldest first, batch by batch."""
    committed = [event(OLD - timedelta(milliseconds=number)) for number in range(module.BATCH + 44)]
    world, shelf = World(), Shelf(*committed)
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: not shelf.events)
        assert world.subscriber.ids() == [each.id for each in reversed(committed)]


async def test_young_events_are_left_to_their_process() -> None:
    """The sweeper leaves events younger than two seconds to the process that wrote them."""
    young, old = event(NOW - SWEEP_AFTER), event(OLD)
    world, shelf = World(), Shelf(young, old)
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: old.id not in shelf.events)
        before = shelf.asked
        await eventually(lambda: shelf.asked >= before + 4)  # at least one more sweep
        assert shelf.events.keys() == {young.id}
        assert world.subscriber.ids() == [old.id]


async def test_the_sweeper_skips_events_in_flight() -> None:
    """An event whose publish is unconfirmed is not published again."""
    committed = event(OLD)
    world, shelf = World(), Shelf(committed)
    world.subscriber.free.clear()
    world.outbox.watch(shelf)
    async with opened(world):
        world.outbox.announce(shelf, committed)
        await eventually(lambda: shelf.asked >= 6)
        world.subscriber.free.set()
        await world.outbox.drain()
        assert world.subscriber.ids() == [committed.id]


async def test_one_process_sweeps_at_a_time() -> None:
    """Only the leader sweeps; a new leader continues."""
    world, shelf = World(), Shelf(event(OLD))
    shelf.leads = False
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: shelf.asked >= 6)
        assert world.subscriber.messages == []
        shelf.leads = True
        await eventually(lambda: not shelf.events)
        assert len(world.subscriber.messages) == 1


async def test_what_a_dead_process_numbered_is_adopted_and_published() -> None:
    """Batch by batch, by the leader, if it is old enough and this process does not publish it itself."""
    left = [event(OLD) for _ in range(module.BATCH + 44)]
    young, mine = event(NOW), event(OLD)
    world, shelf = World(), Shelf()
    shelf.numbered = {each.id: each for each in (*left, young, mine)}
    shelf.leads = False
    world.subscriber.free.clear()
    world.outbox.watch(shelf)
    async with opened(world):
        world.outbox.announce(shelf, mine)
        await eventually(lambda: shelf.asked >= 9)
        assert len(shelf.numbered) == len(left) + 2
        shelf.leads = True
        await eventually(lambda: shelf.numbered.keys() == {young.id, mine.id})
        world.subscriber.free.set()
        await eventually(lambda: not shelf.events)
        # Its own event may come twice: the subscriber held up the confirmation for longer than a publication waits.
        assert sorted({*world.subscriber.ids()}) == sorted([*(each.id for each in left), mine.id])
        assert sum(received != mine.id for received in world.subscriber.ids()) == len(left)


async def test_numbered_events_are_adopted_while_the_bus_is_away() -> None:
    """They are kept from being purged, and published when the bus works."""
    left = event(OLD)
    world, shelf = World(), Shelf()
    shelf.numbered = {left.id: left}
    await world.outbox.open()
    world.outbox.watch(shelf)
    await eventually(lambda: shelf.events.keys() == {left.id})
    await world.bus.open()
    await eventually(lambda: not shelf.events)
    assert world.subscriber.ids() == [left.id]
    await world.outbox.close()
    await world.bus.close()


async def test_an_event_that_this_process_does_not_publish_is_given_up() -> None:
    """Those that wait to be published are not."""
    waiting = event()
    world, shelf = World(), Shelf(waiting)
    world.subscriber.free.clear()
    world.outbox.watch(shelf)
    shelf.given_up = [*(f"evt_{number}" for number in range(module.BATCH + 1)), waiting.id]
    async with opened(world):
        world.outbox.announce(shelf, waiting)
        await eventually(lambda: shelf.given_up == [waiting.id])
        before = shelf.asked
        await eventually(lambda: shelf.asked >= before + 4)  # at least one more sweep
        assert shelf.given_up == [waiting.id]
        world.subscriber.free.set()


async def test_records_whose_time_is_over_are_purged_by_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch by batch, until none is left."""
    monkeypatch.setattr(module, "PURGE_INTERVAL", 0.01)
    world, shelf = World(), Shelf()
    shelf.over = [f"record-{number}" for number in range(module.PURGE_BATCH + 1)]
    shelf.leads = False
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: shelf.asked >= 9)
        assert len(shelf.over) == module.PURGE_BATCH + 1
        shelf.leads = True
        await eventually(lambda: not shelf.over)


async def test_the_backlog_is_measured() -> None:
    """Number and age of waiting events are metrics."""
    world, shelf = World(), Shelf(event(NOW - timedelta(seconds=1)), event(NOW), name="measured")
    world.outbox.watch(shelf)

    def measured(name: str) -> float | None:
        return REGISTRY.get_sample_value(f"tokenwire_outbox_{name}", {"collection": "measured"})

    async with opened(world):
        await eventually(lambda: measured("backlog") == 2)
        assert measured("oldest_seconds") == 1
        shelf.events.clear()
        await eventually(lambda: measured("backlog") == 0)
        assert measured("oldest_seconds") == 0


async def test_b1_a_late_confirmation_clears_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late confirmation clears the event; no sweep is needed."""
    monkeypatch.setattr(module, "SWEEP_INTERVAL", 3600.0)
    monkeypatch.setattr(module, "IMMEDIATELY", 0.01)
    committed = event()
    world, shelf = World(), Shelf(committed)
    world.bus = LocalBus(world.broker, publish_timeout=0.05)
    world.subscribe("all", Exchange.EVENTS, "#", world.subscriber)
    world.outbox = Outbox(world.bus, lambda: NOW)
    world.subscriber.free.clear()
    async with opened(world):
        world.outbox.announce(shelf, committed)
        await world.outbox.drain()
        assert shelf.events.keys() == {committed.id}
        world.subscriber.free.set()
        await eventually(lambda: not shelf.events)
        assert world.subscriber.ids() == [committed.id]


class Stalling(LocalBus):
    """A bus that does not confirm for a while."""

    answering = 0.0

    @property
    def confirming_for(self) -> float:
        return self.answering


async def test_b1_nothing_is_swept_until_the_bus_has_answered_for_a_while() -> None:
    """Sweeping waits until the bus has confirmed for a while, so that others' events are cleared first."""
    world, shelf = World(), Shelf(event(OLD))
    world.bus = stalling = Stalling(world.broker)
    world.subscribe("all", Exchange.EVENTS, "#", world.subscriber)
    world.outbox = Outbox(world.bus, lambda: NOW)
    world.outbox.watch(shelf)
    async with opened(world):
        stalling.answering = SWEEP_AFTER.total_seconds() - 0.1
        before = shelf.asked
        await eventually(lambda: shelf.asked >= before + 6)
        assert world.subscriber.messages == []
        stalling.answering = SWEEP_AFTER.total_seconds()
        await eventually(lambda: not shelf.events)


# Refused events


class Choosy(LocalBus):
    """A bus whose queues refuse some routing keys, while others receive the event, as on a broker."""

    def __init__(self, broker: LocalBroker) -> None:
        super().__init__(broker)
        self.refused_by_subscriber: set[str] = set()
        """Routing keys that a subscriber's queue refuses."""
        self.refused_by_pool: set[str] = set()
        self.full_disk = False
        """Whether every queue refuses every message."""
        self.offered: list[Message] = []

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        self.offered += messages
        if self.full_disk:
            return [Outcome.REFUSED] * len(messages)
        outcomes = await super().publish(messages)
        return [
            Outcome.REFUSED if message.key in self._refused(message) else outcome
            for message, outcome in zip(messages, outcomes, strict=True)
        ]

    def _refused(self, message: Message) -> set[str]:
        match message.exchange:
            case Exchange.EVENTS:
                return self.refused_by_subscriber | self.refused_by_pool
            case Exchange.POOLS:
                return self.refused_by_pool
            case _:
                return set()

    def times(self, exchange: Exchange, committed: PendingEvent) -> int:
        """How often the event was published there."""
        return sum(message.id == committed.id and message.exchange is exchange for message in self.offered)


class ChoosyWorld(World):
    """The outbox on such a bus."""

    def __init__(self) -> None:
        super().__init__()
        self.choosy = Choosy(self.broker)
        self.bus = self.choosy
        self.subscribe("all", Exchange.EVENTS, "#", self.subscriber)
        self.subscribe("notifier", Exchange.NOTIFY, "notify", self.notifier)
        self.outbox = Outbox(self.bus, lambda: NOW)


@pytest.fixture(name="retries")
def _retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused events are retried after 30 ms, and at most 120 ms later."""
    monkeypatch.setattr(module, "FIRST_RETRY_BACKOFF", 0.03)
    monkeypatch.setattr(module, "LONGEST_RETRY_BACKOFF", dict.fromkeys(RefusedBy, 0.12))
    monkeypatch.setattr(module, "RETRY_PAUSE", 0.0)


async def test_b1_a_refused_event_delays_no_other() -> None:
    """A full subscriber queue delays no other event: each refused event is tried once and set aside, its notification
    is sent, and later events go on.
    """
    refused = [
        event(OLD - timedelta(milliseconds=number), sealed=b"sealed", word="refused")
        for number in range(module.BATCH + 44)
    ]
    taken = event(OLD, word="taken")
    world, shelf = ChoosyWorld(), Shelf(*refused, taken)
    world.choosy.refused_by_subscriber = {refused[0].key}
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: taken.id not in shelf.events)
        assert {each.refused_by for each in shelf.events.values()} == {RefusedBy.SUBSCRIBER}
        assert sorted(world.notifier.ids()) == sorted(f"{each.id}:n" for each in refused)
        assert {world.choosy.times(Exchange.EVENTS, each) for each in refused} == {1}


async def test_b1_refused_events_are_tried_one_at_a_time(retries: None) -> None:
    """Each retry publishes one refused event; when it is accepted, all others follow."""
    refused = [event(OLD + timedelta(milliseconds=number), word="refused") for number in range(200)]
    world, shelf = ChoosyWorld(), Shelf(*refused)
    world.choosy.refused_by_subscriber = {refused[0].key}
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: world.choosy.times(Exchange.EVENTS, refused[0]) >= 4)
        assert {world.choosy.times(Exchange.EVENTS, each) for each in refused[1:]} == {1}
        world.choosy.refused_by_subscriber.clear()
        await eventually(lambda: not shelf.events)
        assert {world.choosy.times(Exchange.EVENTS, each) for each in refused[1:]} == {2}


async def test_b1_a_permanently_refused_event_delays_no_other(retries: None) -> None:
    """Refused events with other routing keys are retried independently."""
    bad, good = event(OLD, word="bad"), event(OLD + timedelta(milliseconds=1), word="good")
    world, shelf = ChoosyWorld(), Shelf(bad, good)
    world.choosy.refused_by_subscriber = {bad.key, good.key}
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: all(each.refused_by for each in shelf.events.values()))
        world.choosy.refused_by_subscriber = {bad.key}
        await eventually(lambda: shelf.events.keys() == {bad.id})


async def test_b1_an_event_refused_by_a_pool_reaches_subscribers_once(retries: None) -> None:
    """If Tokenwire's own queue was full, its events are retried to its own pools only, except one probe of
    every queue.
    """
    refused = [event(OLD + timedelta(milliseconds=number), word="refused") for number in range(200)]
    world, shelf = ChoosyWorld(), Shelf(*refused)
    world.choosy.refused_by_pool = {refused[0].key}
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: world.choosy.times(Exchange.POOLS, refused[0]) >= 4)
        assert {each.refused_by for each in shelf.events.values()} == {RefusedBy.POOL}
        assert {world.choosy.times(Exchange.EVENTS, each) for each in refused} == {1}
        world.choosy.refused_by_pool.clear()
        await eventually(lambda: not shelf.events)
        assert sum(world.choosy.times(Exchange.EVENTS, each) for each in refused) == len(refused) + 1


async def test_b1_an_event_refused_by_pool_and_subscriber_reaches_both(retries: None) -> None:
    """If a pool accepts events again and a subscriber does not, the pool gets them now and the subscriber later."""
    refused = [event(OLD + timedelta(milliseconds=number), word="refused") for number in range(200)]
    world, shelf = ChoosyWorld(), Shelf(*refused)
    world.choosy.refused_by_pool = {refused[0].key}
    world.choosy.refused_by_subscriber = {refused[0].key}
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: {each.refused_by for each in shelf.events.values()} == {RefusedBy.POOL})
        world.choosy.refused_by_pool.clear()
        await eventually(lambda: {each.refused_by for each in shelf.events.values()} == {RefusedBy.SUBSCRIBER})
        assert {world.choosy.times(Exchange.EVENTS, each) for each in refused[1:]} == {1}
        world.choosy.refused_by_subscriber.clear()
        await eventually(lambda: not shelf.events)
        assert {world.choosy.times(Exchange.EVENTS, each) for each in refused[1:]} == {2}


async def test_b1_an_event_that_every_queue_refused_reaches_every_queue(retries: None) -> None:
    """If the broker refuses a probe as well, subscribers have missed the event, and get it when it accepts again."""
    refused = [event(OLD + timedelta(milliseconds=number), word="refused") for number in range(200)]
    world, shelf = ChoosyWorld(), Shelf(*refused)
    world.choosy.full_disk = True
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: all(each.refused_by for each in shelf.events.values()))
        assert world.subscriber.ids() == []
        world.choosy.full_disk = False
        await eventually(lambda: not shelf.events)
        assert sorted(world.subscriber.ids()) == sorted(each.id for each in refused)


async def test_b1_refused_events_are_measured() -> None:
    """Number and age of refused events are metrics, separate from waiting ones."""
    refused = event(NOW - timedelta(seconds=30), word="refused")
    world, shelf = ChoosyWorld(), Shelf(refused, name="refusals")
    world.choosy.refused_by_subscriber = {refused.key}
    world.outbox.watch(shelf)

    def measured(name: str) -> float | None:
        return REGISTRY.get_sample_value(f"tokenwire_outbox_{name}", {"collection": "refusals"})

    async with opened(world):
        await eventually(lambda: measured("refused") == 1)
        assert measured("refused_oldest_seconds") == 30
        await eventually(lambda: measured("backlog") == 0)


async def test_b1_one_process_tries_refused_events() -> None:
    """Only the leader retries refused events."""
    refused = event(OLD, word="refused")._replace(refused_by=RefusedBy.SUBSCRIBER)
    world, shelf = ChoosyWorld(), Shelf(refused)
    shelf.leads = False
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: shelf.asked >= 9)
        assert world.choosy.offered == []


# Database failures


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(TemporarilyUnavailable("the database is not available"), id="outage"),
        pytest.param(RuntimeError("a bug, or a fault nobody foresaw"), id="unforeseen"),
    ],
)
async def test_b6_an_event_that_cannot_be_cleared_is_published_once(failure: Exception) -> None:
    """If clearing fails it is repeated, not the publish; then the outbox continues."""
    first, second = event(OLD), event(OLD + timedelta(milliseconds=1))
    world, shelf = World(), Shelf(first)
    shelf.failure = failure
    world.outbox.watch(shelf)
    async with opened(world):
        world.outbox.announce(shelf, first)
        await world.outbox.drain()
        await eventually(lambda: shelf.clearings >= 4)
        assert shelf.events.keys() == {first.id}
        shelf.failure = None
        await eventually(lambda: not shelf.events)
        assert world.subscriber.ids() == [first.id]
        shelf.events[second.id] = second
        world.outbox.announce(shelf, second)
        await eventually(lambda: not shelf.events)
        assert world.subscriber.ids() == [first.id, second.id]


async def test_b6_a_swept_event_that_cannot_be_cleared_is_published_once() -> None:
    """While only clearing fails, events are swept once."""
    committed = [event(OLD + timedelta(milliseconds=number)) for number in range(20)]
    world, shelf = World(), Shelf(*committed)
    shelf.unclearable = {each.id for each in committed}
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: shelf.clearings >= 6)
        shelf.unclearable.clear()
        await eventually(lambda: not shelf.events)
        assert world.subscriber.ids() == [each.id for each in committed]


async def test_b6_a_record_that_cannot_be_cleared_does_not_block_others() -> None:
    """After a failed batch each record is cleared by itself, so one bad record delays no other."""
    bad, *good = (event() for _ in range(10))
    shelf = Shelf(bad, *good)
    shelf.unclearable = {bad.id}
    async with opened(World()) as world:
        for each in (bad, *good):
            world.outbox.announce(shelf, each)
        await eventually(lambda: shelf.events.keys() == {bad.id})
        shelf.unclearable.clear()
        await eventually(lambda: not shelf.events)
        assert sorted(world.subscriber.ids()) == sorted(each.id for each in (bad, *good))


async def test_b6_only_so_many_events_wait_for_their_clearing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events waiting to be cleared are bounded in memory; more stay unpublished in their records."""
    monkeypatch.setattr(module, "WAITING_LIMIT", 3)
    monkeypatch.setattr(module, "SWEEP_INTERVAL", 3600.0)
    committed = [event(OLD + timedelta(milliseconds=number)) for number in range(8)]
    shelf = Shelf(*committed)
    shelf.unclearable = {each.id for each in committed}
    async with opened(World()) as world:
        for each in committed[:3]:
            world.outbox.announce(shelf, each)
        await eventually(lambda: shelf.clearings >= 3)
        for each in committed[3:]:
            world.outbox.announce(shelf, each)
        shelf.unclearable.clear()
        await eventually(lambda: shelf.events.keys() == {each.id for each in committed[3:]})
        assert world.subscriber.ids() == [each.id for each in committed[:3]]


async def test_one_collections_failure_does_not_keep_another_from_being_swept() -> None:
    """Each collection is swept independently."""
    broken, whole = Shelf(event(OLD), name="broken"), Shelf(event(OLD), name="whole")
    broken.failure = RuntimeError("broken")
    world = World()
    world.outbox.watch(broken)
    world.outbox.watch(whole)
    async with opened(world):
        await eventually(lambda: not whole.events)


@pytest.mark.parametrize("task", ["outbox-sweep", "outbox-clear"])
async def test_b3_an_unknown_failure_is_visible_and_the_outbox_goes_on(task: str) -> None:
    """The supervisor names the failing task; after recovery the event is published and cleared."""
    committed = event(OLD)
    world, shelf = World(), Shelf(committed)
    supervisor = Supervisor(Backoff(first_delay=0.01, longest_delay=0.01, recovered_after=0.1))
    await world.bus.open()
    await world.outbox.open(supervisor)
    shelf.failure = RuntimeError("an unknown fault")
    if task == "outbox-sweep":
        world.outbox.watch(shelf)
    else:
        world.outbox.announce(shelf, committed)
    await eventually(lambda: supervisor.failures(essential=True).get(task) == "RuntimeError")
    shelf.failure = None
    world.outbox.watch(shelf)
    await eventually(lambda: not shelf.events)
    await eventually(lambda: not supervisor.failures(essential=True))
    await world.outbox.close()
    await world.bus.close()
    assert supervisor.tasks == ()


# Closing


async def test_closing_publishes_what_is_waiting() -> None:
    """A graceful stop publishes waiting events; closing twice does nothing."""
    committed = [event() for _ in range(300)]
    shelf = Shelf(*committed)
    async with opened(World()) as world:
        for each in committed:
            world.outbox.announce(shelf, each)
        await world.outbox.close()
        assert shelf.events == {}
        assert len(world.subscriber.messages) == 300
        await world.outbox.close()


async def test_closing_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the bus does not confirm, closing takes a bounded time, and events stay in their records."""
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0.1)
    committed = event()
    shelf = Shelf(committed)
    async with opened(World()) as world:
        world.subscriber.free.clear()
        world.outbox.announce(shelf, committed)
        async with asyncio.timeout(2):
            await world.outbox.close()
        assert shelf.events.keys() == {committed.id}
        world.subscriber.free.set()


@pytest.mark.parametrize("failure", [TemporarilyUnavailable("away"), RuntimeError("broken")], ids=["away", "broken"])
async def test_closing_gives_up_what_was_not_published(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """It is then pending like every event; a collection that fails does not keep others from it."""
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0.1)
    committed = event()
    shelf, broken = Shelf(committed), Shelf(name="broken")
    shelf.given_up = [committed.id, *(f"evt_{number}" for number in range(module.BATCH))]

    async def fails(*_: object) -> int:
        raise failure

    async with opened(World()) as world:
        world.outbox.watch(broken)
        world.outbox.watch(shelf)
        world.subscriber.free.clear()
        world.outbox.announce(shelf, committed)
        monkeypatch.setattr(broken, "give_up", fails)
        await world.outbox.close()
        assert shelf.given_up == []
        world.subscriber.free.set()


async def test_closing_an_unopened_outbox_does_nothing() -> None:
    """Closing an unopened outbox does nothing, for processes that fail to start."""
    await World().outbox.close()
