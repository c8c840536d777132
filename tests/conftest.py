"""Real servers for the tests that need them: started at the first use, stopped when the session ends."""

import os
import secrets
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.provision import CannotProvide, mongodb, rabbitmq

# Hypothesis' own limits on time judge the machine, not the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

CANNOT_PROVIDE = 3
"""Exit status when a required server cannot be started."""
_MISSING = "missing part"
"""The property of a test report that says which server is missing, and how to provide it."""
WITHOUT = "TOKENWIRE_TEST_WITHOUT"
"""This environment variable deselects tests by the part they need; a comma-separated list of keys of OPTIONAL_PARTS."""
IN_CONTAINERS = Path(__file__).parent / "compose"
ON_REQUEST = (IN_CONTAINERS, IN_CONTAINERS / "alone")
"""Directories of tests that run only if they, or files in them, are named."""
OPTIONAL_PARTS = {"node-clients": "node_clients"}
"""Optional parts, and the fixture by which a test requests each."""


def left_out() -> list[str]:
    """The parts named in TOKENWIRE_TEST_WITHOUT; none by default. Raises UsageError for an unknown one."""
    names = [name.strip() for name in os.environ.get(WITHOUT, "").split(",") if name.strip()]
    if unknown := [name for name in names if name not in OPTIONAL_PARTS]:
        raise pytest.UsageError(f"{WITHOUT}: {', '.join(unknown)} is unknown; allowed: {', '.join(OPTIONAL_PARTS)}")
    return names


def pytest_report_header() -> list[str]:
    """Print at the top of the run which parts are not tested."""
    return [f"{WITHOUT}={name}: tests that need {name} are deselected" for name in left_out()]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests of the container stack, which need a Docker engine, unless they are named (`make
    test-compose`); and among them those that start further stacks, which takes minutes each.
    """
    if collection_path not in ON_REQUEST:
        return None
    named = any(Path(name.split("::")[0]).resolve().is_relative_to(collection_path) for name in config.args)
    return None if named else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of the parts left out; pytest's summary counts them."""
    fixtures = {OPTIONAL_PARTS[name] for name in left_out()}
    deselected = [item for item in items if fixtures & set(getattr(item, "fixturenames", ()))]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM ends the run as Ctrl-C does: in order, with every server stopped and its files removed.

    A missing server ends it with one line, instead of failing every test that needs the server. A worker of
    pytest-xdist can only report that: the process that started the workers ends the run.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore SIGINT in background processes
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_EndOfRun())


@contextmanager
def _noting_what_is_missing(item: pytest.Item) -> Iterator[None]:
    try:
        yield
    except CannotProvide as reason:
        item.user_properties.append((_MISSING, str(reason)))
        pytest.fail(str(reason), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Note a server that a fixture cannot provide."""
    with _noting_what_is_missing(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """The same for a test that starts a server itself."""
    with _noting_what_is_missing(item):
        return (yield)


class _EndOfRun:
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, reason in report.user_properties:
            if name == _MISSING:
                pytest.exit(str(reason), CANNOT_PROVIDE)


OWN_DATABASES = frozenset({"cli", "services", "store", "unit"})
"""Directories in which no two modules share a database."""
_running: list[mongodb.Database] = []


@pytest.fixture(scope="session", name="mongodb")
async def _mongodb() -> AsyncIterator[mongodb.Database]:
    """The MongoDB of this run. A test that stops or kills it must start it again."""
    server = await mongodb.provide()
    _running.append(server)
    yield server
    _running.remove(server)
    await server.close()


@pytest.fixture(scope="module", autouse=True)
def _dropped_databases(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drop the databases of a module after it: MongoDB keeps a file open for each collection and each index."""
    yield
    if request.path.parent.name in OWN_DATABASES:
        for server in _running:
            server.drop_all()


@pytest.fixture(scope="session")
def mongodb_url(mongodb: mongodb.Database) -> str:
    """URL of a replica set, without a database name."""
    return mongodb.url


@pytest.fixture
def database_name() -> str:
    """A database name that no other test uses. The database is dropped after the module, or with the server."""
    return f"{mongodb.PREFIX}{secrets.token_hex(6)}"


@pytest.fixture(scope="session", name="rabbitmq")
def _rabbitmq() -> Iterator[rabbitmq.Broker]:
    """The RabbitMQ of this run. A test that stops, kills or freezes it must restore it."""
    broker = rabbitmq.provide()
    yield broker
    broker.close()


@pytest.fixture
def amqp_url(rabbitmq: rabbitmq.Broker) -> str:
    """A vhost that no other test uses. It is removed with the server."""
    return rabbitmq.new_vhost()
