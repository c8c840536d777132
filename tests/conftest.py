"""Real servers for every test that asks for one: started when the first does, gone when the session ends."""

import secrets
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.provision import CannotProvide, mongodb, rabbitmq

CANNOT_PROVIDE = 3
"""The exit status of a run that lacks a server."""


def pytest_configure() -> None:
    """SIGTERM ends the run as Ctrl-C does: in order, with every server stopped and its files removed."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@pytest.fixture(scope="session", name="mongodb")
async def _mongodb() -> AsyncIterator[mongodb.Database]:
    """The MongoDB of this run. A test that stops or kills it starts it again."""
    try:
        server = await mongodb.provide()
    except CannotProvide as reason:
        pytest.exit(str(reason), CANNOT_PROVIDE)
    yield server
    await server.close()


@pytest.fixture(scope="session")
def mongodb_url(mongodb: mongodb.Database) -> str:
    """A replica set, without a database name."""
    return mongodb.url


@pytest.fixture
def database_name() -> str:
    """A database nobody else uses; it goes with the server."""
    return f"tokenwire_test_{secrets.token_hex(6)}"


@pytest.fixture(scope="session", name="rabbitmq")
def _rabbitmq() -> Iterator[rabbitmq.Broker]:
    """The RabbitMQ of this run. A test that stops, kills or freezes it puts it right again."""
    try:
        broker = rabbitmq.provide()
    except CannotProvide as reason:
        pytest.exit(str(reason), CANNOT_PROVIDE)
    yield broker
    broker.close()


@pytest.fixture
def amqp_url(rabbitmq: rabbitmq.Broker) -> str:
    """A vhost nobody else uses; it goes with the server."""
    return rabbitmq.new_vhost()
