"""The outbox: what was committed is published at least once, in whatever state bus and database are."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from contracts.apis import GrantType
from contracts.events import PendingEvent, TokenData, TokenNew
from libs.bus import outbox as module
from libs.bus.local import LocalBroker, LocalBus
from libs.bus.outbox import SWEEP_AFTER, Outbox, messages_of
from libs.bus.port import LONGEST_KEY, Delivery, Exchange, Message, Mode, Subscription
from libs.events import pending
from libs.oauth.errors import TemporarilyUnavailable
from tests.eventually import eventually

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
OLD = NOW - SWEEP_AFTER - timedelta(seconds=1)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_numbers = itertools.count(1)


def event(at: datetime = NOW, *, sealed: bytes | None = None, word: str = "orders") -> PendingEvent:
    """A token event of a grant of its own."""
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
    """Records with their pending events, as a collection has them; it fails as it is told to."""

    def __init__(self, *events: PendingEvent, name: str = "grants") -> None:
        self.name = name
        self.events = {event.id: event for event in events}
        self.failure: Exception | None = None
        self.leads = True
        self.asked = 0

    async def pending(self, before: datetime, limit: int) -> Sequence[PendingEvent]:
        self._fail()
        waiting = (event for event in self.events.values() if event.at < before)
        return sorted(waiting, key=lambda event: event.at)[:limit]

    async def clear(self, events: Sequence[PendingEvent]) -> None:
        self._fail()
        for event in events:
            self.events.pop(event.id, None)

    async def lead(self, holder: str, now: datetime) -> bool:
        assert holder
        assert now == NOW
        return self.leads

    async def backlog(self) -> tuple[int, datetime | None]:
        self._fail()
        return len(self.events), min((event.at for event in self.events.values()), default=None)

    def _fail(self) -> None:
        self.asked += 1
        if self.failure is not None:
            raise self.failure


class Subscriber:
    """Everything that came, in order; it can be made to hold on to what comes."""

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
    """A bus with a subscriber to everything, and an outbox that publishes to it."""

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
    """A sweep every 20 ms instead of every second, and no line about each that fails."""
    monkeypatch.setattr(module, "SWEEP_EVERY", 0.02)
    monkeypatch.setattr(module, "CLEAR_EVERY", 0.002)
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
    """CloudEvents in structured mode: the body as committed, each attribute a header, the trace for the next hop."""
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
    """The event again and the sealed body, for the notifier's exchange alone, under an id of its own."""
    public, companion = messages_of(event(sealed=b"\0sealed\xff"))
    assert companion.id == f"{public.id}:n"
    assert (companion.exchange, companion.key, companion.headers) == (Exchange.NOTIFY, "notify", {})
    assert orjson.loads(companion.body) == {"event": orjson.loads(public.body), "sealed": "AHNlYWxlZP8="}
    assert b"sealed" not in public.body


# The fast path


async def test_an_announced_event_is_published_and_cleared() -> None:
    """At once, without a sweep: after `drain` it is with everybody and its record is free of it."""
    committed = event()
    shelf = Shelf(committed)
    async with opened(World()) as world:
        world.outbox.announce(shelf, committed)
        await world.outbox.drain()
        assert world.subscriber.ids() == [committed.id]
        assert shelf.events == {}


async def test_events_of_one_process_keep_their_order() -> None:
    """A subscriber hears of one record's changes in the order in which they were made, however many there are."""
    committed = [event() for _ in range(600)]
    shelf = Shelf(*committed)
    async with opened(World()) as world:
        for each in committed:
            world.outbox.announce(shelf, each)
        await world.outbox.drain()
        assert world.subscriber.ids() == [each.id for each in committed]
        assert shelf.events == {}


async def test_what_was_announced_before_the_start_is_published() -> None:
    """Nothing is lost because a change was quicker than the outbox."""
    committed = event()
    world, shelf = World(), Shelf(committed)
    world.outbox.announce(shelf, committed)
    async with opened(world):
        await world.outbox.drain()
        assert shelf.events == {}


async def test_each_collection_is_cleared_of_its_own() -> None:
    """Events of several collections share publications, not clearing writes."""
    grants, clients = Shelf(event(), name="grants"), Shelf(event(), name="clients")
    async with opened(World()) as world:
        for shelf in (grants, clients):
            for each in list(shelf.events.values()):
                world.outbox.announce(shelf, each)
        await world.outbox.drain()
        assert (grants.events, clients.events) == ({}, {})
        assert (grants.asked, clients.asked) == (1, 1)


async def test_a_notified_event_is_cleared_when_both_copies_are_safe() -> None:
    """The public copy alone is not enough: the notification must be with the notifier, too."""
    committed = event(OLD, sealed=b"sealed")
    shelf = Shelf(committed)
    async with opened(World(notified=False)) as world:
        world.outbox.announce(shelf, committed)
        await world.outbox.drain()
        assert world.subscriber.ids() == [committed.id]
        assert shelf.events.keys() == {committed.id}
        world.subscribe("notifier", Exchange.NOTIFY, "notify", world.notifier)
        world.outbox.watch(shelf)
        await eventually(lambda: not shelf.events)
        assert world.notifier.ids() == [f"{committed.id}:n"]
        assert world.subscriber.ids() == [committed.id] * 2


async def test_an_event_that_no_broker_takes_keeps_no_other_back() -> None:
    """In one batch each event has an outcome of its own."""
    good, bad = [event(), event()], event(word="x" * LONGEST_KEY)
    shelf = Shelf(*good, bad)
    async with opened(World()) as world:
        for each in (good[0], bad, good[1]):
            world.outbox.announce(shelf, each)
        await world.outbox.drain()
        assert world.subscriber.ids() == [each.id for each in good]
        assert shelf.events.keys() == {bad.id}


async def test_only_so_many_events_wait_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the bus is away memory does not grow: what is over the limit is left to the sweeper, and arrives."""
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


async def test_what_could_not_be_published_is_left_to_the_sweeper() -> None:
    """The bus is away: the event stays in its record, nobody waits for it, and it goes out when the bus is back."""
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


async def test_what_a_dead_process_left_is_swept_in_order() -> None:
    """Nobody announces it here: the oldest goes first, batch after batch, until nothing is left."""
    committed = [event(OLD - timedelta(milliseconds=number)) for number in range(module.BATCH + 44)]
    world, shelf = World(), Shelf(*committed)
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: not shelf.events)
        assert world.subscriber.ids() == [each.id for each in reversed(committed)]


async def test_young_events_belong_to_whoever_wrote_them() -> None:
    """The sweeper lets the fast path of other processes have its two seconds."""
    young, old = event(NOW - SWEEP_AFTER), event(OLD)
    world, shelf = World(), Shelf(young, old)
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: old.id not in shelf.events)
        before = shelf.asked
        await eventually(lambda: shelf.asked >= before + 4)  # another sweep, at least
        assert shelf.events.keys() == {young.id}
        assert world.subscriber.ids() == [old.id]


async def test_the_sweeper_leaves_alone_what_is_on_its_way() -> None:
    """An event whose publication is not yet confirmed is not published again beside it."""
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
    """Who does not lead sweeps nothing; who leads from now on sweeps it all."""
    world, shelf = World(), Shelf(event(OLD))
    shelf.leads = False
    world.outbox.watch(shelf)
    async with opened(world):
        await eventually(lambda: shelf.asked >= 6)
        assert world.subscriber.messages == []
        shelf.leads = True
        await eventually(lambda: not shelf.events)
        assert len(world.subscriber.messages) == 1


async def test_the_backlog_is_measured() -> None:
    """How much waits, and for how long, is there for an alarm."""
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


# Failures of the database


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(TemporarilyUnavailable("the database is not available"), id="outage"),
        pytest.param(RuntimeError("a bug, or a fault nobody foresaw"), id="unforeseen"),
    ],
)
async def test_a_failing_database_ends_neither_clearing_nor_sweeping(failure: Exception) -> None:
    """Published and not cleared is published again, with the same id, once the database is back."""
    first, second = event(OLD), event(OLD + timedelta(milliseconds=1))
    world, shelf = World(), Shelf(first)
    shelf.failure = failure
    world.outbox.watch(shelf)
    async with opened(world):
        world.outbox.announce(shelf, first)
        await world.outbox.drain()
        await eventually(lambda: shelf.asked >= 4)
        assert shelf.events.keys() == {first.id}
        shelf.failure = None
        await eventually(lambda: not shelf.events)
        assert world.subscriber.ids() == [first.id] * 2
        shelf.events[second.id] = second
        world.outbox.announce(shelf, second)
        await world.outbox.drain()
        assert shelf.events == {}
        assert world.subscriber.ids()[2:] == [second.id]


async def test_one_collections_failure_does_not_keep_another_from_being_swept() -> None:
    """Each collection is swept on its own."""
    broken, whole = Shelf(event(OLD), name="broken"), Shelf(event(OLD), name="whole")
    broken.failure = RuntimeError("broken")
    world = World()
    world.outbox.watch(broken)
    world.outbox.watch(whole)
    async with opened(world):
        await eventually(lambda: not whole.events)


# The end


async def test_closing_publishes_what_is_waiting() -> None:
    """A process that stops in order leaves nothing to the sweeper; closing twice does no harm."""
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
    """A bus that confirms nothing delays the end by a bounded time; the event stays in its record."""
    monkeypatch.setattr(module, "CLOSE_WITHIN", 0.1)
    committed = event()
    shelf = Shelf(committed)
    async with opened(World()) as world:
        world.subscriber.free.clear()
        world.outbox.announce(shelf, committed)
        async with asyncio.timeout(2):
            await world.outbox.close()
        assert shelf.events.keys() == {committed.id}
        world.subscriber.free.set()


async def test_closing_what_was_never_opened_is_nothing() -> None:
    """A process that fails to start can close all that it has built."""
    await World().outbox.close()
