"""Real servers for every test that asks for one: started when the first does, gone when the session ends."""

import secrets
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager

import pytest

from tests.provision import CannotProvide, mongodb, rabbitmq

CANNOT_PROVIDE = 3
"""The exit status of a run that lacks a server."""


def pytest_configure() -> None:
    """SIGTERM ends the run as Ctrl-C does: in order, with every server stopped and its files removed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what runs in the background
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@contextmanager
def _lack_ends_the_run() -> Iterator[None]:
    try:
        yield
    except CannotProvide as reason:
        pytest.exit(str(reason), CANNOT_PROVIDE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """A server that cannot be had ends the run with its one line, instead of failing every test that needs it."""
    with _lack_ends_the_run():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """The same for a test that starts a server itself."""
    with _lack_ends_the_run():
        return (yield)


@pytest.fixture(scope="session", name="mongodb")
async def _mongodb() -> AsyncIterator[mongodb.Database]:
    """The MongoDB of this run. A test that stops or kills it starts it again."""
    server = await mongodb.provide()
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
    broker = rabbitmq.provide()
    yield broker
    broker.close()


@pytest.fixture
def amqp_url(rabbitmq: rabbitmq.Broker) -> str:
    """A vhost nobody else uses; it goes with the server."""
    return rabbitmq.new_vhost()
