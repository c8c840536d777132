"""Each service's MongoDB user may do what its service does, and nothing else."""

import asyncio
import io
import shutil
from collections.abc import Callable, Iterator, Mapping

import pytest
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from deploy.mongodb_roles import EVERY, ROLES
from deploy.prepare_mongodb import prepare
from libs.encryption import KEY_BYTES, KeyRing
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.backup import BackupFailed, back_up, restore
from libs.store.mongo import Mongo
from libs.store.outbox_collection import announce_nothing
from libs.store.store import Store
from tests.deployment.guarded import Document, GuardedMongo
from tests.deployment.wiring import SERVICES
from tests.eventually import eventually

DATABASE = "tokenwire"
PASSWORDS = {user: f"password-of-{user}" for user in ("root", *ROLES)}
UNAUTHORIZED = 13
EVERYBODY = set(SERVICES)
BACKUP = {"backup", "restore"}
MAY: Mapping[tuple[str, str], set[str]] = {
    ("find", "clients"): EVERYBODY - {"notifier"} | {"upkeep"},
    ("find", "resource_owners"): EVERYBODY - {"notifier", "authorization"} | {"upkeep"},
    ("find", "operators"): EVERYBODY - {"token"} | {"upkeep"},
    ("find", "grants"): EVERYBODY,
    ("find", "deliveries"): {"notifier", "management"},
    ("find", "audit_log"): {"management", "upkeep"},
    ("find", "events"): {"management"},
    ("insert", "grants"): {"authorization", "token"},
    ("update", "grants"): {"authorization", "token", "revocation", "notifier"},
    ("insert", "clients"): {"management"},
    ("update", "clients"): {"management", "revocation", "upkeep"},
    ("update", "apis"): {"management", "upkeep"},
    ("update", "policies"): {"management"},
    ("update", "resource_owners"): {"management"},
    ("update", "operators"): {"management"},
    ("update", "deliveries"): {"notifier"},
    ("update", "counters"): {"gateway"},
    ("insert", "audit_log"): {"management"},
    ("update", "audit_log"): set(),
    ("remove", "audit_log"): set(),
    ("update", "events"): set(),
    ("remove", "grants"): set(),
}
"""Who may do what matters most, whatever ROLES says."""

ACTIONS: Mapping[str, Callable[[Collection[Document]], object]] = {
    "find": lambda collection: collection.find_one({"_id": "nothing"}),
    "insert": lambda collection: collection.insert_one({"_id": "inserted"}),
    "update": lambda collection: collection.update_one({"_id": "nothing"}, {"$set": {"x": 1}}),
    "remove": lambda collection: collection.delete_one({"_id": "nothing"}),
    "createIndex": lambda collection: collection.create_index("x"),
    "dropIndex": lambda collection: collection.drop_index("x_1"),
    "listIndexes": lambda collection: collection.index_information(),
    "dropCollection": lambda collection: collection.drop(),
    "collMod": lambda collection: collection.database.command("collMod", collection.name),
    "createCollection": lambda collection: collection.database.create_collection(collection.name, check_exists=False),
}


def collections() -> list[str]:
    """Every collection of the store, and one that is none of its."""
    mongo = Mongo("mongodb://127.0.0.1/", DATABASE)
    Store.over(mongo, KeyRing({0: bytes(KEY_BYTES)}, 0), announce_nothing)
    return sorted({name for name, _, _ in mongo._wanted} | {"leases", "checkpoints", "usage", "elsewhere"})


@pytest.fixture(scope="module")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedMongo]:
    home = tmp_path_factory.mktemp("guarded")
    server = GuardedMongo(home)
    server.start()
    prepare(server.address, [server.address], DATABASE, root_password=PASSWORDS["root"], passwords=PASSWORDS, within=60)
    yield server
    server.stop()
    shutil.rmtree(home)


def allows(user: str, action: str, collection: str) -> bool:
    """Whether the role allows this. MongoDB lets whoever may insert into a collection create it."""
    action = "insert" if action == "createCollection" else action
    allowed = ROLES[user].get(collection, ROLES[user].get(EVERY, ""))
    return action in allowed.split() or (action == "listIndexes")


@pytest.mark.parametrize("user", ROLES)
def test_a_user_is_refused_what_is_not_its_own(mongod: GuardedMongo, user: str) -> None:
    """The server refuses every action on every collection that the role does not list, and allows what it lists."""
    surprises = []
    with mongod.client(user, PASSWORDS[user], DATABASE) as client:
        for name in collections():
            for action, attempt in ACTIONS.items():
                try:
                    attempt(client[DATABASE][name])
                    allowed = True
                except OperationFailure as fault:  # with another code: it was allowed, and did nothing
                    allowed = fault.code != UNAUTHORIZED
                if allowed is not allows(user, action, name):
                    surprises.append((action, name, "allowed" if allowed else "refused"))
    assert surprises == []
    assert any("createIndexes" in refusal for refusal in mongod.refusals())


@pytest.mark.parametrize("user", ROLES)
def test_a_user_has_power_over_nothing_else(mongod: GuardedMongo, user: str) -> None:
    """No user reads other databases, users or the oplog, creates users or roles, or stops the server."""
    with mongod.client(user, PASSWORDS[user], DATABASE) as client:
        for forbidden in (
            lambda: client["another"]["grants"].find_one(),
            lambda: client["admin"]["system.users"].find_one(),
            lambda: client["local"]["oplog.rs"].find_one(),
            lambda: client["another" if user in BACKUP else DATABASE].list_collection_names(),
            lambda: client[DATABASE].command("createUser", "me", pwd="me", roles=[]),
            lambda: client[DATABASE].command("grantRolesToUser", user, roles=["management"]),
            lambda: client[DATABASE].command("updateRole", user, privileges=[], roles=["readWrite"]),
            lambda: client[DATABASE].command("profile", 2),
            lambda: client[DATABASE].command("dropDatabase"),
            lambda: client.admin.command("shutdown"),
        ):
            with pytest.raises(OperationFailure) as refusal:
                forbidden()
            assert refusal.value.code == UNAUTHORIZED


@pytest.mark.parametrize(("action", "collection"), MAY, ids=lambda part: part)
def test_a_role_is_not_widened_unnoticed(action: str, collection: str) -> None:
    """Who reads secrets and who writes what is written down twice, so that widening a role is a decision."""
    assert {user for user in ROLES if allows(user, action, collection)} - BACKUP == MAY[action, collection]


def test_only_backups_have_a_right_on_every_collection() -> None:
    """A backup reads, its restoration also inserts, and nothing else has a right on collections not named."""
    everywhere = {user: set(role[EVERY].split()) for user, role in ROLES.items() if EVERY in role}
    assert everywhere == {
        "backup": {"find", "listCollections"},
        "restore": {"find", "listCollections", "insert"},
    }


def test_the_backup_users_may_do_what_their_commands_do(mongod: GuardedMongo) -> None:
    """A backup by one and its restoration by the other, in a database of its own, whose copy is the same."""
    with mongod.client("root", PASSWORDS["root"]) as root:
        prepare(mongod.address, [mongod.address], "copied", root_password=PASSWORDS["root"], passwords=PASSWORDS)
        root[DATABASE]["leases"].insert_one({"_id": "of-the-backup"})

        def url(user: str, database: str) -> str:
            return f"mongodb://{user}:{PASSWORDS[user]}@{mongod.address}/?replicaSet=rs0&authSource={database}"

        archive = io.BytesIO()
        made = back_up(url("backup", DATABASE), DATABASE, archive, "of-the-tests")
        archive.seek(0)
        assert restore(url("restore", "copied"), "copied", archive) == made
        assert root["copied"]["leases"].find_one({"_id": "of-the-backup"})
        with pytest.raises(BackupFailed, match="this MongoDB user may not do what is needed"):
            back_up(url("gateway", DATABASE), DATABASE, io.BytesIO(), "of-the-tests")


def test_every_service_has_a_user() -> None:
    """Each service and each command has a user, and nobody else; every collection named there exists."""
    assert set(ROLES) == {*SERVICES, "upkeep", *BACKUP}
    assert {name for role in ROLES.values() for name in role} - {EVERY} == set(collections()) - {"elsewhere"}


async def test_a_service_waits_for_indexes_that_it_may_not_create(mongod: GuardedMongo) -> None:
    """While an index is missing, the service is not ready and says why; it goes on when the index is there."""
    with mongod.client("root", PASSWORDS["root"]) as root:
        root[DATABASE]["deliveries"].drop_index("due")
    mongo = Mongo(
        f"mongodb://notifier:{PASSWORDS['notifier']}@{mongod.address}/?replicaSet=rs0&authSource={DATABASE}", DATABASE
    )
    Store.over(mongo, KeyRing({0: bytes(KEY_BYTES)}, 0), announce_nothing)
    await mongo.open()
    try:
        await eventually(lambda: _waits(mongo))
        await asyncio.to_thread(
            prepare,
            mongod.address,
            [mongod.address],
            DATABASE,
            root_password=PASSWORDS["root"],
            passwords=PASSWORDS,
        )
        async with asyncio.timeout(30):
            await mongo.prepared()
        await mongo.ping()
    finally:
        await mongo.close()


async def _waits(mongo: Mongo) -> bool:
    with pytest.raises(TemporarilyUnavailable, match=r"deploy\.prepare_mongodb"):
        await mongo.ping()
    return True
