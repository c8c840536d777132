"""Faults of MongoDB or RabbitMQ are reported in one sentence that names the setting and the remedy."""

import re
import subprocess
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from pymongo import IndexModel

from libs.bus.port import BusUnavailable
from libs.bus.rabbit import RabbitBus
from libs.oauth.errors import TemporarilyUnavailable
from libs.processes import end, ending_with_this_process
from libs.store.mongo import Mongo
from services.embedded import EmbeddedMongo, mongod_binary
from tests.eventually import eventually
from tests.ports import free_port

PASSWORD = "hush-hush"

Lines = Sequence[MutableMapping[str, Any]]


def told(logs: Lines, event: str) -> list[str]:
    """The logged reasons."""
    return [line["reason"] for line in logs if line["event"] == event]


async def diagnosis(url: str) -> str:
    """Log line and ping error for this URL; a lasting fault is logged once."""
    mongo = Mongo(url, "tokenwire_test_diagnosis")
    mongo.want("notes", [IndexModel("at")])
    with structlog.testing.capture_logs() as logs:
        await mongo.open()
        try:
            await eventually(lambda: told(logs, "mongodb_not_ready"))
            with pytest.raises(TemporarilyUnavailable) as away:
                await mongo.ping()
        finally:
            await mongo.close()
    reasons = told(logs, "mongodb_not_ready")
    assert len(reasons) == len(set(reasons)), reasons
    for text in (*reasons, away.value.description):
        assert PASSWORD not in text
        assert "Topology" not in text
        assert "configured timeouts" not in text
        assert "full error" not in text
    assert reasons[-1].startswith("TOKENWIRE_MONGODB_URL: ")
    return reasons[-1]


@asynccontextmanager
async def mongod(home: Path, *options: str) -> AsyncIterator[int]:
    """The port of a plain mongod."""
    port = free_port()
    command = [str(mongod_binary()), "--dbpath", str(home), "--bind_ip", "127.0.0.1", "--port", str(port), *options]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(ending_with_this_process(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield port
    finally:
        end(process, within=10)


async def test_b10_a_mongodb_that_is_not_there_is_named_by_its_address() -> None:
    """An unreachable MongoDB is reported by address, not with the driver's topology."""
    port = free_port()
    said = await diagnosis(f"mongodb://user:{PASSWORD}@127.0.0.1:{port}/?replicaSet=rs0")
    assert f"nothing can be reached at 127.0.0.1:{port}: " in said
    assert "Connection refused" in said
    assert "no-such-host.invalid" in await diagnosis(f"mongodb://user:{PASSWORD}@no-such-host.invalid/")


async def test_b10_a_wrong_mongodb_password_is_reported(tmp_path: Path) -> None:
    """A wrong password is reported, and retried, because it may be corrected in MongoDB."""
    async with EmbeddedMongo(tmp_path) as mongo:
        port = urlsplit(mongo.url).port
        said = await diagnosis(f"mongodb://tokenwire:{PASSWORD}@127.0.0.1:{port}/?replicaSet=rs0&authSource=admin")
        assert "refuses the user name or password" in said
        said = await diagnosis(f"mongodb://127.0.0.1:{port}/?replicaSet=rs0")
        assert "may not do what is needed" in said or "requires authentication" in said


async def test_b10_a_standalone_mongodb_is_reported(tmp_path: Path) -> None:
    """A MongoDB that is no replica set is reported, because it cannot acknowledge majority writes."""
    async with mongod(tmp_path) as port:
        assert "is not a replica set" in await diagnosis(f"mongodb://127.0.0.1:{port}/")
        assert "replica set named 'rs0'" in await diagnosis(f"mongodb://127.0.0.1:{port}/?replicaSet=rs0")


async def test_b10_an_uninitiated_replica_set_is_reported(tmp_path: Path) -> None:
    """An uninitialised replica set is reported with the command to initialise it."""
    async with mongod(tmp_path, "--replSet", "rs0") as port:
        for options in ("", "?replicaSet=rs0", "?directConnection=true"):
            assert "rs.initiate()" in await diagnosis(f"mongodb://127.0.0.1:{port}/{options}"), options


async def bus_diagnosis(url: str) -> str:
    """Log line and ping error for this URL, one for both connections."""
    bus = RabbitBus(url, instance_name="diagnosed")
    with structlog.testing.capture_logs() as logs:
        await bus.open()
        try:
            await eventually(lambda: told(logs, "bus_not_connected"))
            with pytest.raises(BusUnavailable) as away:
                await bus.ping()
        finally:
            await bus.close()
    (reason,) = told(logs, "bus_not_connected")
    assert reason.startswith("TOKENWIRE_AMQP_URL: ")
    assert str(away.value) in reason
    assert PASSWORD not in repr(logs)
    assert not [line for line in logs if line["event"] == "bus_session_ended"]
    return reason


async def test_b10_faults_of_rabbitmq_are_explained(amqp_url: str, mongodb_url: str) -> None:
    """A wrong address, password, virtual host or protocol of RabbitMQ is reported."""
    port = free_port()
    refused = await bus_diagnosis(f"amqp://user:{PASSWORD}@127.0.0.1:{port}/")
    assert f"nothing can be reached at 127.0.0.1:{port}: Connection refused" in refused
    without_file = await bus_diagnosis(f"amqps://user:{PASSWORD}@127.0.0.1:{port}/?cafile=/nowhere")
    assert "a file that the URL names (cafile=, certfile=, keyfile=) cannot be read" in without_file
    assert "no host named 'no-such-host.invalid'" in await bus_diagnosis(f"amqp://u:{PASSWORD}@no-such-host.invalid/")
    parts = urlsplit(amqp_url)
    wrong = parts._replace(netloc=f"guest:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()
    assert "refuses the user name or password" in await bus_diagnosis(wrong)
    assert "refuses the virtual host 'nowhere'" in await bus_diagnosis(parts._replace(path="/nowhere").geturl())
    other = urlsplit(mongodb_url)
    said = await bus_diagnosis(f"amqp://user:{PASSWORD}@127.0.0.1:{other.port}/")
    assert f"127.0.0.1:{other.port} does not respond like RabbitMQ" in said


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("?tls=true&tlsCAFile=/nowhere", "a file that the URL names cannot be read: No such file or directory"),
        ("?replicaset=rs0&nonsense=1", "an option of the URL is wrong: Unknown option: nonsense"),
        ("?readPreference=x", "an option of the URL is wrong: x is not a valid read preference"),
        ("?authMechanism=FOO", "an option of the URL is wrong: "),
        (":port/", "a mongodb:// or mongodb+srv:// URL is expected"),
    ],
)
def test_b10_a_mongodb_url_that_the_driver_refuses_stops_the_start(rest: str, reason: str) -> None:
    """A URL that the driver refuses stops the start with one sentence and no traceback."""
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}") as refused:
        Mongo(f"mongodb://user:{PASSWORD}@127.0.0.1/{rest}", "notes")
    assert PASSWORD not in str(refused.value)
