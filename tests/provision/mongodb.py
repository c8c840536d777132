"""MongoDB for the tests: an external one, the wheel's mongod, or a container."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import PyMongoError

from libs.store import replica_set
from services.embedded import EmbeddedMongo, EmbeddedMongoMissing
from tests.ports import free_port
from tests.provision import CannotProvide, containers

INSTEAD = "set TOKENWIRE_TEST_MONGODB_URL to a MongoDB replica set the tests may use"


class Database(Protocol):
    """A MongoDB the tests may use, and unless it is somebody else's, break."""

    @property
    def url(self) -> str:
        """mongodb://… without a database name."""

    async def start(self) -> None:
        """Primary, and ready for writes, on the same port and data as before."""

    async def stop(self) -> None:
        """Shut down in order; nothing answers on the port any more."""

    def kill(self) -> None:
        """SIGKILL: what was acknowledged is in the journal, everything else is gone."""

    async def step_down(self) -> None:
        """Not primary any more; after a second or more, being alone, it is elected again."""

    async def close(self) -> None:
        """Nothing of it is left, neither processes nor files."""


async def provide() -> Database:
    """The first of: TOKENWIRE_TEST_MONGODB_URL; the wheel's mongod; a container."""
    if url := os.environ.get("TOKENWIRE_TEST_MONGODB_URL"):
        database = ExternalDatabase(url)
        await database.refuse_if_unusable()
        return database
    return await own()


async def own() -> Database:
    """A MongoDB that is the caller's alone: the wheel's mongod, else a container."""
    try:
        return await _started(TemporaryMongo())
    except EmbeddedMongoMissing as missing:
        if not containers.engine_answers():
            raise CannotProvide(f"{missing}; for the tests: {INSTEAD}") from missing
        return await _started(MongoContainer())


async def _started(server: Database) -> Database:
    """Running, or nothing left of it."""
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


class TemporaryMongo(EmbeddedMongo):
    """The embedded MongoDB with data that lasts as long as the tests."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="tokenwire-mongodb-"))
        super().__init__(self._home)

    async def step_down(self) -> None:
        await _step_down(self.url)

    async def close(self) -> None:
        if self.running:
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)


class ExternalDatabase:
    """Somebody else's MongoDB: databases with fresh names are made in it, and it is never disturbed."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def refuse_if_unusable(self) -> None:
        """Raises CannotProvide when it does not answer, or is neither a replica set nor a sharded cluster."""
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(self.url, serverSelectionTimeoutMS=5_000)
        try:
            hello = await client.admin.command("hello")
        except PyMongoError as fault:
            reason = str(fault).partition(" (configured")[0]
            raise CannotProvide(f"the MongoDB of TOKENWIRE_TEST_MONGODB_URL does not answer: {reason}") from fault
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

    async def close(self) -> None:
        """It was never ours."""

    def _refusal(self, deed: str) -> AssertionError:
        return AssertionError(
            f"this test has to {deed} MongoDB, and TOKENWIRE_TEST_MONGODB_URL names one that is not ours to disturb: "
            "unset it for the tests that break things"
        )


class MongoContainer:
    """`mongo:8` in a container of its own, on a fixed port so that it comes back where it was."""

    def __init__(self) -> None:
        self._port = free_port()
        command = ("--replSet", replica_set.NAME, "--wiredTigerCacheSizeGB", "0.25")
        self._container = containers.run("mongo:8", published={27017: self._port}, command=command)

    @property
    def url(self) -> str:
        # The set knows its member by the port inside, so clients must not follow it there.
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

    async def close(self) -> None:
        self._container.remove(force=True, v=True)
