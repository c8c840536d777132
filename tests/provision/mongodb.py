"""MongoDB for tests: an external one, the wheel's mongod, or a container."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from libs.store import replica_set
from services.embedded import EmbeddedMongo, EmbeddedMongoMissing
from tests.ports import free_port
from tests.provision import CannotProvide, containers

PREFIX = "tokenwire_test_"
"""The names of the tests' databases begin with this."""
INSTEAD = "set TOKENWIRE_TEST_MONGODB_URL to a MongoDB replica set the tests may use"


class Database(Protocol):
    """A MongoDB for tests, which they may break unless it is external."""

    @property
    def url(self) -> str:
        """mongodb://… without a database name."""

    async def start(self) -> None:
        """Start it on the same port and data; wait until it is primary."""

    async def stop(self) -> None:
        """Shut it down gracefully."""

    def kill(self) -> None:
        """SIGKILL; only acknowledged (journaled) writes survive."""

    async def step_down(self) -> None:
        """Step down as primary; as the only member it is elected again after a second or more."""

    def drop_all(self) -> None:
        """Drop the databases of all tests. Nothing happens if it does not respond, or is external."""

    async def close(self) -> None:
        """Stop it and delete its files."""


async def provide() -> Database:
    """The first available: TOKENWIRE_TEST_MONGODB_URL; the wheel's mongod; a container."""
    if url := os.environ.get("TOKENWIRE_TEST_MONGODB_URL"):
        database = ExternalDatabase(url)
        await database.refuse_if_unusable()
        return database
    return await own()


async def own() -> Database:
    """A MongoDB for the caller alone: the wheel's mongod, else a container."""
    try:
        return await _started(TemporaryMongo())
    except EmbeddedMongoMissing as missing:
        if not containers.engine_responds():
            raise CannotProvide(f"{missing}; for the tests: {INSTEAD}") from missing
        return await _started(MongoContainer())


async def _started(server: Database) -> Database:
    """Start it, or clean up if that fails."""
    try:
        await server.start()
    except BaseException:
        await server.close()
        raise
    return server


async def _step_down(url: str) -> None:
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(url, serverSelectionTimeoutMS=5_000)
    try:
        await client.admin.command("replSetStepDown", 1, secondaryCatchUpPeriodSecs=0, force=True)
    finally:
        client.close()


def _drop_all(url: str) -> None:
    with suppress(PyMongoError), MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=2_000) as client:
        for name in client.list_database_names():
            if name.startswith(PREFIX):
                client.drop_database(name)


class TemporaryMongo(EmbeddedMongo):
    """The embedded MongoDB with temporary data, and without a password, which the tests' proxies do not support."""

    _needs_password = False

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="tokenwire-mongodb-"))
        super().__init__(self._home)

    async def step_down(self) -> None:
        await _step_down(self.url)

    def drop_all(self) -> None:
        _drop_all(self.url)

    async def close(self) -> None:
        if self.running:
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)


class ExternalDatabase:
    """An external MongoDB: tests create databases with new names, and never disturb it."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def refuse_if_unusable(self) -> None:
        """Raises CannotProvide if it does not respond, or is neither a replica set nor a sharded cluster."""
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(self.url, serverSelectionTimeoutMS=5_000)
        try:
            hello = await client.admin.command("hello")
        except PyMongoError as fault:
            reason = str(fault).partition(" (configured")[0]
            raise CannotProvide(f"the MongoDB of TOKENWIRE_TEST_MONGODB_URL does not respond: {reason}") from fault
        finally:
            client.close()
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise CannotProvide("the MongoDB of TOKENWIRE_TEST_MONGODB_URL is not a replica set: start it as one")

    async def start(self) -> None:
        raise self._refusal("start")

    async def stop(self) -> None:
        raise self._refusal("stop")

    def kill(self) -> None:
        raise self._refusal("kill")

    async def step_down(self) -> None:
        raise self._refusal("step down the primary of")

    def drop_all(self) -> None:
        """Nothing: other runs may use it, too."""

    async def close(self) -> None:
        """Nothing to do."""

    def _refusal(self, deed: str) -> AssertionError:
        return AssertionError(
            f"this test has to {deed} MongoDB, and TOKENWIRE_TEST_MONGODB_URL names one that is not ours to disturb: "
            "unset it for the tests that break things"
        )


class MongoContainer:
    """`mongo:8` in a container, on a fixed port so that it restarts at the same address."""

    def __init__(self) -> None:
        self._port = free_port()
        command = ("--replSet", replica_set.NAME, "--wiredTigerCacheSizeGB", "0.25")
        self._container = containers.run("mongo:8", published={27017: self._port}, command=command)

    @property
    def url(self) -> str:
        # The set knows its member by the port inside, so clients must connect directly.
        return f"mongodb://127.0.0.1:{self._port}/?directConnection=true"

    async def start(self) -> None:
        self._container.start()
        await replica_set.become_primary("127.0.0.1", self._port, member="127.0.0.1:27017", within=60)

    async def stop(self) -> None:
        self._container.stop(timeout=30)

    def kill(self) -> None:
        self._container.kill()
        self._container.wait()

    async def step_down(self) -> None:
        await _step_down(self.url)

    def drop_all(self) -> None:
        _drop_all(self.url)

    async def close(self) -> None:
        self._container.remove(force=True, v=True)
