"""The guarantees of the bus port, kept by RabbitMQ and by the in-process bus."""

import asyncio
import itertools
import time
from functools import partial

import pytest
import structlog.testing

from libs.bus.port import (
    SILENT_AFTER,
    BusUnavailable,
    Delivery,
    Drop,
    Exchange,
    Mode,
    Outcome,
    PoolQueues,
    Pulse,
    Retry,
    Subscription,
)
from tests.conformance.conftest import DELIVERY_LIMIT, Fleet, ready, responses
from tests.conformance.recorder import Gate, Recorder, event, notification, raising
from tests.eventually import eventually


async def test_a_message_arrives_as_it_was_published(fleet: Fleet) -> None:
    """A confirmed message was routed, and the handler gets its exact body, key, headers and type."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("event_log", Exchange.EVENTS, ("#",), handler))
    await ready(bus)
    message = event()

    assert await bus.publish([message]) == [Outcome.CONFIRMED]

    await bus.drain()
    assert handler.deliveries == [Delivery(message, redelivered=False)]


async def test_a_body_of_many_frames_arrives_whole(fleet: Fleet) -> None:
    """A body has no size limit but the consumer's; it may be empty."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("event_log", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)
    bodies = [bytes(range(256)) * 2048, b"", b"x"]

    assert await bus.publish([notification(body=body) for body in bodies]) == [Outcome.CONFIRMED] * 3

    await bus.drain()
    assert sorted(message.body for message in handler.messages) == sorted(bodies)


async def test_every_pool_gets_its_copy(fleet: Fleet) -> None:
    """Two pools with the same binding key each handle every message once."""
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
    """Each message is handled once, by an idle instance, and all instances take part."""
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
async def test_wildcards_stand_for_words(fleet: Fleet, binding: str, taken: set[str]) -> None:
    """`*` matches exactly one word, `#` any number including none."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("some", Exchange.EVENTS, (binding,), handler))
    await ready(bus)
    keys = ["token.new.api-1", "token.refresh.api-1", "client.created.x.y.api-1", "token"]

    assert all(await bus.publish([event(key) for key in keys]))

    await bus.drain()
    assert {message.key for message in handler.messages} == taken


async def test_the_direct_exchange_knows_no_wildcards(fleet: Fleet) -> None:
    """On NOTIFY binding keys are compared literally."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("literal", Exchange.NOTIFY, ("#",), handler))
    await ready(bus)

    assert await bus.publish([notification("other"), notification("#")]) == [Outcome.REFUSED, Outcome.CONFIRMED]


async def test_a_broadcast_reaches_every_instance(fleet: Fleet) -> None:
    """Every running instance gets every message, after a signal that it may have missed some."""
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
                on_gap=partial(note, number),
            )
        )
    await ready(*buses)
    messages = [event(f"client.updated.{number}") for number in range(10)]

    assert all(await buses[1].publish(messages))

    await eventually(lambda: all(handler.messages == messages for handler in handlers))
    assert gaps == [1, 1, 1]


async def test_b7_a_broadcast_has_a_pulse_while_the_bus_is_there(fleet: Fleet) -> None:
    """A broadcast has a heartbeat that handlers do not see and that stops with the bus."""
    bus, handler, pulse = await fleet.instance(), Recorder(), Pulse()
    bus.subscribe(Subscription("cache", Exchange.EVENTS, ("#",), handler, Mode.BROADCAST, pulse=pulse))
    assert pulse.is_silent(time.monotonic())
    await ready(bus)

    await eventually(lambda: not pulse.is_silent(time.monotonic()))
    later = time.monotonic() + 2 * SILENT_AFTER
    await eventually(lambda: not pulse.is_silent(later))
    assert handler.deliveries == []
    await bus.close()
    await eventually(lambda: pulse.is_silent(time.monotonic()))


async def test_a_broadcast_that_cannot_be_handled_is_a_gap(fleet: Fleet) -> None:
    """If a handler fails, the instance is told that it missed a message, and goes on with the next."""
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
    """Retry redelivers a broadcast to the same instance up to the limit; then it counts as missed."""
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


async def test_a_requeued_message_is_delivered_again(fleet: Fleet) -> None:
    """Retry redelivers the message, marked as such, and it can still succeed."""
    bus = await fleet.instance()

    async def succeed_at_last(delivery: Delivery) -> None:
        if len(handler.deliveries) < DELIVERY_LIMIT:
            raise Retry("not yet")

    handler = Recorder(succeed_at_last)
    bus.subscribe(Subscription("patient", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)
    message = notification()

    assert await bus.publish([message]) == [Outcome.CONFIRMED]

    await bus.drain()
    assert handler.messages == [message] * DELIVERY_LIMIT
    assert [delivery.redelivered for delivery in handler.deliveries] == [False, True, True]
    assert await bus.dead_letters("patient") == 0


async def test_a_message_put_back_does_not_spin(fleet: Fleet) -> None:
    """The delay between redeliveries of a message grows."""
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


async def test_a_message_that_never_succeeds_is_dead_lettered(fleet: Fleet) -> None:
    """After the delivery limit the message is dead-lettered and counted; others go on."""
    bus = await fleet.instance()

    async def fail_one(delivery: Delivery) -> None:
        if delivery.message.id == poison.id:
            raise Retry("again")

    poison, others = notification(), [notification() for _ in range(5)]
    handler = Recorder(fail_one)
    bus.subscribe(Subscription("bounded", Exchange.NOTIFY, ("work",), handler, prefetch=2))
    await ready(bus)

    assert all(await bus.publish([poison, *others]))

    await eventually(lambda: dead_lettered(bus, "bounded", 1))
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
async def test_unprocessable_messages_are_dead_lettered_at_once(fleet: Fleet, error: Exception) -> None:
    """Drop and unexpected exceptions dead-letter the message at once, and the consumer goes on."""
    bus, handler = await fleet.instance(), Recorder(raising(error))
    bus.subscribe(Subscription("strict", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)
    messages = [notification(), notification()]

    assert await bus.publish(messages) == [Outcome.CONFIRMED, Outcome.CONFIRMED]

    await eventually(lambda: dead_lettered(bus, "strict", 2))
    assert sorted(handler.ids) == sorted(message.id for message in messages)
    await bus.ping()


async def test_a_failure_is_logged_without_its_text(fleet: Fleet) -> None:
    """The log has message id, error type and place, but not the error's text, which may contain secrets."""
    bus = await fleet.instance()
    handler = Recorder(raising(ValueError("input_value='the-token'")))
    bus.subscribe(Subscription("careless", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)
    message = notification(body=b"the-token")

    with structlog.testing.capture_logs() as logs:
        await bus.publish([message])
        await eventually(lambda: dead_lettered(bus, "careless", 1))

    failure = next(entry for entry in logs if entry["event"] == "message_handler_failed")
    assert (failure["message_id"], failure["error"]) == (message.id, "ValueError")
    assert "the-token" not in str(logs)


async def test_a_handler_that_was_not_cancelled_itself_is_tried_again(fleet: Fleet) -> None:
    """A CancelledError from inside the handler is retried; it ends neither consumer nor message."""
    bus = await fleet.instance()

    async def wait_for_something_cancelled(_: Delivery) -> None:
        if len(handler.ids) == 1:
            other = asyncio.get_running_loop().create_future()
            other.cancel()
            await other

    handler = Recorder(wait_for_something_cancelled)
    bus.subscribe(Subscription("waiting", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)

    assert await bus.publish([notification()]) == [Outcome.CONFIRMED]

    await bus.drain()
    assert len(handler.ids) == 2


async def test_prefetch_bounds_the_handlers(fleet: Fleet) -> None:
    """At most `prefetch` handlers run at once, and that many if there is work."""
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


async def test_a_slow_message_delays_no_other(fleet: Fleet) -> None:
    """Messages are acknowledged in the order in which handlers finish."""
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
    """An unroutable message to NOTIFY is refused; an event without subscribers is fine."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("present", Exchange.NOTIFY, ("present",), handler))
    await ready(bus)

    batch = [notification("absent"), notification("present"), event("nobody.listens"), notification("absent")]

    assert await bus.publish(batch) == [Outcome.REFUSED, Outcome.CONFIRMED, Outcome.CONFIRMED, Outcome.REFUSED]
    assert await bus.publish([]) == []
    assert await bus.publish([batch[0]]) == [Outcome.REFUSED]


@pytest.mark.parametrize(
    "key",
    [pytest.param("k" * 256, id="ascii"), pytest.param("é" * 128, id="bytes-not-characters")],
)
async def test_a_message_that_cannot_be_sent_does_not_fail_others(fleet: Fleet, key: str) -> None:
    """A message with too long a routing key is refused; the rest of the batch goes on."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("all", Exchange.EVENTS, ("#",), handler))
    await ready(bus)

    outcomes = await bus.publish([event("a"), event(key), event("k" * 255)])

    assert outcomes == [Outcome.CONFIRMED, Outcome.REFUSED, Outcome.CONFIRMED]
    await bus.drain()
    assert len(handler.ids) == 2


async def test_many_publishers_at_once_each_get_their_responses(fleet: Fleet) -> None:
    """Concurrent publishes get their own results."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("present", Exchange.NOTIFY, ("present",), handler, prefetch=100))
    await ready(bus)
    keys = [["present", "absent"][(number // 3) % 2] for number in range(300)]
    outcome = {"present": Outcome.CONFIRMED, "absent": Outcome.REFUSED}

    responses = await asyncio.gather(*(bus.publish([notification(key), notification("present")]) for key in keys))

    assert [list(response) for response in responses] == [[outcome[key], Outcome.CONFIRMED] for key in keys]


async def test_an_id_that_is_on_its_way_is_sent_once(fleet: Fleet) -> None:
    """Publishing a message whose id is still in flight returns the same result and sends it once."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("once", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)
    message = notification()

    responses = await asyncio.gather(*(bus.publish([message, message]) for _ in range(10)))

    assert [list(response) for response in responses] == [[Outcome.CONFIRMED, Outcome.CONFIRMED]] * 10
    await bus.drain()
    assert handler.ids == [message.id]


async def test_a_pool_keeps_messages_without_consumers(fleet: Fleet) -> None:
    """A pool exists from its first subscriber on, and keeps messages while none is running."""
    first, publisher, late = await fleet.instance(), await fleet.instance(), Recorder()
    first.subscribe(Subscription("durable", Exchange.EVENTS, ("#",), Recorder()))
    await ready(first, publisher)
    await first.close()
    message = event()

    publishing = asyncio.create_task(publisher.publish([message]))
    second = await fleet.instance()
    second.subscribe(Subscription("durable", Exchange.EVENTS, ("#",), late))

    await eventually(lambda: late.messages == [message])
    assert await publishing == [Outcome.CONFIRMED]


async def test_drain_waits_for_handlers(fleet: Fleet) -> None:
    """After drain every earlier message has been handled, including retried ones."""
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
    assert (gate.inside, len(handler.ids), await publishing) == (0, 2, [Outcome.CONFIRMED])


async def test_stopping_finishes_handlers_and_accepts_nothing_new(fleet: Fleet) -> None:
    """After stop_consuming no handler runs, and remaining messages go to others."""
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
    assert await publishing == [Outcome.CONFIRMED, Outcome.CONFIRMED]


async def test_messages_of_a_dead_consumer_are_redelivered(fleet: Fleet) -> None:
    """A handler that does not end in time is abandoned; its message is redelivered elsewhere."""
    dying, publisher, gate = await fleet.instance(), await fleet.instance(), Gate()
    held, other = Recorder(gate), Recorder()
    dying.subscribe(Subscription("inherited", Exchange.NOTIFY, ("work",), held))
    await ready(dying, publisher)
    message = notification()
    publishing = asyncio.create_task(publisher.publish([message]))
    await eventually(lambda: gate.inside == 1)

    began = time.monotonic()
    await dying.close()
    assert time.monotonic() - began < 60

    survivor = await fleet.instance()
    survivor.subscribe(Subscription("inherited", Exchange.NOTIFY, ("work",), other))
    await eventually(lambda: other.deliveries == [Delivery(message, redelivered=True)])
    assert (await publishing, gate.inside) == ([Outcome.CONFIRMED], 0)


async def test_closing_puts_held_messages_back_at_once(fleet: Fleet) -> None:
    """A message waiting for its retry does not delay closing, and is not lost."""
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
    assert await publishing == [Outcome.CONFIRMED]


async def test_dead_letters_can_be_redriven(fleet: Fleet) -> None:
    """A redrive moves up to the given number of dead letters; they arrive unchanged with a new delivery count."""
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
    await eventually(lambda: dead_lettered(bus, "mended", 3))

    mended = True
    handler.deliveries.clear()
    assert await bus.redrive("mended", 2) == 2
    await eventually(lambda: len(handler.ids) == 2)
    assert await bus.dead_letters("mended") == 1
    assert await bus.redrive("mended", 10) == 1

    await eventually(lambda: len(handler.ids) == 3)
    assert sorted(handler.messages, key=lambda message: message.id) == sorted(messages, key=lambda message: message.id)
    assert (await bus.dead_letters("mended"), await bus.redrive("mended", 10)) == (0, 0)


async def test_a_redriven_message_can_be_dead_lettered_again(fleet: Fleet) -> None:
    """A redriven message that fails again is dead-lettered with its routing key."""
    bus, handler = await fleet.instance(), Recorder(raising(Drop("still broken")))
    bus.subscribe(Subscription("stubborn", Exchange.EVENTS, ("token.#",), handler))
    await ready(bus)
    message = event()
    await bus.publish([message])

    for _ in range(3):
        await eventually(lambda: dead_lettered(bus, "stubborn", 1))
        assert await bus.redrive("stubborn", 1) == 1
    await eventually(lambda: dead_lettered(bus, "stubborn", 1))

    assert handler.messages == [message] * 4


async def test_dead_letters_of_an_unknown_pool_are_an_error(fleet: Fleet) -> None:
    """The dead letters of an unknown pool are an error, not zero."""
    bus = await fleet.instance()
    await ready(bus)

    with pytest.raises(BusUnavailable, match="no-such"):
        await bus.dead_letters("no-such")
    with pytest.raises(BusUnavailable, match="no-such"):
        await bus.redrive("no-such", 1)
    await bus.ping()


async def test_subscriptions_may_come_before_opening(fleet: Fleet) -> None:
    """Subscribing is possible before and after opening."""
    bus, handler = fleet.unopened(), Recorder()
    bus.subscribe(Subscription("early", Exchange.NOTIFY, ("work",), handler))
    await bus.open()
    await ready(bus)

    assert await bus.publish([notification()]) == [Outcome.CONFIRMED]

    await bus.drain()
    assert len(handler.ids) == 1


async def test_a_bus_that_is_not_open_takes_nothing(fleet: Fleet) -> None:
    """An unopened or closed bus refuses publishes at once, and ping says so; closing twice is fine."""
    bus = fleet.unopened()
    assert await bus.publish([event()]) == [Outcome.UNKNOWN]
    assert not await responses(bus)

    await bus.open()
    await bus.open()
    await ready(bus)
    await bus.close()
    await bus.close()

    assert await bus.publish([event(), event()]) == [Outcome.UNKNOWN, Outcome.UNKNOWN]
    assert not await responses(bus)


async def test_ping_names_the_subscription_without_consumer(fleet: Fleet) -> None:
    """A bus whose consumer is gone is unhealthy, and names the subscription."""
    bus = await fleet.instance()
    bus.subscribe(Subscription("gone", Exchange.NOTIFY, ("work",), Recorder()))
    await ready(bus)

    await bus.stop_consuming()

    with pytest.raises(BusUnavailable, match="gone"):
        await bus.ping()


async def dead_lettered(bus: PoolQueues, name: str, expected: int) -> bool:
    """Whether the pool has this many dead letters."""
    return await bus.dead_letters(name) == expected
