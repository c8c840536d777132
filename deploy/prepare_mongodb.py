"""Make an empty MongoDB what the services need: a replica set of one, an administrator, and a user for one database.

    python -m deploy.prepare_mongodb --member mongodb:27017 --database tokenwire

Whatever is there already stays, so it runs at every start of the stack. It has to run where MongoDB sees it on
localhost: without users, a server that asks for authentication lets only localhost make the first.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

ADMINISTRATOR = "root"
USER = "tokenwire"
REPLICA_SET = "rs0"
WITHIN = 120.0
"""Seconds for the server to answer and to become primary."""
_AUTHENTICATION_FAILED = 18
_ALREADY_INITIALIZED = 23
_NO_SUCH_USER = 11
_NOT_AUTHORIZED = 13

Client = MongoClient[dict[str, Any]]


class CannotPrepare(Exception):
    """The server cannot be brought to where it should be; the text is one line."""


def prepare(
    address: str, member: str, database: str, *, root_password: str, password: str, within: float = WITHIN
) -> None:
    """The server at `address` is the primary of the set `rs0`, and knows `root` and, for `database`, `tokenwire`.

    `member` is the address under which the set's clients reach it. Raises CannotPrepare.
    """
    deadline = time.monotonic() + within
    with _client(address) as nobody:
        _until_it_answers(nobody, deadline)
        if not _accepts(address, root_password):
            _initiate(nobody, member)
            _until_it_is_primary(nobody, deadline)
            _make_administrator(nobody, root_password)
    with _client(address, root_password) as root:
        _initiate(root, member)
        _until_it_is_primary(root, deadline)
        _make_user(root, database, password)


def _client(address: str, root_password: str | None = None) -> Client:
    credentials: dict[str, Any] = (
        {} if root_password is None else {"username": ADMINISTRATOR, "password": root_password, "authSource": "admin"}
    )
    return MongoClient(
        f"mongodb://{address}",
        directConnection=True,
        serverSelectionTimeoutMS=2000,
        socketTimeoutMS=10_000,
        **credentials,
    )


def _until_it_answers(client: Client, deadline: float) -> None:
    while True:
        try:
            client.admin.command("ping")
            return
        except ConnectionFailure as fault:
            if time.monotonic() > deadline:
                raise CannotPrepare(f"MongoDB does not answer: {_first_words(fault)}") from fault
            time.sleep(0.5)


def _accepts(address: str, root_password: str) -> bool:
    """Whether the administrator exists with this password."""
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


def _make_administrator(client: Client, password: str) -> None:
    try:
        client.admin.command("createUser", ADMINISTRATOR, pwd=password, roles=["root"])
    except OperationFailure as refusal:
        raise _other_password(refusal) from refusal


def _make_user(root: Client, database: str, password: str) -> None:
    """The services' user has this password and this one right, whatever it had before."""
    roles = [{"role": "readWrite", "db": database}]
    try:
        root.admin.command("updateUser", USER, pwd=password, roles=roles)
    except OperationFailure as refusal:
        if refusal.code != _NO_SUCH_USER:
            raise
        root.admin.command("createUser", USER, pwd=password, roles=roles)


def _other_password(refusal: OperationFailure) -> CannotPrepare:
    return CannotPrepare(
        f"MongoDB has users already, and {ADMINISTRATOR}'s password is not this one ({_first_words(refusal)}): "
        "the data was made with other secrets"
    )


def _first_words(fault: PyMongoError) -> str:
    return str(fault).split(", full error")[0].split(" (configured")[0]


def main() -> None:
    """Prepare, or end with one line that says why not."""
    parser = argparse.ArgumentParser(prog="python -m deploy.prepare_mongodb", description="Replica set and users.")
    parser.add_argument("--address", default="127.0.0.1:27017", help="the server; default: %(default)s")
    parser.add_argument("--member", required=True, help="host:port under which clients reach it")
    parser.add_argument("--database", required=True)
    parser.add_argument("--secrets", type=Path, default=Path("/run/secrets"), help="where the passwords are")
    options = parser.parse_args()
    try:
        prepare(
            options.address,
            options.member,
            options.database,
            root_password=(options.secrets / "mongodb_root_password").read_text().strip(),
            password=(options.secrets / "mongodb_password").read_text().strip(),
        )
    except CannotPrepare as reason:
        sys.exit(f"{parser.prog}: {reason}")
    except PyMongoError as fault:
        sys.exit(f"{parser.prog}: {_first_words(fault)}")
    except OSError as error:
        sys.exit(f"{parser.prog}: {error.filename}: {error.strerror}")


if __name__ == "__main__":
    main()
