"""Full queues on RabbitMQ that refuse events: other consumers are not delayed, and operators are told."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from pamqp.common import FieldTable

from contracts.events import RefusedBy
from libs.bus import outbox
from libs.bus.port import Exchange
from libs.bus.rabbit import RabbitBus
from services.reconciliation.recorder import Recorder
from tests.builders import api_document
from tests.eventually import eventually
from tests.services.system import SCHEME, Party, System, open_system

LENGTH = 3
FULL: FieldTable = {"x-queue-type": "quorum", "x-max-length": LENGTH, "x-overflow": "reject-publish"}
NOTIFIED = {f"{SCHEME}notifications": {"onKeyChangeUrl": "http://127.0.0.1:9/hook", "sharedSecret": "a-shared-secret"}}
TOKENS = 40


class Healthy:
    """A subscriber that consumes everything."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()

    async def take(self, message: AbstractIncomingMessage) -> None:
        self.heard[message.message_id or ""] += 1
        await message.ack()

    @property
    def duplicates(self) -> int:
        """Events received more than once."""
        return self.heard.total() - len(self.heard)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused events are retried after half a second instead of five, then at least every two seconds."""
    monkeypatch.setattr(outbox, "FIRST_RETRY_BACKOFF", 0.5)
    monkeypatch.setattr(outbox, "LONGEST_RETRY_BACKOFF", dict.fromkeys(RefusedBy, 2.0))


@pytest.fixture(name="channel")
async def _channel(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    connection = await aio_pika.connect(amqp_url)
    async with connection, connection.channel() as channel:
        yield channel


@pytest.fixture(name="healthy")
async def _healthy(channel: AbstractChannel) -> Healthy:
    """A subscriber whose queue is bound before anything is published."""
    healthy = Healthy()
    await channel.declare_exchange(Exchange.EVENTS.value, "topic", durable=True)
    queue = await channel.declare_queue("sub.healthy", durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(Exchange.EVENTS.value, "#")
    await queue.consume(healthy.take)
    return healthy


async def issue(party: Party) -> None:
    """Issue this many tokens, each with a webhook due."""
    for _ in range(TOKENS):
        await party.tokens()


async def reconciliation_report(system: System) -> dict[str, Any]:
    response = await system.operator("GET", "/api/events/audit")
    assert response.status == 200, response.body
    body: dict[str, Any] = response.body
    return body


async def test_b1_a_full_subscriber_queue_delays_no_other(
    mongodb_url: str, amqp_url: str, channel: AbstractChannel, healthy: Healthy
) -> None:
    """Webhooks and other subscribers get everything, with hardly any duplicates; reconciliation is out of balance and
    names likely causes.

    When the queue accepts events again, it gets all of them and the balance is restored.
    """
    await channel.declare_exchange(Exchange.EVENTS.value, "topic", durable=True)
    full = await channel.declare_queue("sub.full", durable=True, arguments=FULL)
    await full.bind(Exchange.EVENTS.value, "token.#")
    async with open_system(mongodb_url, bus=RabbitBus(amqp_url, instance_name="refused")) as system:
        party = await system.party(api_document(**NOTIFIED))
        await issue(party)
        await eventually(lambda: len(system.notified.bodies) == TOKENS)
        await eventually(lambda: set(system.notified.bodies) <= set(healthy.heard))
        assert healthy.duplicates <= 0.05 * len(healthy.heard)
        assert not await system.deps.store.grants.pending(system.clock(), 10)

        async def red() -> dict[str, Any]:
            found = await reconciliation_report(system)
            assert found["refused"]["records"] >= TOKENS - 2 * LENGTH
            return found

        found = await eventually(red)
        assert found["balanced"] is False
        (cause,) = found["refused"]["likely_causes"]
        assert "reject-publish" in cause
        assert found["total"]["missing"] == 0

        late = Counter[str]()

        async def take(message: AbstractIncomingMessage) -> None:
            late[message.message_id or ""] += 1
            await message.ack()

        await full.consume(take)
        await eventually(lambda: set(system.notified.bodies) <= set(late), within=30)

        async def green() -> bool:
            return (await reconciliation_report(system))["balanced"] is True

        await eventually(green)


async def test_b1_a_full_event_log_queue_delays_no_other(
    mongodb_url: str, amqp_url: str, channel: AbstractChannel, healthy: Healthy
) -> None:
    """With the recorder stopped and its queue at the limit, webhooks and subscribers get everything with hardly any
    duplicates, also while it catches up.
    """
    await channel.declare_queue("tokenwire.event_log", durable=True, arguments=FULL)
    bus = RabbitBus(amqp_url, instance_name="unrecorded")
    async with open_system(mongodb_url, bus=bus, without="management") as system:
        party = await system.party(api_document(**NOTIFIED))
        await issue(party)
        await eventually(lambda: len(system.notified.bodies) == TOKENS)
        await eventually(lambda: set(system.notified.bodies) <= set(healthy.heard))
        assert not await system.deps.store.grants.pending(system.clock(), 10)
        refused, _ = await system.deps.store.grants.refusals()
        assert refused >= TOKENS - 2 * LENGTH

        bus.subscribe(Recorder(system.deps.store.events, system.deps.store.audit_log).subscription())

        async def recorded() -> bool:
            collection = system.deps.store.mongo["events"]
            return await collection.count_documents({"_id": {"$in": list(system.notified.bodies)}}) == TOKENS

        await eventually(recorded, within=30)

        async def none_refused() -> bool:
            refusals = [(await collection.refusals())[0] for collection in system.deps.store.outbox_collections]
            return not any(refusals)

        await eventually(none_refused, within=30)
        assert healthy.duplicates <= 0.05 * len(healthy.heard)
