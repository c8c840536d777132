"""A real, empty mongod with authentication, prepared for the services."""

import asyncio
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.write_concern import WriteConcern

from deploy import prepare_mongodb
from deploy.mongodb_roles import ROLES
from deploy.prepare_mongodb import CannotPrepare, passwords_in, prepare
from tests.deployment import stack
from tests.deployment.guarded import Document, GuardedMongo
from tests.ports import free_port

DATABASE = "tokenwire"
ROOT = "root-password"
PASSWORDS = {user: f"password-of-{user}" for user in ROLES}


class Empty(GuardedMongo):
    """An empty server, with helpers to prepare and inspect it."""

    def prepare(self, root: str = ROOT, others: Sequence["Empty"] = (), **passwords: str) -> Collection[str]:
        members = [self.address, *(other.address for other in others)]
        given = PASSWORDS | passwords
        return prepare(self.address, members, DATABASE, root_password=root, passwords=given, within=60)

    def root(self) -> MongoClient[Document]:
        return self.client("root", ROOT)

    def users(self) -> set[str]:
        """All users but root, by database and name."""
        with self.root() as root:
            found = root.admin.command("usersInfo", {"forAllDBs": True})["users"]
        return {user["_id"] for user in found} - {"admin.root"}

    def roles(self) -> set[str]:
        """The names of the roles in the database."""
        with self.root() as root:
            return {role["role"] for role in root[DATABASE].command("rolesInfo", 1)["roles"]}


@contextmanager
def running(home: Path) -> Iterator[Empty]:
    """An empty server whose data is gone afterwards."""
    home.mkdir(exist_ok=True)
    server = Empty(home)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(home / "data")


@pytest.fixture
def mongod(tmp_path: Path) -> Iterator[Empty]:
    with running(tmp_path) as server:
        yield server


async def test_an_empty_server_becomes_what_the_services_need(mongod: Empty) -> None:
    """Afterwards it is a primary, each service's user can use its collections, and anonymous access is refused.

    A second run changes only a changed password, and everything survives a restart.
    """
    await asyncio.to_thread(mongod.prepare)
    await asyncio.to_thread(mongod.prepare)
    await asyncio.to_thread(_check_rights, mongod, PASSWORDS["token"])

    await asyncio.to_thread(mongod.prepare, token="another-password")
    await asyncio.to_thread(_check_rights, mongod, "another-password")

    mongod.stop()
    mongod.start()
    await asyncio.to_thread(mongod.prepare, token="another-password")
    await asyncio.to_thread(_check_rights, mongod, "another-password")

    with pytest.raises(CannotPrepare, match="other secrets"):
        await asyncio.to_thread(mongod.prepare, "not-the-root-password")


def _check_rights(mongod: Empty, password: str) -> None:
    with mongod.client("token", password, DATABASE) as client:
        grants = client[DATABASE]["grants"]
        grants.insert_one({"client_id": "c"})
        assert grants.find_one({"client_id": "c"})
        assert "live" in grants.index_information()
        for forbidden in (
            lambda: client["elsewhere"]["x"].insert_one({}),
            lambda: client["admin"]["system.users"].find_one(),
            lambda: client["local"]["oplog.rs"].find_one(),
            lambda: client.admin.command("createUser", "me", pwd="me", roles=["root"]),
        ):
            with pytest.raises(OperationFailure):
                forbidden()
    with mongod.client() as nobody, pytest.raises(OperationFailure):
        nobody[DATABASE]["grants"].find_one()
    with mongod.client("token", "wrong", DATABASE) as outsider, pytest.raises(OperationFailure):
        outsider[DATABASE]["grants"].find_one()


async def test_an_installation_of_an_earlier_version_is_upgraded(
    mongod: Empty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roles get the rights of this version, and missing users are made. Users of earlier versions are removed, unless
    they are connected: those of running services go with the next run. Users that an administrator made stay.
    """
    earlier = {"token": {"grants": "find"}, "retired": {"grants": "find"}}
    with monkeypatch.context() as patch:
        patch.setattr(prepare_mongodb, "ROLES", earlier)
        patch.setattr("deploy.mongodb_roles.ROLES", earlier)
        await asyncio.to_thread(mongod.prepare, retired="retired-password")
    await asyncio.to_thread(_make_older_users, mongod)
    ours = {f"{DATABASE}.{user}" for user in ROLES}

    with mongod.client("tokenwire", "former-password") as former:
        former[DATABASE]["grants"].find_one()
        assert await asyncio.to_thread(mongod.prepare) == ["tokenwire"]
        former[DATABASE]["grants"].find_one()
    assert mongod.users() == {*ours, f"{DATABASE}.backup", "admin.tokenwire"}
    assert mongod.roles() == set(ROLES)
    await asyncio.to_thread(_check_rights, mongod, PASSWORDS["token"])

    assert await asyncio.to_thread(mongod.prepare) == []
    assert mongod.users() == {*ours, f"{DATABASE}.backup"}


def _make_older_users(mongod: Empty) -> None:
    with mongod.root() as root:
        roles = [{"role": "readWrite", "db": DATABASE}]
        root.admin.command("createUser", "tokenwire", pwd="former-password", roles=roles)
        root[DATABASE].command("createUser", "backup", pwd="backup-password", roles=["read"])


async def test_an_interrupted_preparation_is_finished(mongod: Empty) -> None:
    """If an earlier run died after it created the replica set, the next one continues from there."""
    await asyncio.to_thread(_only_initiate, mongod)
    await asyncio.to_thread(mongod.prepare)
    await asyncio.to_thread(_check_rights, mongod, PASSWORDS["token"])


def _only_initiate(mongod: Empty) -> None:
    address = f"mongodb://{mongod.address}/"
    with MongoClient[Document](address, directConnection=True, serverSelectionTimeoutMS=20_000) as client:
        member = {"_id": 0, "host": mongod.address}
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})


async def test_a_set_of_one_grows_to_three(mongod: Empty, tmp_path: Path) -> None:
    """New members have a vote and the data. A member that comes back empty joins again, and makes no set of its own."""
    with running(tmp_path / "second") as second, running(tmp_path / "third") as third:
        await asyncio.to_thread(mongod.prepare)
        await asyncio.to_thread(_check_rights, mongod, PASSWORDS["token"])
        await asyncio.to_thread(mongod.prepare, others=(second, third))
        await asyncio.to_thread(_check_members, mongod, {mongod.address, second.address, third.address})

        mongod.stop()
        shutil.rmtree(tmp_path / "data")
        (tmp_path / "data").mkdir()
        mongod.start()
        await asyncio.to_thread(mongod.prepare, others=(second, third))
        await asyncio.to_thread(_check_members, mongod, {mongod.address, second.address, third.address})


def _check_members(mongod: Empty, members: set[str]) -> None:
    with mongod.client("root", ROOT) as root:
        config = root.admin.command("replSetGetConfig")["config"]
        assert {member["host"] for member in config["members"] if member["votes"] and member["priority"]} == members
        every = root["tokenwire"]["grants"].with_options(write_concern=WriteConcern(len(members), wtimeout=60_000))
        every.insert_one({"client_id": "after"})
        assert every.count_documents({"client_id": "c"}) == 1


def test_a_server_that_is_away_is_one_line() -> None:
    """If the server is down, one line says so within the time limit."""
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(CannotPrepare, match="MongoDB does not respond") as refusal:
        prepare(address, [address], DATABASE, root_password=ROOT, passwords=PASSWORDS, within=0.1)
    assert "\n" not in str(refusal.value)


def test_a_password_is_that_of_the_services_own_url(tmp_path: Path) -> None:
    """Passwords come from the URLs that the services get. A URL of another user, or without a password, is refused."""
    for user in ROLES:
        (tmp_path / f"mongodb_url_{user}").write_text(f"mongodb://{user}:p%40ss-{user}@mongodb/?replicaSet=rs0\n")
    assert passwords_in(tmp_path) == {user: f"p@ss-{user}" for user in ROLES}
    for wrong in ("mongodb://tokenwire:secret-word@mongodb/", "mongodb://gateway@mongodb/"):
        (tmp_path / "mongodb_url_gateway").write_text(wrong)
        with pytest.raises(CannotPrepare, match=r"mongodb_url_gateway: a URL mongodb://gateway") as refusal:
            passwords_in(tmp_path)
        assert "secret-word" not in str(refusal.value)


async def test_a_set_that_exists_gets_users_and_indexes_from_an_administrator(mongod: Empty, tmp_path: Path) -> None:
    """With the rights that docs/kubernetes.md names, an administrator other than root prepares it, as often as wanted.

    The members of the set stay as they are.
    """
    await asyncio.to_thread(mongod.prepare)
    with mongod.root() as root:
        for user in ROLES:
            root[DATABASE].command("dropUser", user)
        roles: list[object] = ["userAdminAnyDatabase", "clusterMonitor", {"role": "readWrite", "db": DATABASE}]
        root.admin.command("createUser", "admin", pwd="admin-password", roles=roles)
        root.drop_database(f"{DATABASE}")
    for user, password in PASSWORDS.items():
        (tmp_path / f"mongodb_url_{user}").write_text(f"mongodb://{user}:{password}@elsewhere/?tls=true\n")
    url = f"mongodb://admin:admin-password@{mongod.address}/?replicaSet=rs0&authSource=admin\n"
    (tmp_path / "mongodb_admin_url").write_text(url)
    command = [sys.executable, "-m", "deploy.prepare_mongodb", "--existing", "--database", DATABASE]
    for _ in range(2):
        done = await asyncio.create_subprocess_exec(
            *command, "--secrets", str(tmp_path), cwd=stack.ROOT, stderr=asyncio.subprocess.PIPE
        )
        _, complaint = await done.communicate()
        assert (done.returncode, complaint) == (0, b"")
    await asyncio.to_thread(_check_rights, mongod, PASSWORDS["token"])
