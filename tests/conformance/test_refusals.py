"""Which events the outbox publishes again, and where to, after a RabbitMQ whose queues refused them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue

from contracts.events import RefusedBy
from libs.bus import outbox as module
from libs.bus.outbox import Outbox
from libs.bus.port import PROBE_KEY, Bus, Exchange, Message, Outcome
from tests.builders import unique
from tests.conformance.conftest import rabbit_fleet, ready
from tests.conformance.test_rabbit import close_connections
from tests.eventually import eventually
from tests.provision.rabbitmq import Broker
from tests.unit.test_outbox import NOW, OLD, Shelf, event

SUBSCRIBER = "sub.refusals"
EVENTS = 40


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused events are retried after a second, not after five or more."""
    monkeypatch.setattr(module, "FIRST_RETRY_BACKOFF", 1.0)
    monkeypatch.setattr(module, "LONGEST_RETRY_BACKOFF", dict.fromkeys(RefusedBy, 1.0))


@asynccontextmanager
async def refusing(broker: Broker, url: str, queues: str) -> AsyncIterator[None]:
    """These queues, each with a message in it, refuse every further one; at the end, clients are disconnected, as by a
    restart.
    """
    vhost = urlsplit(url).path.removeprefix("/")
    limit = json.dumps({"max-length": 0, "overflow": "reject-publish"})
    await asyncio.to_thread(broker.ctl, "set_policy", "-p", vhost, "refusing", queues, limit, "--apply-to", "queues")
    try:
        yield
    finally:
        await asyncio.to_thread(broker.ctl, "clear_policy", "-p", vhost, "refusing")
        # A queue that has no limit any more goes on refusing what comes from the same channels.
        await close_connections(broker, url)


@asynccontextmanager
async def subscriber(url: str) -> AsyncIterator[AbstractQueue]:
    """The queue of a subscriber to every event, which stays."""
    connection = await aio_pika.connect(url)
    async with connection, connection.channel() as channel:
        queue = await channel.declare_queue(SUBSCRIBER, durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind(Exchange.EVENTS, "#")
        yield queue


@pytest.mark.parametrize(
    ("queues", "refused_by", "copies"),
    [
        pytest.param(".*", RefusedBy.SUBSCRIBER, EVENTS, id="all-queues"),
        pytest.param("^tokenwire\\.event_log$", RefusedBy.POOL, EVENTS + 1, id="the-event-log"),
    ],
)
async def test_an_event_that_every_queue_refused_reaches_every_subscriber(
    amqp_url: str, rabbitmq: Broker, queues: str, refused_by: RefusedBy, copies: int
) -> None:
    """A broker with a full disk refuses for every queue, so every queue gets the events later. If only the event log
    refuses, subscribers have the events already; one of them comes again, as a trial.
    """
    fleet = rabbit_fleet(amqp_url)
    bus = await fleet.instance()
    await ready(bus)
    async with subscriber(amqp_url):
        pass
    probe = Message("a probe", Exchange.TICKS, PROBE_KEY, b"")
    first, *refused = [event(OLD + timedelta(milliseconds=number)) for number in range(EVENTS + 1)]
    (public, *_) = module.messages_of(first)
    assert await bus.publish([probe, public]) == [Outcome.CONFIRMED] * 2

    shelf = Shelf(*refused)
    outbox = Outbox(bus, lambda: NOW)
    outbox.watch(shelf)
    try:
        async with refusing(rabbitmq, amqp_url, queues):
            await eventually(lambda: is_refused(bus))
            await outbox.open()
            await eventually(lambda: {each.refused_by for each in shelf.events.values()} == {refused_by})
        await eventually(lambda: not shelf.events)
    finally:
        await outbox.close()
        await fleet.close()

    async with subscriber(amqp_url) as queue:
        heard = [await queue.get(no_ack=True) for _ in range(1 + copies)]
        assert await queue.get(no_ack=True, fail=False) is None
    assert {message.message_id for message in heard if message} == {first.id, *(each.id for each in refused)}


async def is_refused(bus: Bus) -> bool:
    """Whether the policy is in force."""
    return await bus.publish([Message(unique("trial"), Exchange.POOLS, "trial", b"")]) == [Outcome.REFUSED]
