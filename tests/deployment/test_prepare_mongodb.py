"""A real mongod that asks for authentication, taken from empty to what the services need."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from deploy.prepare_mongodb import CannotPrepare, prepare
from tests.deployment.guarded import GuardedMongo
from tests.ports import free_port

ROOT, PASSWORD = "root-password", "service-password"


class Empty(GuardedMongo):
    """An empty server, and how it is prepared and looked into."""

    def client(self, user: str | None = None, password: str = "") -> MongoClient[dict[str, object]]:
        credentials = {} if user is None else {"username": user, "password": password, "authSource": "admin"}
        return MongoClient(f"mongodb://{self.address}/?replicaSet=rs0", serverSelectionTimeoutMS=20_000, **credentials)  # type: ignore[arg-type]

    def prepare(self, root: str = ROOT, password: str = PASSWORD) -> None:
        prepare(self.address, self.address, "tokenwire", root_password=root, password=password, within=30)


@pytest.fixture
def mongod(tmp_path: Path) -> Iterator[Empty]:
    server = Empty(tmp_path)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(tmp_path / "data")


async def test_an_empty_server_becomes_what_the_services_need(mongod: Empty) -> None:
    """A primary; a user who reads and writes the services' database and no other; strangers get nothing. Again, it
    changes nothing, but for the service's password where that was changed; and a restart keeps it all.
    """
    await asyncio.to_thread(mongod.prepare)
    await asyncio.to_thread(mongod.prepare)
    await asyncio.to_thread(_check_rights, mongod, PASSWORD)

    await asyncio.to_thread(mongod.prepare, ROOT, "another-password")
    await asyncio.to_thread(_check_rights, mongod, "another-password")

    mongod.stop()
    mongod.start()
    await asyncio.to_thread(mongod.prepare, ROOT, "another-password")
    await asyncio.to_thread(_check_rights, mongod, "another-password")

    with pytest.raises(CannotPrepare, match="other secrets"):
        await asyncio.to_thread(mongod.prepare, "not-the-root-password")


def _check_rights(mongod: Empty, password: str) -> None:
    with mongod.client("tokenwire", password) as client:
        grants = client["tokenwire"]["grants"]
        grants.create_index("client_id")
        grants.insert_one({"client_id": "c"})
        assert grants.find_one({"client_id": "c"})
        for forbidden in (
            lambda: client["elsewhere"]["x"].insert_one({}),
            lambda: client["admin"]["system.users"].find_one(),
            lambda: client["local"]["oplog.rs"].find_one(),
            lambda: client.admin.command("createUser", "me", pwd="me", roles=["root"]),
        ):
            with pytest.raises(OperationFailure):
                forbidden()
    with mongod.client() as nobody, pytest.raises(OperationFailure):
        nobody["tokenwire"]["grants"].find_one()
    with mongod.client("tokenwire", "wrong") as stranger, pytest.raises(OperationFailure):
        stranger["tokenwire"]["grants"].find_one()


async def test_a_half_done_preparation_is_finished(mongod: Empty) -> None:
    """The set was made and the process died before the first user: the next run goes on from there."""
    await asyncio.to_thread(_only_initiate, mongod)
    await asyncio.to_thread(mongod.prepare)
    await asyncio.to_thread(_check_rights, mongod, PASSWORD)


def _only_initiate(mongod: Empty) -> None:
    address = f"mongodb://{mongod.address}/"
    with MongoClient[dict[str, object]](address, directConnection=True, serverSelectionTimeoutMS=20_000) as client:
        member = {"_id": 0, "host": mongod.address}
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})


def test_a_server_that_is_away_is_one_line() -> None:
    """Within the time that was given."""
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(CannotPrepare, match="MongoDB does not answer") as refusal:
        prepare(address, address, "tokenwire", root_password=ROOT, password=PASSWORD, within=0.1)
    assert "\n" not in str(refusal.value)
