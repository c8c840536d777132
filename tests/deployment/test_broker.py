"""A real broker with only the stack's configuration and definitions."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import aio_pika
import pytest
from aio_pika.exceptions import AMQPError
from aiormq.exceptions import ChannelAccessRefused
from pamqp.common import FieldTable

from libs.bus.port import BusUnavailable, Delivery, Drop, Exchange, Message, Outcome, PoolQueues
from libs.bus.rabbit import RabbitBus, open_pool_queues
from libs.bus.rabbit.topology import topology
from tests.deployment.guarded import GuardedRabbit
from tests.deployment.test_rabbitmq_definitions import STEMS
from tests.deployment.wiring import SERVICES, wired
from tests.eventually import eventually


@asynccontextmanager
async def bus_of(broker: GuardedRabbit, service: str, heard: list[Delivery]) -> AsyncIterator[RabbitBus]:
    """The service's bus with the stack's user, its real subscriptions, and handlers that only record."""

    async def remember(delivery: Delivery) -> None:
        heard.append(delivery)

    bus = RabbitBus(broker.url_of(service), instance_name=f"{service}@f3a9c1d2e4b5:1", declare=False)
    for subscription in wired(service).subscriptions:
        bus.subscribe(replace(subscription, handler=remember, on_gap=None))
    await bus.open()
    try:
        await eventually(lambda: _responses(bus))
        yield bus
    finally:
        await bus.close()


async def _responses(bus: RabbitBus) -> bool:
    try:
        await bus.ping()
    except BusUnavailable:
        return False
    return True


@asynccontextmanager
async def channel_of(broker: GuardedRabbit, user: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    connection = await aio_pika.connect(broker.url_of(user))
    async with connection, connection.channel(on_return_raises=True) as channel:
        yield channel


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_works_with_its_own_user_and_no_more(broker: GuardedRabbit, service: str) -> None:
    """With its own user a service consumes all its subscriptions and publishes all its events."""
    sources = wired(service).publishes_from
    messages = [
        Message(f"{service}-{stem}-{exchange}", exchange, f"{stem}.some.api-1", b"{}")
        for source in sorted(sources)
        for stem in sorted(STEMS[source])
        for exchange in (Exchange.EVENTS, Exchange.POOLS)
    ]
    if "grants" in sources:
        messages.append(Message(f"{service}:n", Exchange.NOTIFY, "notify", b"{}"))
    async with bus_of(broker, service, []) as bus:
        assert list(await bus.publish(messages)) == [Outcome.CONFIRMED] * len(messages)


async def test_events_reach_the_pools_and_the_broadcasts(broker: GuardedRabbit) -> None:
    """An event published by one service reaches another's pools and broadcasts through the definitions' bindings
    alone.
    """
    revoking: list[Delivery] = []
    checking: list[Delivery] = []
    async with (
        bus_of(broker, "management", []) as management,
        bus_of(broker, "revocation", revoking),
        bus_of(broker, "gateway", checking),
    ):
        sent = Message("evt_1", Exchange.EVENTS, "client.deleted.api-1", b'{"subject":"client-1"}')
        assert await management.publish([sent]) == [Outcome.CONFIRMED]
        await eventually(lambda: {"evt_1"} <= {delivery.message.id for delivery in revoking})
        await eventually(lambda: {"evt_1"} <= {delivery.message.id for delivery in checking})


async def test_a_subscriber_owns_its_queue_and_gets_every_event(broker: GuardedRabbit) -> None:
    """The subscriber's user can declare `sub.<name>`, bind it to the events and read it; publishing is refused."""
    async with bus_of(broker, "token", []) as token, channel_of(broker, "subscriber") as channel:
        queue = await channel.declare_queue("sub.billing", durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind("tokenwire.events", "token.#")
        assert await token.publish([Message("evt_2", Exchange.EVENTS, "token.new.api-1", b"{}")]) == [Outcome.CONFIRMED]
        message = await eventually(lambda: queue.get(fail=False))
        assert message is not None
        await message.ack()
        assert message.message_id == "evt_2"


@pytest.mark.parametrize("name", ["sub.full", "sub.full.dead"])
async def test_b1_a_subscribers_full_queue_refuses_no_event(broker: GuardedRabbit, name: str) -> None:
    """The broker's policy overrides a subscriber's own queue arguments: a full quorum queue drops its oldest event."""
    arguments: FieldTable = {"x-queue-type": "quorum", "x-max-length": 2, "x-overflow": "reject-publish"}
    async with bus_of(broker, "token", []) as token, channel_of(broker, "subscriber") as channel:
        queue = await channel.declare_queue(name, durable=True, arguments=arguments)
        await queue.bind("tokenwire.events", "token.#")
        messages = [Message(f"evt_{n}", Exchange.EVENTS, "token.new.api-1", b"{}") for n in range(20)]
        assert [await token.publish([message]) for message in messages] == [[Outcome.CONFIRMED]] * 20
        await queue.delete(if_unused=False, if_empty=False)


async def test_dead_letters_are_sent_back_by_their_own_user(broker: GuardedRabbit) -> None:
    """The user `dead_letters` can count dead letters and send them back; the service receives them again."""
    handled: list[str] = []

    async def once_in_vain(delivery: Delivery) -> None:
        handled.append(delivery.message.id)
        if len(handled) == 1:
            raise Drop("not today")

    (wanted,) = [each for each in wired("revocation").subscriptions if each.name == "revocation"]
    bus = RabbitBus(broker.url_of("revocation"), instance_name="revocation@f3a9c1d2e4b5:2", declare=False)
    bus.subscribe(replace(wanted, handler=once_in_vain))
    await bus.open()
    async with (
        bus_of(broker, "management", []) as management,
        open_pool_queues(broker.url_of("dead_letters")) as queues,
    ):
        await eventually(lambda: _responses(bus))
        sent = Message("evt_dead", Exchange.EVENTS, "client.deleted.api-1", b"{}")
        assert await management.publish([sent]) == [Outcome.CONFIRMED]

        await eventually(lambda: _dead_lettered(queues, "revocation", 1))
        assert await queues.redrive("revocation", 10) == 1
        await eventually(lambda: handled == ["evt_dead"] * 2)
        assert await queues.dead_letters("revocation") == 0
    await bus.close()


async def _dead_lettered(queues: PoolQueues, pool: str, count: int) -> bool:
    return await queues.dead_letters(pool) == count


async def publish(channel: aio_pika.abc.AbstractChannel, exchange: str, key: str) -> None:
    """Publish and wait for the confirmation."""
    found = await channel.get_exchange(exchange, ensure=False)
    await found.publish(aio_pika.Message(b"{}"), key, mandatory=False)


async def consume(channel: aio_pika.abc.AbstractChannel, queue: str) -> None:
    """Consume the queue."""
    found = await channel.get_queue(queue, ensure=False)
    await found.get(fail=False)


async def bind(channel: aio_pika.abc.AbstractChannel, service: str, exchange: str, key: str) -> None:
    """Declare a queue of the service and bind it."""
    name = f"tokenwire.broadcast.spy.{service}@f3a9c1d2e4b5:1.00000000"
    queue = await channel.declare_queue(name, exclusive=True, auto_delete=True)
    await queue.bind(exchange, key)


Deed = Callable[[aio_pika.abc.AbstractChannel], Awaitable[object]]
REFUSED: dict[str, tuple[str, Deed]] = {
    "token-reads-notifications": ("token", lambda channel: consume(channel, "tokenwire.notifier")),
    "token-taps-notifications": ("token", lambda channel: bind(channel, "token", "tokenwire.notify", "notify")),
    "token-taps-tokens": ("token", lambda channel: bind(channel, "token", "tokenwire.events", "token.#")),
    "token-taps-all": ("token", lambda channel: bind(channel, "token", "tokenwire.events", "#")),
    "token-deletes-clients": ("token", lambda channel: publish(channel, "tokenwire.events", "client.deleted.api-1")),
    "gateway-publishes": ("gateway", lambda channel: publish(channel, "tokenwire.events", "token.new.api-1")),
    "management-notifies": ("management", lambda channel: publish(channel, "tokenwire.notify", "notify")),
    "notifier-reads-dead-letters": ("notifier", lambda channel: consume(channel, "tokenwire.notifier.dead")),
    "notifier-writes-queues": ("notifier", lambda channel: publish(channel, "tokenwire.dlx", "tokenwire.revocation")),
    "token-uses-the-default-exchange": ("token", lambda channel: publish(channel, "", "tokenwire.revocation")),
    "notifier-makes-queues": ("notifier", lambda channel: channel.declare_queue("tokenwire.more", durable=True)),
    "token-makes-another's": ("token", lambda channel: bind(channel, "gateway", "tokenwire.events", "client.#")),
    "dead-letters-reads-work": ("dead_letters", lambda channel: consume(channel, "tokenwire.revocation")),
    "dead-letters-publishes": ("dead_letters", lambda channel: publish(channel, "tokenwire.events", "token.new.api-1")),
    "dead-letters-notifies": ("dead_letters", lambda channel: publish(channel, "tokenwire.notify", "notify")),
    "dead-letters-listens": ("dead_letters", lambda channel: channel.declare_queue("sub.dead_letters", durable=True)),
    "dead-letters-purges": ("dead_letters", lambda channel: channel.queue_delete("tokenwire.notifier.dead")),
    "subscriber-publishes": ("subscriber", lambda channel: publish(channel, "tokenwire.events", "token.new.api-1")),
    "subscriber-reads-notifications": ("subscriber", lambda channel: consume(channel, "tokenwire.notifier")),
    "subscriber-deletes-queues": ("subscriber", lambda channel: channel.queue_delete("tokenwire.notifier")),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_permissions_no_service_needs_are_refused(broker: GuardedRabbit, case: str) -> None:
    """The broker refuses what no service needs, whatever the code tries."""
    user, deed = REFUSED[case]
    async with channel_of(broker, user) as channel:
        with pytest.raises(ChannelAccessRefused):
            async with asyncio.timeout(10):
                await deed(channel)


async def test_there_is_no_guest(broker: GuardedRabbit) -> None:
    """The broker creates no default user; only the users in the definitions may connect."""
    with pytest.raises((AMQPError, ConnectionError)):
        await aio_pika.connect(broker.url)
    users = json.loads(broker.ctl("list_users", "--formatter", "json"))
    assert sorted(user["user"] for user in users) == sorted([*SERVICES, "subscriber", "dead_letters"])
    assert all(user["tags"] == [] for user in users)


def test_the_broker_has_the_topology_of_the_code(broker: GuardedRabbit) -> None:
    """The broker reports exactly the code's queues, arguments and bindings."""
    wanted = topology()
    queues = json.loads(broker.ctl("list_queues", "name", "durable", "arguments", "--formatter", "json"))
    made = {queue["name"]: _arguments(queue["arguments"]) for queue in queues if queue["name"].startswith("tokenwire.")}
    assert made == {queue["name"]: queue["arguments"] for queue in wanted["queues"]}
    columns = ("source_name", "destination_name", "routing_key")
    bindings = json.loads(broker.ctl("list_bindings", *columns, "--formatter", "json"))
    named = {tuple(binding[column] for column in columns) for binding in bindings if binding["source_name"]}
    assert named >= {(row["source"], row["destination"], row["routing_key"]) for row in wanted["bindings"]}
    assert {row for row in named if row[1].startswith("tokenwire.") and ".broadcast." not in row[1]} == {
        (row["source"], row["destination"], row["routing_key"]) for row in wanted["bindings"]
    }


def _arguments(listed: object) -> dict[str, object]:
    """RabbitMQ 3.10 lists arguments as [name, type, value], later versions as an object."""
    if isinstance(listed, dict):
        return listed
    assert isinstance(listed, list)
    return {name: value for name, _, value in listed}
