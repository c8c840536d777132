"""Faults that only a broker has: crashes, freezes, closed connections, deleted queues, missing permissions, argument
conflicts.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import aiormq
import pytest
from aio_pika.abc import AbstractChannel
from aiormq.abc import ChannelFrame
from pamqp.common import FieldTable

from libs.bus.port import Bus, BusUnavailable, Delivery, Exchange, Mode, Outcome, Pulse, Subscription
from libs.bus.rabbit import RabbitBus
from libs.bus.rabbit.publish_encoder import encode
from libs.bus.rabbit.topology import BROADCASTS, POOLS, Pool, topology
from tests.conformance.conftest import DELIVERY_LIMIT, Fleet, rabbit_fleet, ready, responses
from tests.conformance.recorder import Gate, Recorder, event, notification
from tests.conformance.tls import certificate, wrapped
from tests.eventually import eventually
from tests.ports import free_ports
from tests.provision.rabbitmq import Broker

WITH_EITHER_WRITER = pytest.mark.parametrize(
    "fleet", [pytest.param(True, id="encoder"), pytest.param(False, id="library")], indirect=True
)
"""For what depends on how messages are published: with the publish encoder, and with aio-pika alone."""


@pytest.fixture(name="fleet")
async def _fleet(request: pytest.FixtureRequest, amqp_url: str) -> AsyncIterator[Fleet]:
    """Instances on their own vhost."""
    fleet = rabbit_fleet(amqp_url, encoder=getattr(request, "param", True))
    yield fleet
    await fleet.close()


@pytest.fixture
async def channel(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    """A channel with full permissions on the same vhost."""
    connection = await aio_pika.connect(amqp_url)
    async with connection, connection.channel() as channel:
        yield channel


async def test_a_pool_survives_the_loss_of_its_queue(fleet: Fleet, channel: AbstractChannel) -> None:
    """A deleted queue is declared and consumed again (the broker cancels the consumer, it does not close)."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("deleted", Exchange.NOTIFY, ("work",), handler))
    await ready(bus)

    await channel.queue_delete("tokenwire.deleted")

    await eventually(lambda: confirmed(bus, "work"))
    await eventually(lambda: handler.ids)
    await bus.ping()


async def test_a_broadcast_survives_the_loss_of_its_queue(fleet: Fleet, amqp_url: str, rabbitmq: Broker) -> None:
    """A deleted broadcast queue is declared again, and the instance is told of the gap."""
    bus, handler, gaps = await fleet.instance(), Recorder(), list[int]()
    bus.subscribe(
        Subscription(
            "cache", Exchange.EVENTS, ("#",), handler, Mode.BROADCAST, on_gap=lambda: gaps.append(len(handler.ids))
        )
    )
    await ready(bus)
    queue = next(name for name in await queues(rabbitmq, amqp_url) if name.startswith(BROADCASTS))

    # The queue is exclusive, so only the broker itself can delete it.
    await asyncio.to_thread(delete_queue, rabbitmq, amqp_url, queue)

    await eventually(lambda: gaps == [0, 0])
    await ready(bus)
    message = event()
    assert await bus.publish([message]) == [Outcome.CONFIRMED]
    await eventually(lambda: handler.messages == [message])


async def test_closed_connections_come_back(fleet: Fleet, amqp_url: str, rabbitmq: Broker) -> None:
    """After the broker closed all connections, pools and broadcasts consume again, and broadcasts report the gap."""
    bus, pool, broadcast, gaps = await fleet.instance(), Recorder(), Recorder(), list[int]()
    bus.subscribe(Subscription("pool", Exchange.EVENTS, ("#",), pool))
    bus.subscribe(
        Subscription(
            "cache", Exchange.EVENTS, ("#",), broadcast, Mode.BROADCAST, on_gap=lambda: gaps.append(len(broadcast.ids))
        )
    )
    await ready(bus)

    await close_connections(rabbitmq, amqp_url)

    await eventually(lambda: gaps == [0, 0])
    await ready(bus)
    message = event()
    assert await bus.publish([message]) == [Outcome.CONFIRMED]
    await eventually(lambda: (pool.messages, broadcast.messages) == ([message], [message]))


async def test_a_handler_outlives_its_connection(fleet: Fleet, amqp_url: str, rabbitmq: Broker) -> None:
    """A running handler survives the loss of its connection, and still counts for prefetch."""
    bus, gate = await fleet.instance(), Gate()
    handler = Recorder(gate)
    bus.subscribe(Subscription("half-way", Exchange.NOTIFY, ("work",), handler, prefetch=1))
    await ready(bus)
    message = notification()
    await bus.publish([message])
    await eventually(lambda: gate.inside == 1)

    await close_connections(rabbitmq, amqp_url)
    await ready(bus)
    gate.open()

    await eventually(lambda: handler.deliveries[1:] == [Delivery(message, redelivered=True)])
    await bus.drain()
    assert gate.most == 1


@WITH_EITHER_WRITER
async def test_every_publish_in_flight_ends_when_the_connection_is_lost(
    fleet: Fleet, amqp_url: str, rabbitmq: Broker
) -> None:
    """Every publish in flight ends as confirmed or unknown; confirmed messages are in the queue."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("flood", Exchange.NOTIFY, ("work",), handler, prefetch=500))
    await ready(bus)
    closing = asyncio.create_task(close_connections(rabbitmq, amqp_url))
    confirmed_ids: list[str] = []

    while not closing.done():
        batch = [notification() for _ in range(50)]
        outcome = await bus.publish(batch)
        confirmed_ids += [message.id for message, routed in zip(batch, outcome, strict=True) if routed]
        await asyncio.sleep(0)

    await closing
    await ready(bus)
    await bus.drain()
    assert len(confirmed_ids) > 50
    assert set(confirmed_ids) <= set(handler.ids)


async def test_a_broker_that_is_away_is_no_error(amqp_url: str) -> None:
    """Without a broker, open returns and publish refuses at once, ping says why, and close is quick."""
    nowhere = f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/"
    bus = RabbitBus(nowhere, instance_name="lonely")
    bus.subscribe(Subscription("unheard", Exchange.NOTIFY, ("work",), Recorder()))

    began = time.monotonic()
    await bus.open()
    assert await bus.publish([event(), notification()]) == [Outcome.UNKNOWN, Outcome.UNKNOWN]
    with pytest.raises(BusUnavailable, match="not connected"):
        await bus.ping()
    await bus.close()

    assert time.monotonic() - began < 20


async def test_a_wrong_password_is_tried_for_ever(amqp_url: str) -> None:
    """A wrong password is retried, because it may be corrected at the broker."""
    parts = urlsplit(amqp_url)
    bus = RabbitBus(
        parts._replace(netloc=f"guest:wrong@{parts.hostname}:{parts.port}").geturl(), instance_name="outsider"
    )
    await bus.open()

    await asyncio.sleep(0.3)

    assert await bus.publish([event()]) == [Outcome.UNKNOWN]
    assert not await responses(bus)
    await bus.close()


async def test_a_connection_may_be_encrypted(amqp_url: str, tmp_path: Path) -> None:
    """`amqps://` works with a trusted certificate, and with no other."""
    parts, file = urlsplit(amqp_url), certificate(tmp_path)
    assert parts.port is not None
    async with wrapped(parts.port, file) as port:
        netloc = f"{parts.username}:{parts.password}@localhost:{port}"
        url = parts._replace(scheme="amqps", netloc=netloc).geturl()
        bus, outsider = (RabbitBus(each, instance_name="encrypted") for each in (f"{url}?cafile={file}", url))
        handler = Recorder()
        bus.subscribe(Subscription("notifier", Exchange.NOTIFY, ("notify",), handler))
        await bus.open()
        await outsider.open()
        await ready(bus)
        assert all(await bus.publish([notification("notify", bytes(300_000))]))
        await eventually(lambda: [len(message.body) for message in handler.messages] == [300_000])
        assert not await responses(outsider)
        for each in (bus, outsider):
            await each.close()


async def test_a_message_with_invalid_text_stops_no_consumer(fleet: Fleet, channel: AbstractChannel) -> None:
    """Invalid text in a message's properties does not stop its handling, nor the next one's."""
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("notifier", Exchange.NOTIFY, ("notify",), handler))
    await ready(bus)
    beneath = await channel.get_underlay_channel()
    assert isinstance(beneath, aiormq.Channel)
    odd = encode(notification("notify", b"odd"), channel=beneath.number, mandatory=False, frame_max=4096)
    odd = odd.replace(b"application/cloudevents+json", b"application/cloudevents+js\xff\xfe")
    await beneath.write_queue.put(ChannelFrame(odd, should_close=False))
    await eventually(lambda: [message.body for message in handler.messages] == [b"odd"])
    assert await bus.publish([notification("notify", b"next")]) == [Outcome.CONFIRMED]
    await eventually(lambda: [message.body for message in handler.messages] == [b"odd", b"next"])


@WITH_EITHER_WRITER
async def test_a_killed_broker_loses_nothing_confirmed(fleet: Fleet, rabbitmq: Broker) -> None:
    """After SIGKILL of the broker the bus recovers, and confirmed messages are delivered."""
    publisher, consumer, handler = await fleet.instance(), await fleet.instance(), Recorder()
    consumer.subscribe(Subscription("kept", Exchange.NOTIFY, ("work",), Recorder()))
    await ready(publisher, consumer)
    await consumer.close()
    messages = [notification() for _ in range(100)]
    assert all(await publisher.publish(messages))

    await asyncio.to_thread(rabbitmq.kill)
    try:
        began = time.monotonic()
        assert await publisher.publish([notification()]) == [Outcome.UNKNOWN]
        assert time.monotonic() - began < 30
        late = await fleet.instance()
        late.subscribe(Subscription("kept", Exchange.NOTIFY, ("work",), handler))
        assert not await responses(late)
    finally:
        await asyncio.to_thread(rabbitmq.start)

    await eventually(lambda: {message.id for message in messages} <= set(handler.ids), within=30)
    await eventually(lambda: confirmed(publisher, "work"))
    await ready(late)


async def test_a_frozen_broker_blocks_no_call(fleet: Fleet, rabbitmq: Broker) -> None:
    """With a frozen broker publish, ping and close take bounded time, and all recovers."""
    bus, closing, handler = await fleet.instance(), await fleet.instance(), Recorder()
    for each in (bus, closing):
        each.subscribe(Subscription("frozen", Exchange.NOTIFY, ("work",), handler))
    await ready(bus, closing)

    await asyncio.to_thread(rabbitmq.freeze)
    try:
        for work in (bus.publish([notification()]), responses(bus), closing.close()):
            assert await seconds(work) < 30
    finally:
        await asyncio.to_thread(rabbitmq.thaw)

    await eventually(lambda: confirmed(bus, "work"))
    await ready(bus)
    await eventually(lambda: handler.ids)


async def test_b7_a_frozen_broker_is_noticed_within_a_second(fleet: Fleet, rabbitmq: Broker) -> None:
    """A frozen broker is noticed within a second by the missing heartbeat."""
    bus, pulse = await fleet.instance(), Pulse()
    bus.subscribe(Subscription("cache", Exchange.EVENTS, ("#",), Recorder(), Mode.BROADCAST, pulse=pulse))
    await eventually(lambda: not pulse.is_silent(time.monotonic()))

    await asyncio.to_thread(rabbitmq.freeze)
    frozen_at = time.monotonic()
    try:
        await eventually(lambda: pulse.is_silent(time.monotonic()))
        assert pulse.is_silent(frozen_at + 1)
    finally:
        await asyncio.to_thread(rabbitmq.thaw)

    await eventually(lambda: not pulse.is_silent(time.monotonic()))


@WITH_EITHER_WRITER
async def test_a_broker_short_of_memory_still_hands_out(
    fleet: Fleet, amqp_url: str, rabbitmq: Broker, request: pytest.FixtureRequest
) -> None:
    """A memory alarm blocks publishers only: publish ends in time, and consumers go on."""
    gate = Gate()
    consumer = await fleet.instance()
    consumer.subscribe(Subscription("alarmed", Exchange.NOTIFY, ("work",), Recorder(gate)))
    encoder = request.node.callspec.params["fleet"]
    publisher = RabbitBus(amqp_url, instance_name="publisher", publish_timeout=0.5, use_publish_encoder=encoder)
    await publisher.open()
    await ready(consumer, publisher)
    assert await publisher.publish([notification()]) == [Outcome.CONFIRMED]
    await eventually(lambda: gate.inside == 1)

    await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "0")
    try:
        refused = notification()
        await eventually(lambda: refuses(publisher))
        assert await publisher.publish([refused]) == [Outcome.UNKNOWN]
        gate.open()
        await consumer.drain()
    finally:
        await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "0.4")

    await eventually(lambda: confirmed(publisher, "work"))
    assert await publisher.publish([refused]) == [Outcome.CONFIRMED]
    await ready(consumer, publisher)
    await publisher.close()


async def test_services_need_few_rights(amqp_url: str, rabbitmq: Broker) -> None:
    """With an existing topology a publisher needs write permission to three exchanges, and a pool read permission to
    its queue.
    """
    owner = RabbitBus(amqp_url, instance_name="owner", delivery_limit=DELIVERY_LIMIT)
    await owner.open()
    await ready(owner)
    await owner.close()
    publishing = await user(rabbitmq, amqp_url, "publisher", "^$", r"^tokenwire\.(events|notify)$", "^$")
    consuming = await user(
        rabbitmq,
        amqp_url,
        "consumer",
        r"^tokenwire\.broadcast\.",
        r"^tokenwire\.(broadcast\..*|events|notify)$",
        r"^tokenwire\.(broadcast\..*|events|notifier)$",
    )
    publisher = rabbit_fleet(publishing, declare=False)
    consumer = rabbit_fleet(consuming, declare=False)
    work, broadcast = Recorder(), Recorder()
    source, sink = await publisher.instance(), await consumer.instance()
    sink.subscribe(Subscription("notifier", Exchange.NOTIFY, ("notify",), work))
    sink.subscribe(Subscription("cache", Exchange.EVENTS, ("#",), broadcast, Mode.BROADCAST))

    await ready(source, sink)
    assert await source.publish([notification("notify"), event()]) == [Outcome.CONFIRMED, Outcome.CONFIRMED]

    await eventually(lambda: (len(work.ids), len(broadcast.ids)) == (1, 1))
    await publisher.close()
    await consumer.close()


async def test_a_missing_topology_is_waited_for(fleet: Fleet, amqp_url: str) -> None:
    """With declare=False a missing topology is reported, and used once it exists."""
    passive = rabbit_fleet(amqp_url, declare=False)
    bus, handler = await passive.instance(), Recorder()
    bus.subscribe(Subscription("notifier", Exchange.NOTIFY, ("notify",), handler))

    await eventually(lambda: names(bus, "topology missing"))
    assert await bus.publish([notification("notify")]) == [Outcome.UNKNOWN]
    await fleet.instance()

    await ready(bus)
    assert await bus.publish([notification("notify")]) == [Outcome.CONFIRMED]
    await eventually(lambda: handler.ids)
    await passive.close()


async def test_a_queue_of_an_older_release_is_used_as_it_is(fleet: Fleet, channel: AbstractChannel) -> None:
    """If an existing queue has other arguments (406), it is used as it is."""
    for pool in (Pool("older", Exchange.NOTIFY, ("work",)), *POOLS):
        await channel.declare_queue(pool.queue, durable=True, arguments={"x-queue-type": "quorum", "x-max-length": 7})
    bus, handler = await fleet.instance(), Recorder()
    bus.subscribe(Subscription("older", Exchange.NOTIFY, ("work",), handler))

    await ready(bus)
    assert await bus.publish([notification()]) == [Outcome.CONFIRMED]

    await eventually(lambda: handler.ids)


@WITH_EITHER_WRITER
async def test_a_full_queue_refuses(fleet: Fleet, channel: AbstractChannel) -> None:
    """A full queue refuses new messages (REFUSED), and drops no old ones."""
    arguments: FieldTable = {"x-queue-type": "quorum", "x-max-length": 3, "x-overflow": "reject-publish"}
    queue = await channel.declare_queue("tokenwire.full", durable=True, arguments=arguments)
    bus = await fleet.instance()
    await ready(bus)
    await queue.bind(Exchange.NOTIFY.value, "work")

    outcomes = [(await bus.publish([notification()]))[0] for _ in range(20)]

    assert (outcomes[:3], outcomes[-3:]) == ([Outcome.CONFIRMED] * 3, [Outcome.REFUSED] * 3)
    found = await eventually(lambda: channel.declare_queue("tokenwire.full", passive=True))
    assert found.declaration_result.message_count == sum(map(bool, outcomes))


async def test_pools_keep_events_from_before_their_first_consumer(fleet: Fleet) -> None:
    """A publisher declares the known pools' queues, so that a service which starts later loses nothing."""
    pool = next(pool for pool in POOLS if pool.exchange is Exchange.EVENTS)
    publisher = await fleet.instance()
    await ready(publisher)
    message = event(pool.keys[0].replace("#", "api-1"))
    assert await publisher.publish([message]) == [Outcome.CONFIRMED]

    late, handler = await fleet.instance(), Recorder()
    late.subscribe(Subscription(pool.name, pool.exchange, pool.keys, handler))

    await eventually(lambda: handler.messages == [message])


async def test_the_broker_has_the_declared_topology(fleet: Fleet, amqp_url: str, rabbitmq: Broker) -> None:
    """Declaring creates exactly the result of `topology()`."""
    await ready(await fleet.instance())
    vhost = urlsplit(amqp_url).path.removeprefix("/")
    wanted = topology(vhost=vhost, delivery_limit=DELIVERY_LIMIT)

    held = await asyncio.to_thread(
        listed, rabbitmq, vhost, "list_queues", "name", "durable", "auto_delete", "arguments"
    )
    exchanges = await asyncio.to_thread(
        listed, rabbitmq, vhost, "list_exchanges", "name", "type", "durable", "auto_delete", "internal", "arguments"
    )
    bindings = await asyncio.to_thread(
        listed, rabbitmq, vhost, "list_bindings", "source_name", "destination_name", "routing_key"
    )

    assert by_name(held) == by_name([{**queue} for queue in wanted["queues"]])
    assert by_name([exchange for exchange in exchanges if "tokenwire" in str(exchange["name"])]) == by_name(
        [{**exchange} for exchange in wanted["exchanges"]]
    )
    assert {
        (binding["source_name"], binding["destination_name"], binding["routing_key"])
        for binding in bindings
        if binding["source_name"]
    } == {(binding["source"], binding["destination"], binding["routing_key"]) for binding in wanted["bindings"]}


async def test_a_closed_bus_leaves_no_broadcast_queue(amqp_url: str, rabbitmq: Broker) -> None:
    """Closing deletes the instance's broadcast queues."""
    fleet = rabbit_fleet(amqp_url)
    bus = await fleet.instance()
    bus.subscribe(Subscription("cache", Exchange.EVENTS, ("#",), Recorder(), Mode.BROADCAST))
    await ready(bus)
    before = await queues(rabbitmq, amqp_url)

    await fleet.close()

    after = await queues(rabbitmq, amqp_url)
    assert [name for name in before if name not in after] == [name for name in before if name.startswith(BROADCASTS)]
    assert len(before) == len(after) + 1


async def confirmed(bus: Bus, key: str) -> bool:
    """Whether a new notification is routed."""
    return await bus.publish([notification(key)]) == [Outcome.CONFIRMED]


async def refuses(bus: Bus) -> bool:
    """Whether a new notification is not confirmed."""
    return await bus.publish([notification()]) == [Outcome.UNKNOWN]


async def names(bus: Bus, what: str) -> bool:
    """Whether ping names this."""
    try:
        await bus.ping()
    except BusUnavailable as reason:
        return what in str(reason)
    return False


async def seconds(work: Awaitable[object]) -> float:
    """Duration of `work` in seconds."""
    began = time.monotonic()
    await work
    return time.monotonic() - began


async def queues(rabbitmq: Broker, url: str) -> list[str]:
    """The names of all queues of the vhost."""
    vhost = urlsplit(url).path.removeprefix("/")
    found = await asyncio.to_thread(listed, rabbitmq, vhost, "list_queues", "name")
    return [str(queue["name"]) for queue in found]


async def user(rabbitmq: Broker, url: str, name: str, configure: str, write: str, read: str) -> str:
    """The URL of a new user with these permissions on the vhost."""
    parts = urlsplit(url)
    vhost = parts.path.removeprefix("/")
    name = f"{name}-{vhost}"
    await asyncio.to_thread(rabbitmq.ctl, "add_user", name, "password")
    await asyncio.to_thread(rabbitmq.ctl, "set_permissions", "-p", vhost, name, configure, write, read)
    return parts._replace(netloc=f"{name}:password@{parts.hostname}:{parts.port}").geturl()


async def close_connections(rabbitmq: Broker, url: str) -> None:
    """Make the broker close every connection to the vhost."""
    vhost = urlsplit(url).path.removeprefix("/")
    await asyncio.to_thread(rabbitmq.ctl, "close_all_connections", "-p", vhost, "for a test")


def delete_queue(rabbitmq: Broker, url: str, name: str) -> None:
    """Delete a queue, even an exclusive one."""
    vhost = urlsplit(url).path.removeprefix("/")
    rabbitmq.ctl("delete_queue", "-p", vhost, name)


def listed(rabbitmq: Broker, vhost: str, command: str, *columns: str) -> list[dict[str, object]]:
    """A list from rabbitmqctl, one dictionary per row."""
    rows = json.loads(rabbitmq.ctl(command, "-p", vhost, "--formatter", "json", *columns))
    return [
        {**row, "arguments": {name: value for name, _, value in row["arguments"]}, "vhost": vhost}
        if "arguments" in row
        else row
        for row in rows
    ]


def by_name(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Sorted by name."""
    return sorted(rows, key=lambda row: str(row["name"]))
