"""Create the secrets of the container stack: passwords, keys, and the broker's definitions with password hashes.

    python -m deploy.make_secrets .secrets

An existing file is never changed, so you may run this again at any time, or put your own values there first. Only what
follows from other files is written again each time: the broker's definitions, from the template and the current
passwords, and `cluster_<name>`, the URL in `<name>` with every node of `compose.cluster.yaml`.

Only the owner can enter the directory (0700). Its files are readable to all (0444), because Docker mounts a file with
its owner and mode, and the services run as another user. The directory's mode keeps other users out.
"""

import argparse
import base64
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nacl.public import PrivateKey

from deploy.mongodb_roles import ROLES

TEMPLATE = Path(__file__).parent / "rabbitmq" / "definitions.json"
"""The broker's exchanges, queues, bindings, users and permissions; the users have no passwords here."""
DEFINITIONS = "rabbitmq_definitions.json"
MONGODB = "mongodb:27017"
DATABASE = "tokenwire"
FORMER = ("mongodb_url", "mongodb_password")
"""Files of earlier versions, in which all services had one MongoDB user."""
RABBITMQ = "rabbitmq:5672"
MONGODB_MEMBERS = (MONGODB, "mongodb2:27017", "mongodb3:27017")
RABBITMQ_NODES = (RABBITMQ, "rabbitmq2:5672", "rabbitmq3:5672")
CLUSTER = "cluster_"
"""Prefix of the files with URLs that name every node."""


def make(directory: Path) -> list[str]:
    """Create every missing secret; return the names of the files created."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    values = _values(directory)
    made = [name for name, new in values.items() if _write_once(directory / name, new)]
    derived = {
        f"{CLUSTER}{name}": with_every_node((directory / name).read_text().strip())
        for name in values
        if name.startswith(("amqp_url", "mongodb_url"))
    }
    for name, text in {**derived, DEFINITIONS: _definitions(directory)}.items():
        if not (directory / name).exists():
            made.append(name)
        _write(directory / name, text)
    return made


def with_every_node(url: str) -> str:
    """The URL with every member of the replica set, or one URL for each node of the broker.

    A URL that names another server stays as it is.
    """
    if url.startswith("mongodb"):
        return url.replace(f"@{MONGODB}/", f"@{','.join(MONGODB_MEMBERS)}/")
    if f"@{RABBITMQ}/" not in url:
        return url
    return ",".join(url.replace(f"@{RABBITMQ}/", f"@{node}/") for node in RABBITMQ_NODES)


def _values(directory: Path) -> dict[str, Callable[[], str]]:
    """How to make each file's content. A value may read the files before it."""

    def value(name: str) -> str:
        return (directory / name).read_text().strip()

    def notifier_public_key() -> str:
        newest = value("notifier_private_keys").split(",")[0]
        return _base64(bytes(PrivateKey(base64.b64decode(newest)).public_key))

    values: dict[str, Callable[[], str]] = {
        "keys": lambda: f"1:{_base64(secrets.token_bytes(32))}",
        "console_keys": lambda: f"1:{_base64(secrets.token_bytes(32))}",
        "notifier_private_keys": lambda: _base64(bytes(PrivateKey.generate())),
        "notifier_public_key": notifier_public_key,
        "bootstrap_operator_key": lambda: f"tw_ok_{secrets.token_urlsafe(32)}",
        "rabbitmq_cookie": lambda: secrets.token_urlsafe(32),
        "grafana_password": lambda: secrets.token_urlsafe(32),
        "mongodb_keyfile": lambda: _base64(secrets.token_bytes(96)),
        "mongodb_root_password": lambda: secrets.token_urlsafe(32),
    }
    for name in ROLES:
        values[f"mongodb_url_{name}"] = partial(_mongodb_url, name)
    for user in _template()["users"]:
        values[f"amqp_url_{user['name']}"] = partial(_amqp_url, user["name"])
    return values


def _mongodb_url(user: str) -> str:
    return f"mongodb://{user}:{secrets.token_urlsafe(32)}@{MONGODB}/?replicaSet=rs0&authSource={DATABASE}"


def _amqp_url(user: str) -> str:
    return f"amqp://{user}:{secrets.token_urlsafe(32)}@{RABBITMQ}/"


def _definitions(directory: Path) -> str:
    """The template with the password hash of each user."""
    definitions = _template()
    for user in definitions["users"]:
        url = (directory / f"amqp_url_{user['name']}").read_text().strip()
        user["password_hash"] = password_hash(urlsplit(url).password or "", os.urandom(4))
        user["hashing_algorithm"] = "rabbit_password_hashing_sha256"
    return json.dumps(definitions, indent=2)


def password_hash(password: str, salt: bytes) -> str:
    """A password hash in RabbitMQ's format: base64 of a 4-byte salt followed by SHA-256 of salt and password."""
    return _base64(salt + hashlib.sha256(salt + password.encode()).digest())


def _template() -> Any:
    return json.loads(TEMPLATE.read_text())


def _write_once(path: Path, value: Callable[[], str]) -> bool:
    """Returns True if the file was missing and has been written."""
    if path.exists():
        return False
    _write(path, value())
    return True


def _write(path: Path, text: str) -> None:
    """Write in place: containers mount the file itself, so a new file of the same name would not reach them."""
    if path.exists():
        path.chmod(0o600)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{text}\n")
    path.chmod(0o444)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def main() -> None:
    """Create the secrets. Print the names of new files, and of those that can be deleted; never their content."""
    parser = argparse.ArgumentParser(prog="python -m deploy.make_secrets", description="Make the stack's secrets.")
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    try:
        made = make(directory)
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    if made:
        sys.stdout.write(f"made in {directory}: {', '.join(made)}\n")
    if former := [name for name in FORMER if (directory / name).exists()]:
        sys.stdout.write(f"no longer used in {directory}, and can be deleted: {', '.join(former)}\n")


if __name__ == "__main__":
    main()
