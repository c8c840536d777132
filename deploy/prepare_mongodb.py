"""Prepare a MongoDB for the services: a replica set, an administrator, a user for each service, and the indexes.

    python -m deploy.prepare_mongodb --member mongodb:27017 --database tokenwire
    python -m deploy.prepare_mongodb --existing --database tokenwire

With several `--member` the set has all of them; one that is new gets its vote after it has copied the data.

The data stays, so this runs at every start of the stack, and upgrades what an earlier version has made. It must reach
MongoDB through localhost: while a server with authentication has no users, it lets only localhost create the first one.

With `--existing`, a replica set or sharded cluster that others run gets the users and indexes only, from anywhere.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote, urlsplit

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from deploy.mongodb_roles import ROLES, privileges
from libs.store.store import make_indexes

ADMINISTRATOR = "root"
FORMER_USER = "tokenwire"
"""The one user, in `admin`, that all services of earlier versions had."""
MADE_HERE = {"made_by": "deploy.prepare_mongodb"}
"""The custom data of our users; others in the database are never touched."""
REPLICA_SET = "rs0"
WITHIN = 120.0
"""Seconds for the server to respond and to become primary."""
_AUTHENTICATION_FAILED = 18
_ALREADY_INITIALIZED = 23
_NO_SUCH_USER = 11
_NOT_AUTHORIZED = 13
_NO_SUCH_ROLE = 31
_RECONFIGURING = frozenset({109, 308})
"""Server error codes: an earlier configuration is not committed yet."""
_HAS_DATA = frozenset({"PRIMARY", "SECONDARY"})

Document = dict[str, Any]
Client = MongoClient[Document]


class CannotPrepare(Exception):
    """The server cannot be prepared; the message is one line."""


def prepare(
    address: str,
    members: Sequence[str],
    database: str,
    *,
    root_password: str,
    passwords: Mapping[str, str],
    within: float = WITHIN,
) -> Collection[str]:
    """Make the server at `address` a member of the set `rs0`, with the users `root` and those of ROLES, and all indexes
    in `database`.

    `members` are the addresses at which clients reach the servers of the set, the one at `address` first. Members that
    the set has already stay. The users of ROLES belong to `database` and have these passwords. Users that earlier
    versions had are removed, except those that are connected at the moment, which are returned. Raises CannotPrepare.
    """
    deadline = time.monotonic() + within
    with _client(address) as unauthenticated:
        _until_it_answers(unauthenticated, deadline)
        if not _accepts(address, root_password):
            if any(_is_in_a_set(member, deadline) for member in members[1:]):
                _until_it_has_joined(address, root_password, deadline)
            else:
                _initiate(unauthenticated, members[0])
                _until_it_is_primary(unauthenticated, deadline)
                _make_administrator(unauthenticated, root_password)
    with _client(address, root_password) as root:
        _initiate(root, members[0])
    with _client(address, root_password, replicaSet=REPLICA_SET) as root:
        _until_there_is_a_primary(root, deadline)
        for member in members:
            _add(root, member, deadline)
        return _make_indexes_and_users(root, _url(address, root_password), database, passwords)


def prepare_existing(url: str, database: str, *, passwords: Mapping[str, str]) -> Collection[str]:
    """The same for a replica set or a sharded cluster that exists: only the users of ROLES and all indexes are made.

    The user of the URL must be allowed to make users, roles and indexes, and to list connections.
    """
    with MongoClient[Document](url, serverSelectionTimeoutMS=10_000, socketTimeoutMS=10_000) as administrator:
        return _make_indexes_and_users(administrator, url, database, passwords)


def _make_indexes_and_users(root: Client, url: str, database: str, passwords: Mapping[str, str]) -> Collection[str]:
    # First the indexes: a service that could log in earlier would only wait for them.
    asyncio.run(make_indexes(url, database))
    for user in ROLES:
        _make_role(root, database, user)
        _make_user(root, database, user, passwords[user])
    return _remove_former_users(root, database)


def _url(address: str, root_password: str) -> str:
    return f"mongodb://{ADMINISTRATOR}:{quote_plus(root_password)}@{address}/?replicaSet={REPLICA_SET}&authSource=admin"


def _client(address: str, root_password: str | None = None, **options: Any) -> Client:
    """A client of this server, or with `replicaSet` of the whole set."""
    credentials: dict[str, Any] = (
        {} if root_password is None else {"username": ADMINISTRATOR, "password": root_password, "authSource": "admin"}
    )
    return MongoClient(
        f"mongodb://{address}",
        directConnection=not options,
        serverSelectionTimeoutMS=2000,
        socketTimeoutMS=10_000,
        **credentials,
        **options,
    )


def _until_it_answers(client: Client, deadline: float) -> None:
    while True:
        try:
            client.admin.command("ping")
            return
        except ConnectionFailure as fault:
            if time.monotonic() > deadline:
                raise CannotPrepare(f"MongoDB does not respond: {_first_words(fault)}") from fault
            time.sleep(0.5)


def _accepts(address: str, root_password: str) -> bool:
    """Whether the administrator can log in with this password."""
    with _client(address, root_password) as root:
        try:
            root.admin.command("ping")
        except OperationFailure as refusal:
            if refusal.code != _AUTHENTICATION_FAILED:
                raise
            return False
        return True


def _initiate(client: Client, member: str) -> None:
    try:
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [{"_id": 0, "host": member}]})
    except OperationFailure as refusal:
        if refusal.code == _NOT_AUTHORIZED:
            raise _other_password(refusal) from refusal
        if refusal.code != _ALREADY_INITIALIZED:
            raise


def _until_it_is_primary(client: Client, deadline: float) -> None:
    while not client.admin.command("hello").get("isWritablePrimary"):
        if time.monotonic() > deadline:
            raise CannotPrepare("MongoDB did not become primary")
        time.sleep(0.1)


def _is_in_a_set(member: str, deadline: float) -> bool:
    """Whether the server belongs to a replica set already, so that no other one must be made."""
    with _client(member) as client:
        _until_it_answers(client, deadline)
        return "setName" in client.admin.command("hello")


def _until_it_has_joined(address: str, root_password: str, deadline: float) -> None:
    """An empty server gets the set's configuration and data, and with them the administrator, from the others."""
    while not _accepts(address, root_password):
        if time.monotonic() > deadline:
            raise CannotPrepare(f"{ADMINISTRATOR} cannot log in, and other members have data: made with other secrets?")
        time.sleep(0.5)


def _until_there_is_a_primary(root: Client, deadline: float) -> None:
    while True:
        try:
            root.admin.command("ping")
            return
        except ConnectionFailure as fault:
            if time.monotonic() > deadline:
                raise CannotPrepare(f"the replica set has no primary: {_first_words(fault)}") from fault


def _add(root: Client, member: str, deadline: float) -> None:
    """Make the server a voting member. While it copies the data it has no vote, so that no write waits for it."""
    _reconfigure(root, lambda members: _with_new(members, member), deadline)
    while _state(root, member) not in _HAS_DATA:
        if time.monotonic() > deadline:
            raise CannotPrepare(f"{member} is still copying the data; run this again later")
        time.sleep(0.2)
    _reconfigure(root, lambda members: _with_vote(members, member), deadline)


def _with_new(members: list[Document], host: str) -> list[Document]:
    if any(member["host"] == host for member in members):
        return members
    return [*members, {"_id": max(member["_id"] for member in members) + 1, "host": host, "votes": 0, "priority": 0}]


def _with_vote(members: list[Document], host: str) -> list[Document]:
    return [
        {**member, "votes": 1, "priority": 1} if member["host"] == host and not member["votes"] else member
        for member in members
    ]


def _reconfigure(root: Client, change: Callable[[list[Document]], list[Document]], deadline: float) -> None:
    """Change the members of the set, at most one at a time, as MongoDB requires."""
    while True:
        config = root.admin.command("replSetGetConfig")["config"]
        members = change(config["members"])
        if members == config["members"]:
            return
        try:
            root.admin.command("replSetReconfig", {**config, "version": config["version"] + 1, "members": members})
            return
        except OperationFailure as refusal:
            if refusal.code not in _RECONFIGURING or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _state(root: Client, host: str) -> str:
    members = root.admin.command("replSetGetStatus")["members"]
    return next((str(member["stateStr"]) for member in members if member["name"] == host), "")


def _make_administrator(client: Client, password: str) -> None:
    try:
        client.admin.command("createUser", ADMINISTRATOR, pwd=password, roles=["root"])
    except OperationFailure as refusal:
        raise _other_password(refusal) from refusal


def _make_role(root: Client, database: str, name: str) -> None:
    """Give the role exactly the privileges of ROLES."""
    allowed = privileges(name, database)
    try:
        root[database].command("updateRole", name, privileges=allowed, roles=[])
    except OperationFailure as refusal:
        if refusal.code != _NO_SUCH_ROLE:
            raise
        root[database].command("createRole", name, privileges=allowed, roles=[])


def _make_user(root: Client, database: str, name: str, password: str) -> None:
    """Give the user this password and the role of the same name only."""
    wanted: Document = {"pwd": password, "roles": [{"role": name, "db": database}], "customData": MADE_HERE}
    try:
        root[database].command("updateUser", name, **wanted)
    except OperationFailure as refusal:
        if refusal.code != _NO_SUCH_USER:
            raise
        root[database].command("createUser", name, **wanted)


def _remove_former_users(root: Client, database: str) -> Collection[str]:
    """Remove our users that are not in ROLES. Those that are connected stay, and are returned.

    During an upgrade the processes of the previous version use them until they are replaced.
    """
    ours = root[database].command("usersInfo", 1, filter={"customData": MADE_HERE})["users"]
    former = [(database, user["user"]) for user in ours if user["user"] not in ROLES]
    if root.admin.command("usersInfo", FORMER_USER)["users"]:
        former.append(("admin", FORMER_USER))
    connected = [user for user in former if _is_connected(root, *user)]
    for of_database, name in former:
        if (of_database, name) not in connected:
            _drop_role(root, database, name)
            root[of_database].command("dropUser", name)
    return [name for _, name in connected]


def _drop_role(root: Client, database: str, name: str) -> None:
    try:
        root[database].command("dropRole", name)
    except OperationFailure as refusal:
        if refusal.code != _NO_SUCH_ROLE:
            raise


def _is_connected(root: Client, database: str, name: str) -> bool:
    connections: list[Document] = [
        {"$currentOp": {"allUsers": True, "idleConnections": True}},
        {"$match": {"effectiveUsers": {"user": name, "db": database}}},
    ]
    return any(root.admin.aggregate(connections))


def _other_password(refusal: OperationFailure) -> CannotPrepare:
    return CannotPrepare(
        f"MongoDB has users already, and {ADMINISTRATOR}'s password is not this one ({_first_words(refusal)}): "
        "the data was made with other secrets"
    )


def _first_words(fault: PyMongoError) -> str:
    return str(fault).split(", full error")[0].split(" (configured")[0]


def passwords_in(secrets: Path) -> dict[str, str]:
    """The password of each user of ROLES, from the URL that its service gets. Raises CannotPrepare."""
    passwords = {}
    for user in ROLES:
        path = secrets / f"mongodb_url_{user}"
        url = urlsplit(path.read_text().strip())
        if unquote(url.username or "") != user or not url.password:
            raise CannotPrepare(f"{path}: a URL mongodb://{user}:<password>@… is expected")
        passwords[user] = unquote(url.password)
    return passwords


def main() -> None:
    """Prepare the server. If that fails, print one line that says why."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.prepare_mongodb", description="Make the replica set, users, roles and indexes."
    )
    parser.add_argument("--address", default="127.0.0.1:27017", help="the server; default: %(default)s")
    servers = parser.add_mutually_exclusive_group(required=True)
    servers.add_argument(
        "--member", action="append", help="host:port under which clients reach it; once for each member"
    )
    servers.add_argument(
        "--existing", action="store_true", help="only users and indexes, at the URL in the secret mongodb_admin_url"
    )
    parser.add_argument("--database", required=True)
    parser.add_argument("--secrets", type=Path, default=Path("/run/secrets"), help="where the passwords are")
    options = parser.parse_args()
    try:
        passwords = passwords_in(options.secrets)
        if options.existing:
            url = (options.secrets / "mongodb_admin_url").read_text().strip()
            kept = prepare_existing(url, options.database, passwords=passwords)
        else:
            root_password = (options.secrets / "mongodb_root_password").read_text().strip()
            kept = prepare(
                options.address, options.member, options.database, root_password=root_password, passwords=passwords
            )
    except CannotPrepare as reason:
        sys.exit(f"{parser.prog}: {reason}")
    except PyMongoError as fault:
        sys.exit(f"{parser.prog}: {_first_words(fault)}")
    except OSError as error:
        sys.exit(f"{parser.prog}: {error.filename}: {error.strerror}")
    for user in kept:
        sys.stdout.write(f"user {user} of an earlier version is connected; the next run removes it\n")


if __name__ == "__main__":
    main()
