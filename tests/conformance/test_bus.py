"""What the port promises, kept by RabbitMQ and by the bus inside one process."""

import asyncio
import itertools
import time

import pytest
import structlog.testing

from libs.bus.port import BusUnavailable, Delivery, Drop, Exchange, Mode, Parking, Retry, Subscription
from tests.conformance.conftest import DELIVERY_LIMIT, Fleet, answers, ready
from tests.conformance.recorder import Gate, Recorder, event, notification, raising
from tests.eventually import eventually

pytestmark = pytest.mark.timeout(60)


async def test_a_message_arrives_as_it_was_published(fleet: Fleet) -> None:
    """What is confirmed was routed, and the handler sees the very bytes, key, headers and type."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("audit", Exchange.EVENTS, ("#",), handler))
    await ready(bus)
    message = event()

    assert await bus.publish([message]) == [True]

    await bus.drain()
    assert handler.deliveries == [Delivery(message, redelivered=False)]


async def test_a_body_of_many_frames_arrives_whole(fleet: Fleet) -> None:
    """A body is only limited by what its reader accepts; an empty one is one, too."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("audit", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)
    bodies = [bytes(range(256)) * 2048, b"", b"x"]

    assert await bus.publish([notification(body=body) for body in bodies]) == [True] * 3

    await bus.drain()
    assert sorted(message.body for message in handler.messages) == sorted(bodies)


async def test_every_pool_gets_its_copy(fleet: Fleet) -> None:
    """Two pools bound to the same key each handle every message once."""
    bus, first, second = await fleet.instance(), Recorder(), Recorder()
    bus.subscribe(Subscription("first", Exchange.EVENTS, ("token.#",), first))
    bus.subscribe(Subscription("second", Exchange.EVENTS, ("token.new.*",), second))
    await ready(bus)
    messages = [event() for _ in range(20)]

    assert all(await bus.publish(messages))

    await bus.drain()
    expected = sorted(message.id for message in messages)
    assert (sorted(first.ids), sorted(second.ids)) == (expected, expected)


async def test_a_pool_shares_the_work(fleet: Fleet) -> None:
    """Every message is handled once, by whichever instance is free, and none of them is left out."""
    handlers = [Recorder(lambda _: asyncio.sleep(0.005)) for _ in range(2)]
    buses = [await fleet.instance() for _ in handlers]
    for bus, handler in zip(buses, handlers, strict=True):
        bus.subscribe(Subscription("shared", Exchange.NOTIFY, ("work",), handler, prefetch=2))
    await ready(*buses)
    messages = [notification() for _ in range(40)]

    assert all(await buses[0].publish(messages))

    await eventually(lambda: sum(len(handler.ids) for handler in handlers) >= 40)
    for bus in buses:
        await bus.drain()
    assert sorted(handlers[0].ids + handlers[1].ids) == sorted(message.id for message in messages)
    assert all(len(handler.ids) > 5 for handler in handlers)


@pytest.mark.parametrize(
    ("binding", "taken"),
    [
        pytest.param("token.new.api-1", {"token.new.api-1"}, id="exact"),
        pytest.param("token.*.api-1", {"token.new.api-1", "token.refresh.api-1"}, id="one-word"),
        pytest.param("token.*", set(), id="one-word-is-not-two"),
        pytest.param("token.#", {"token.new.api-1", "token.refresh.api-1", "token"}, id="any-number-of-words"),
        pytest.param(
            "#.api-1", {"token.new.api-1", "token.refresh.api-1", "client.created.x.y.api-1"}, id="any-in-front"
        ),
        pytest.param("*.#.api-1", {"token.new.api-1", "token.refresh.api-1", "client.created.x.y.api-1"}, id="both"),
    ],
)
async def test_wildcards_take_in_words(fleet: Fleet, binding: str, taken: set[str]) -> None:
    """`*` stands for exactly one word, `#` for any number of them, none included."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("some", Exchange.EVENTS, (binding,), handler))
    await ready(bus)
    keys = ["token.new.api-1", "token.refresh.api-1", "client.created.x.y.api-1", "token"]

    assert all(await bus.publish([event(key) for key in keys]))

    await bus.drain()
    assert {message.key for message in handler.messages} == taken


async def test_the_direct_exchange_knows_no_wildcards(fleet: Fleet) -> None:
    """On NOTIFY a binding key is compared as it is."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("literal", Exchange.NOTIFY, ("#",), handler))
    await ready(bus)

    assert await bus.publish([notification("other"), notification("#")]) == [False, True]


async def test_a_broadcast_reaches_every_instance(fleet: Fleet) -> None:
    """Every instance that is up gets every message, after it was told that it may have missed some."""
    handlers, gaps = [Recorder(), Recorder(), Recorder()], [0, 0, 0]

    def note(instance: int) -> None:
        assert not handlers[instance].deliveries
        gaps[instance] += 1

    buses = [await fleet.instance() for _ in handlers]
    for number, (bus, handler) in enumerate(zip(buses, handlers, strict=True)):
        bus.subscribe(
            Subscription(
                "cache",
                Exchange.EVENTS,
                ("client.#",),
                handler,
                Mode.BROADCAST,
                on_gap=lambda number=number: note(number),
            )
        )
    await ready(*buses)
    messages = [event(f"client.updated.{number}") for number in range(10)]

    assert all(await buses[1].publish(messages))

    for handler in handlers:
        await eventually(lambda handler=handler: handler.messages == messages)
    assert gaps == [1, 1, 1]


async def test_a_broadcast_that_cannot_be_handled_is_a_gap(fleet: Fleet) -> None:
    """What a handler failed on was missed; it hears of that, and of what comes after."""
    bus, gaps = await fleet.instance(), []

    async def fail_on_the_first(delivery: Delivery) -> None:
        if delivery.message is not None and delivery.message.key.endswith("bad"):
            raise ValueError(delivery.message.body)

    handler = Recorder(fail_on_the_first)
    bus.subscribe(
        Subscription(
            "cache", Exchange.EVENTS, ("#",), handler, Mode.BROADCAST, on_gap=lambda: gaps.append(len(handler.ids))
        )
    )
    await ready(bus)

    await bus.publish([event("client.updated.bad")])
    await eventually(lambda: gaps == [0, 1])
    await bus.publish([event("client.updated.good")])

    await eventually(lambda: len(handler.ids) == 2)


async def test_a_broadcast_is_tried_again(fleet: Fleet) -> None:
    """Retry brings a broadcast back to the same instance, as often as a pool's message; then it was missed."""
    bus, gaps = await fleet.instance(), []
    handler = Recorder(raising(Retry("not now")))
    bus.subscribe(
        Subscription(
            "cache", Exchange.EVENTS, ("#",), handler, Mode.BROADCAST, on_gap=lambda: gaps.append(len(handler.ids))
        )
    )
    await ready(bus)

    await bus.publish([event()])

    await eventually(lambda: gaps == [0, DELIVERY_LIMIT + 1])


async def test_a_message_put_back_comes_again(fleet: Fleet) -> None:
    """Retry leaves the message to be delivered again, marked as redelivered, and it can still succeed."""
    bus = await fleet.instance()

    async def succeed_at_last(delivery: Delivery) -> None:
        if len(handler.deliveries) < DELIVERY_LIMIT:
            raise Retry("not yet")

    handler = Recorder(succeed_at_last)
    bus.subscribe(Subscription("patient", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)
    message = notification()

    assert await bus.publish([message]) == [True]

    await bus.drain()
    assert handler.messages == [message] * DELIVERY_LIMIT
    assert [delivery.redelivered for delivery in handler.deliveries] == [False, True, True]
    assert await bus.parked("patient") == 0


async def test_a_message_put_back_does_not_spin(fleet: Fleet) -> None:
    """Between deliveries of one message there is a pause, and it grows."""
    bus, times = await fleet.instance(), list[float]()

    async def note_the_time(_: Delivery) -> None:
        times.append(time.monotonic())
        raise Retry("busy")

    bus.subscribe(Subscription("busy", Exchange.NOTIFY, ("work",), note_the_time))
    await ready(bus)

    await bus.publish([notification()])

    await eventually(lambda: len(times) == DELIVERY_LIMIT + 1)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert [pause >= 0.009 * 2**number for number, pause in enumerate(pauses)] == [True] * DELIVERY_LIMIT


async def test_a_message_that_never_succeeds_is_parked(fleet: Fleet) -> None:
    """After the delivery limit a message stops coming, and can be counted; others go on."""
    bus = await fleet.instance()

    async def fail_one(delivery: Delivery) -> None:
        if delivery.message.id == poison.id:
            raise Retry("again")

    poison, others = notification(), [notification() for _ in range(5)]
    handler = Recorder(fail_one)
    bus.subscribe(Subscription("bounded", Exchange.NOTIFY, ("work",), handler, prefetch=2))
    await ready(bus)

    assert all(await bus.publish([poison, *others]))

    await eventually(lambda: parked(bus, "bounded", 1))
    assert handler.ids.count(poison.id) == DELIVERY_LIMIT + 1
    assert {other.id for other in others} < set(handler.ids)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(Drop("unreadable"), id="drop"),
        pytest.param(KeyError("a bug"), id="unknown-exception"),
        pytest.param(ExceptionGroup("several", [ValueError()]), id="group"),
    ],
)
async def test_what_can_never_be_handled_is_parked_at_once(fleet: Fleet, error: Exception) -> None:
    """Drop and bugs park the message after one delivery, and the consumer goes on."""
    bus, handler = await fleet.instance(), Recorder(raising(error))
    bus.subscribe(Subscription("strict", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)
    messages = [notification(), notification()]

    assert await bus.publish(messages) == [True, True]

    await eventually(lambda: parked(bus, "strict", 2))
    assert sorted(handler.ids) == sorted(message.id for message in messages)
    await bus.ping()


async def test_a_failure_is_logged_without_its_text(fleet: Fleet) -> None:
    """An error may quote what it failed on; the log says which message, which error and where, and nothing else."""
    bus = await fleet.instance()
    handler = Recorder(raising(ValueError("input_value='the-token'")))
    bus.subscribe(Subscription("careless", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)
    message = notification(body=b"the-token")

    with structlog.testing.capture_logs() as logs:
        await bus.publish([message])
        await eventually(lambda: parked(bus, "careless", 1))

    failure = next(entry for entry in logs if entry["event"] == "message_handler_failed")
    assert (failure["message_id"], failure["error"]) == (message.id, "ValueError")
    assert "the-token" not in str(logs)


async def test_a_handler_that_was_not_cancelled_itself_is_tried_again(fleet: Fleet) -> None:
    """A handler may wait for something that is cancelled; that ends neither the consumer nor the message."""
    bus = await fleet.instance()

    async def wait_for_something_cancelled(_: Delivery) -> None:
        if len(handler.ids) == 1:
            other = asyncio.get_running_loop().create_future()
            other.cancel()
            await other

    handler = Recorder(wait_for_something_cancelled)
    bus.subscribe(Subscription("waiting", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)

    assert await bus.publish([notification()]) == [True]

    await bus.drain()
    assert len(handler.ids) == 2


async def test_prefetch_bounds_the_handlers(fleet: Fleet) -> None:
    """Never more handlers at once than the prefetch, and as many when there is work."""
    bus, gate = await fleet.instance(), Gate()
    handler = Recorder(gate)
    bus.subscribe(Subscription("narrow", Exchange.NOTIFY, ("work",), handler, prefetch=3))
    await ready(bus)

    messages = [notification() for _ in range(20)]
    publishing = asyncio.create_task(bus.publish(messages))
    await eventually(lambda: gate.inside == 3)
    gate.open()

    confirmed = await publishing
    await bus.drain()
    assert (all(confirmed), len(handler.ids), gate.most) == (True, 20, 3)


async def test_one_message_that_takes_long_holds_up_nobody(fleet: Fleet) -> None:
    """Messages are acknowledged in whatever order their handlers end."""
    bus, gate = await fleet.instance(), Gate()
    slow = notification()

    async def wait_with_the_slow_one(delivery: Delivery) -> None:
        if delivery.message.id == slow.id:
            await gate(delivery)

    handler = Recorder(wait_with_the_slow_one)
    bus.subscribe(Subscription("mixed", Exchange.NOTIFY, ("work",), handler, prefetch=2))
    await ready(bus)

    messages = [slow, *(notification() for _ in range(30))]
    publishing = asyncio.create_task(bus.publish(messages))

    await eventually(lambda: len(handler.ids) == 31)
    assert gate.inside == 1
    gate.open()
    confirmed = await publishing
    assert all(confirmed)


async def test_a_notification_without_its_queue_is_refused(fleet: Fleet) -> None:
    """A message to NOTIFY that reaches nobody is not safe; an event nobody listens to is. Each has its own answer."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("present", Exchange.NOTIFY, ("present",), handler))
    await ready(bus)

    batch = [notification("absent"), notification("present"), event("nobody.listens"), notification("absent")]

    assert await bus.publish(batch) == [False, True, True, False]
    assert await bus.publish([]) == []
    assert await bus.publish([batch[0]]) == [False]


@pytest.mark.parametrize(
    "key",
    [pytest.param("k" * 256, id="ascii"), pytest.param("é" * 128, id="bytes-not-characters")],
)
async def test_a_message_that_cannot_be_sent_fails_alone(fleet: Fleet, key: str) -> None:
    """A routing key longer than AMQP can say is refused, and the rest of the batch goes on."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("all", Exchange.EVENTS, ("#",), handler))
    await ready(bus)

    assert await bus.publish([event("a"), event(key), event("k" * 255)]) == [True, False, True]

    await bus.drain()
    assert len(handler.ids) == 2


async def test_many_publishers_at_once_each_get_their_answers(fleet: Fleet) -> None:
    """Calls of publish do not mix up each other's outcomes."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("present", Exchange.NOTIFY, ("present",), handler, prefetch=100))
    await ready(bus)
    keys = [["present", "absent"][(number // 3) % 2] for number in range(300)]

    answers = await asyncio.gather(*(bus.publish([notification(key), notification("present")]) for key in keys))

    assert [list(answer) for answer in answers] == [[key == "present", True] for key in keys]


async def test_an_id_that_is_on_its_way_is_sent_once(fleet: Fleet) -> None:
    """Whoever publishes the same message meanwhile gets the same answer, and the consumer one copy."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("once", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)
    message = notification()

    answers = await asyncio.gather(*(bus.publish([message, message]) for _ in range(10)))

    assert [list(answer) for answer in answers] == [[True, True]] * 10
    await bus.drain()
    assert handler.ids == [message.id]


async def test_a_pool_keeps_messages_while_nobody_consumes(fleet: Fleet) -> None:
    """A pool exists from its first subscriber on; what is published while all are down waits for the next."""
    first, publisher, late = await fleet.instance(), await fleet.instance(), Recorder()
    first.subscribe(Subscription("durable", Exchange.EVENTS, ("#",), Recorder()))
    await ready(first, publisher)
    await first.close()
    message = event()

    publishing = asyncio.create_task(publisher.publish([message]))
    second = await fleet.instance()
    second.subscribe(Subscription("durable", Exchange.EVENTS, ("#",), late))

    await eventually(lambda: late.messages == [message])
    assert await publishing == [True]


async def test_drain_waits_for_handlers(fleet: Fleet) -> None:
    """After drain nothing published before is unhandled, messages put back included."""
    bus, gate = await fleet.instance(), Gate()

    async def put_back_once_then_wait(delivery: Delivery) -> None:
        if not delivery.redelivered:
            raise Retry("once")
        await gate(delivery)

    handler = Recorder(put_back_once_then_wait)
    bus.subscribe(Subscription("drained", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)
    publishing = asyncio.create_task(bus.publish([notification()]))
    await eventually(lambda: gate.inside == 1)

    draining = asyncio.create_task(bus.drain())
    await asyncio.sleep(0.1)
    assert not draining.done()
    gate.open()

    await draining
    assert (gate.inside, len(handler.ids), await publishing) == (0, 2, [True])


async def test_stopping_lets_handlers_end_and_takes_nothing_new(fleet: Fleet) -> None:
    """After stop_consuming no handler runs, and messages stay for others."""
    stopping, publisher, gate = await fleet.instance(), await fleet.instance(), Gate()
    handler, other = Recorder(gate), Recorder()
    stopping.subscribe(Subscription("handed-over", Exchange.NOTIFY, ("work",), handler, prefetch=1))
    await ready(stopping, publisher)
    messages = [notification(), notification()]
    publishing = asyncio.create_task(publisher.publish(messages))
    await eventually(lambda: gate.inside == 1)

    stopped = asyncio.create_task(stopping.stop_consuming())
    await asyncio.sleep(0.05)
    gate.open()
    await stopped

    assert (gate.inside, handler.messages) == (0, messages[:1])
    successor = await fleet.instance()
    successor.subscribe(Subscription("handed-over", Exchange.NOTIFY, ("work",), other))
    await eventually(lambda: other.messages == messages[1:])
    assert await publishing == [True, True]


async def test_what_a_dead_consumer_held_is_delivered_again(fleet: Fleet) -> None:
    """A handler that does not end in time is given up; its message goes to somebody else, marked as redelivered."""
    dying, publisher, gate = await fleet.instance(), await fleet.instance(), Gate()
    held, other = Recorder(gate), Recorder()
    dying.subscribe(Subscription("inherited", Exchange.NOTIFY, ("work",), held))
    await ready(dying, publisher)
    message = notification()
    publishing = asyncio.create_task(publisher.publish([message]))
    await eventually(lambda: gate.inside == 1)

    began = time.monotonic()
    await dying.close()
    assert time.monotonic() - began < 5

    survivor = await fleet.instance()
    survivor.subscribe(Subscription("inherited", Exchange.NOTIFY, ("work",), other))
    await eventually(lambda: other.deliveries == [Delivery(message, redelivered=True)])
    assert (await publishing, gate.inside) == ([True], 0)


async def test_closing_puts_held_messages_back_at_once(fleet: Fleet) -> None:
    """A message that waits out its pause here does not delay the end, and is not lost with it."""
    dying, publisher = await fleet.instance(), await fleet.instance()
    held, other = Recorder(raising(Retry("later"))), Recorder()
    dying.subscribe(Subscription("held", Exchange.NOTIFY, ("work",), held))
    await ready(dying, publisher)
    message = notification()
    publishing = asyncio.create_task(publisher.publish([message]))
    await eventually(lambda: len(held.ids) == DELIVERY_LIMIT)

    await dying.close()

    survivor = await fleet.instance()
    survivor.subscribe(Subscription("held", Exchange.NOTIFY, ("work",), other))
    await eventually(lambda: other.messages == [message])
    assert await publishing == [True]


async def test_parked_messages_can_be_sent_back(fleet: Fleet) -> None:
    """A redrive moves as many as asked for; they arrive unchanged and are counted anew."""
    bus = await fleet.instance()
    mended = False

    async def fail_until_mended(_: Delivery) -> None:
        if not mended:
            raise Retry("broken")

    handler = Recorder(fail_until_mended)
    bus.subscribe(Subscription("mended", Exchange.EVENTS, ("token.#",), handler))
    await ready(bus)
    messages = [event(), event(), event()]
    assert all(await bus.publish(messages))
    await eventually(lambda: parked(bus, "mended", 3))

    mended = True
    handler.deliveries.clear()
    assert await bus.redrive("mended", 2) == 2
    await eventually(lambda: len(handler.ids) == 2)
    assert await bus.parked("mended") == 1
    assert await bus.redrive("mended", 10) == 1

    await eventually(lambda: len(handler.ids) == 3)
    assert sorted(handler.messages, key=lambda message: message.id) == sorted(messages, key=lambda message: message.id)
    assert (await bus.parked("mended"), await bus.redrive("mended", 10)) == (0, 0)


async def test_a_message_sent_back_can_be_parked_and_sent_back_again(fleet: Fleet) -> None:
    """A redrive that does not help loses nothing, the routing key included."""
    bus, handler = await fleet.instance(), Recorder(raising(Drop("still broken")))
    bus.subscribe(Subscription("stubborn", Exchange.EVENTS, ("token.#",), handler))
    await ready(bus)
    message = event()
    await bus.publish([message])

    for _ in range(3):
        await eventually(lambda: parked(bus, "stubborn", 1))
        assert await bus.redrive("stubborn", 1) == 1
    await eventually(lambda: parked(bus, "stubborn", 1))

    assert handler.messages == [message] * 4


async def test_parked_messages_of_an_unknown_pool_are_an_error(fleet: Fleet) -> None:
    """A misspelt name is not an empty queue."""
    bus = await fleet.instance()
    await ready(bus)

    with pytest.raises(BusUnavailable, match="no-such"):
        await bus.parked("no-such")
    with pytest.raises(BusUnavailable, match="no-such"):
        await bus.redrive("no-such", 1)
    await bus.ping()


async def test_subscriptions_may_come_before_opening(fleet: Fleet) -> None:
    """Subscribing and opening may come in either order."""
    bus, handler = fleet.unopened(), Recorder()
    bus.subscribe(Subscription("early", Exchange.NOTIFY, ("work",), handler))
    await bus.open()
    await ready(bus)

    assert await bus.publish([notification()]) == [True]

    await bus.drain()
    assert len(handler.ids) == 1


async def test_a_bus_that_is_not_open_takes_nothing(fleet: Fleet) -> None:
    """Before open and after close a publish is refused at once, and ping says so; closing twice is closing once."""
    bus = fleet.unopened()
    assert await bus.publish([event()]) == [False]
    assert not await answers(bus)

    await bus.open()
    await bus.open()
    await ready(bus)
    await bus.close()
    await bus.close()

    assert await bus.publish([event(), event()]) == [False, False]
    assert not await answers(bus)


async def test_ping_names_the_subscription_without_consumer(fleet: Fleet) -> None:
    """No consumer dies silently: a bus whose consumer is gone is not well."""
    bus = await fleet.instance()
    bus.subscribe(Subscription("gone", Exchange.NOTIFY, ("work",), Recorder()))
    await ready(bus)

    await bus.stop_consuming()

    with pytest.raises(BusUnavailable, match="gone"):
        await bus.ping()


async def parked(bus: Parking, name: str, expected: int) -> bool:
    """True when pool `name` has `expected` parked messages."""
    return await bus.parked(name) == expected
