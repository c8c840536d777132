"""The tests' own RabbitMQ can be killed, frozen and wiped, recovers, and leaves nothing behind."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from pamqp.common import FieldTable

from tests.eventually import eventually
from tests.processes import started_with
from tests.provision import CannotProvide
from tests.provision.rabbitmq import ExternalBroker, RabbitNode, rabbitmq_server

QUORUM: FieldTable = {"x-queue-type": "quorum"}


@pytest.fixture(scope="module")
def spare_node() -> Iterator[RabbitNode]:
    """A second node, to be broken."""
    node = RabbitNode(rabbitmq_server())
    yield node
    node.close()


@pytest.fixture
def node(spare_node: RabbitNode) -> RabbitNode:
    """The spare node, running again whatever an earlier test did."""
    spare_node.start()
    return spare_node


@asynccontextmanager
async def channel(url: str) -> AsyncIterator[AbstractChannel]:
    """A channel with publisher confirms."""
    async with await aio_pika.connect(url, timeout=10) as connection:
        yield await connection.channel()


async def publish(url: str, body: bytes) -> None:
    """Publish to a durable quorum queue and wait for the confirmation."""
    async with channel(url) as publishing:
        await publishing.declare_queue("kept", durable=True, arguments=QUORUM)
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await publishing.default_exchange.publish(message, "kept")


async def test_each_vhost_is_fresh(node: RabbitNode) -> None:
    """Tests that declare the same names do not see each other's messages."""
    first, second = node.new_vhost(), node.new_vhost()
    await publish(first, b"of the first")
    async with channel(second) as consuming:
        queue = await consuming.declare_queue("kept", durable=True, arguments=QUORUM)
        assert await queue.get(fail=False) is None


async def test_confirmed_messages_survive_sigkill(node: RabbitNode) -> None:
    """After SIGKILL and restart, messages confirmed by a settled queue still exist."""
    url = node.new_vhost()
    await publish(url, b"confirmed")
    node.settle()
    node.kill()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    node.start()
    async with channel(url) as consuming:
        queue = await consuming.declare_queue("kept", durable=True, arguments=QUORUM)
        async with queue.iterator(no_ack=True, timeout=20) as messages:
            assert (await anext(messages)).body == b"confirmed"


async def test_a_frozen_node_keeps_its_connections_and_answers_when_thawed(node: RabbitNode) -> None:
    """A frozen node neither responds nor closes; after thawing it answers the pending request."""
    async with channel(node.new_vhost()) as asking:
        node.freeze()
        try:
            declaring = asyncio.create_task(asking.declare_queue("later", exclusive=True))
            done, _ = await asyncio.wait((declaring,), timeout=0.5)
            assert not done
        finally:
            node.thaw()
        assert (await declaring).name == "later"


async def test_a_wiped_node_is_empty(node: RabbitNode) -> None:
    """After `wipe` the next start has none of the earlier vhosts."""
    name = node.new_vhost().rpartition("/")[2]
    assert name in node.ctl("list_vhosts").splitlines()
    node.wipe()
    node.start()
    assert node.ctl("list_vhosts").splitlines() == ["/"]


def test_quorum_queues_and_streams_are_enabled(node: RabbitNode) -> None:
    """Quorum queues and streams are enabled, which at-least-once dead-lettering needs and 3.10 may lack."""
    disabled = [line for line in node.ctl("list_feature_flags", "name", "state").splitlines() if "disabled" in line]
    assert [line for line in disabled if line.startswith(("quorum_queue", "stream_queue"))] == []


async def test_nothing_is_left_of_a_closed_node() -> None:
    """No node, epmd or file is left."""
    node = RabbitNode(rabbitmq_server())
    try:
        node.start()
        node.new_vhost()
        node.ctl("list_queues")
        home = node.log.parent
        assert started_with(f"HOME={home}") >= {"beam.smp"}
        assert "epmd" not in started_with(f"HOME={home}")
    finally:
        node.close()
    await eventually(lambda: not started_with(f"HOME={home}"))
    assert not home.exists()


def test_a_node_starts_no_port_mapper_later(node: RabbitNode) -> None:
    """The node's periodic check does not start epmd later."""
    node.ctl("eval", "rabbit_nodes:ensure_epmd().")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", node.mapper_port), timeout=5)


def test_a_node_that_does_not_start_is_one_line() -> None:
    """If a node does not start, one line has its last output and the alternatives."""
    node = RabbitNode(Path("/bin/false"))
    try:
        with pytest.raises(CannotProvide, match=r"did not start .*: set TOKENWIRE_TEST_AMQP_URL") as refusal:
            node.start()
    finally:
        node.close()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("deed", ["settle", "kill", "stop", "start", "freeze", "thaw", "wipe"])
def test_an_external_broker_is_never_disturbed(deed: str) -> None:
    """A test that breaks an external broker fails with an explanation."""
    with pytest.raises(AssertionError, match=f"has to {deed} RabbitMQ, and TOKENWIRE_TEST_AMQP_URL names one"):
        getattr(ExternalBroker("amqp://broker.example/"), deed)()
