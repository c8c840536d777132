"""Make what is secret in the stack of containers: passwords, keys, and the broker's definitions with password hashes.

    python -m deploy.make_secrets .secrets

A file that exists is never changed, so it may be run again at any time, and an own value may be put in place before.
Only the broker's definitions are written anew each time, from the template and the passwords that are there.

The directory is for its owner alone (0700). The files in it are readable to all (0444), because Docker mounts a file
with the owner and mode it has, and the services' user is another one; without the directory nobody gets at them.
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

TEMPLATE = Path(__file__).parent / "rabbitmq" / "definitions.json"
"""The broker's exchanges, queues, bindings, users and rights; the users without their passwords."""
DEFINITIONS = "rabbitmq_definitions.json"
MONGODB = "mongodb:27017"
RABBITMQ = "rabbitmq:5672"


def make(directory: Path) -> list[str]:
    """Every secret exists when this returns; the names of the files that were missing."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    made = [name for name, new in _values(directory).items() if _write_once(directory / name, new)]
    definitions = _definitions(directory)
    if not (directory / DEFINITIONS).exists():
        made.append(DEFINITIONS)
    _write(directory / DEFINITIONS, definitions)
    return made


def _values(directory: Path) -> dict[str, Callable[[], str]]:
    """How each file's content is made, in an order in which each may read those before it."""

    def value(name: str) -> str:
        return (directory / name).read_text().strip()

    def notifier_public_key() -> str:
        newest = value("notifier_private_keys").split(",")[0]
        return _base64(bytes(PrivateKey(base64.b64decode(newest)).public_key))

    values: dict[str, Callable[[], str]] = {
        "keys": lambda: f"1:{_base64(secrets.token_bytes(32))}",
        "notifier_private_keys": lambda: _base64(bytes(PrivateKey.generate())),
        "notifier_public_key": notifier_public_key,
        "bootstrap_operator_key": lambda: f"tw_ok_{secrets.token_urlsafe(32)}",
        "mongodb_keyfile": lambda: _base64(secrets.token_bytes(96)),
        "mongodb_root_password": lambda: secrets.token_urlsafe(32),
        "mongodb_password": lambda: secrets.token_urlsafe(32),
        "mongodb_url": lambda: (
            f"mongodb://tokenwire:{value('mongodb_password')}@{MONGODB}/?replicaSet=rs0&authSource=admin"
        ),
    }
    for user in _template()["users"]:
        values[f"amqp_url_{user['name']}"] = partial(_amqp_url, user["name"])
    return values


def _amqp_url(user: str) -> str:
    return f"amqp://{user}:{secrets.token_urlsafe(32)}@{RABBITMQ}/"


def _definitions(directory: Path) -> str:
    """The template, with the hash of each user's password."""
    definitions = _template()
    for user in definitions["users"]:
        url = (directory / f"amqp_url_{user['name']}").read_text().strip()
        user["password_hash"] = password_hash(urlsplit(url).password or "", os.urandom(4))
        user["hashing_algorithm"] = "rabbit_password_hashing_sha256"
    return json.dumps(definitions, indent=2)


def password_hash(password: str, salt: bytes) -> str:
    """As RabbitMQ keeps a password: base64 of four bytes of salt and the SHA-256 of the salt and the password."""
    return _base64(salt + hashlib.sha256(salt + password.encode()).digest())


def _template() -> Any:
    return json.loads(TEMPLATE.read_text())


def _write_once(path: Path, value: Callable[[], str]) -> bool:
    """True when the file was missing."""
    if path.exists():
        return False
    _write(path, value())
    return True


def _write(path: Path, text: str) -> None:
    """In place: a container has the file itself mounted, and a new file under the name would not reach it."""
    if path.exists():
        path.chmod(0o600)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{text}\n")
    path.chmod(0o444)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def main() -> None:
    """Make them, and say which were new; never what is in them."""
    parser = argparse.ArgumentParser(prog="python -m deploy.make_secrets", description="Make the stack's secrets.")
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    try:
        made = make(directory)
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    if made:
        sys.stdout.write(f"made in {directory}: {', '.join(made)}\n")


if __name__ == "__main__":
    main()
