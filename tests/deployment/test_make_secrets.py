"""`make secrets`: private to its owner, created once, and accepted by servers and services."""

import base64
import hashlib
import json
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy import make_secrets
from deploy.mongodb_roles import ROLES
from libs.encryption import KeyRing, public_key_of


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def test_only_the_owner_can_read_secrets(tmp_path: Path) -> None:
    """Only the owner can enter the directory. The files in it are readable, which the containers' users need."""
    directory = tmp_path / "made" / ".secrets"
    make_secrets.make(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert modes(directory) == {0o444}


def test_an_open_directory_is_closed(tmp_path: Path) -> None:
    """An existing directory loses permissions for others."""
    tmp_path.chmod(0o755)
    make_secrets.make(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_existing_secrets_are_kept(tmp_path: Path) -> None:
    """A second run changes no secret, creates missing ones, and uses those put there by hand."""
    (tmp_path / "notifier_private_keys").write_text(f"{base64.b64encode(bytes(range(32))).decode()}\n")
    first = make_secrets.make(tmp_path)
    assert "notifier_private_keys" not in first
    public = base64.b64encode(public_key_of(bytes(range(32)))).decode()
    assert (tmp_path / "notifier_public_key").read_text().strip() == public
    before = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != make_secrets.DEFINITIONS}
    (tmp_path / "bootstrap_operator_key").unlink()
    assert make_secrets.make(tmp_path) == ["bootstrap_operator_key"]
    after = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != make_secrets.DEFINITIONS}
    assert {name for name in before if before[name] != after[name]} == {"bootstrap_operator_key"}
    assert modes(tmp_path) <= {0o444, 0o644}


def test_definitions_keep_their_file(tmp_path: Path) -> None:
    """The definitions are rewritten in place, because a running container has the file itself mounted."""
    make_secrets.make(tmp_path)
    definitions = tmp_path / make_secrets.DEFINITIONS
    before = definitions.stat().st_ino
    make_secrets.make(tmp_path)
    assert definitions.stat().st_ino == before


def test_definitions_know_the_passwords_by_their_hashes(tmp_path: Path) -> None:
    """Each user's hash is that of the password in its URL, with four bytes of salt, as RabbitMQ checks it."""
    make_secrets.make(tmp_path)
    definitions = json.loads((tmp_path / make_secrets.DEFINITIONS).read_text())
    for user in definitions["users"]:
        url = urlsplit((tmp_path / f"amqp_url_{user['name']}").read_text().strip())
        assert url.username == user["name"]
        assert user["hashing_algorithm"] == "rabbit_password_hashing_sha256"
        raw = base64.b64decode(user["password_hash"])
        assert raw[4:] == hashlib.sha256(raw[:4] + (url.password or "").encode()).digest()
    salts = {base64.b64decode(user["password_hash"])[:4] for user in definitions["users"]}
    assert len(salts) == len(definitions["users"])


def test_no_secret_is_made_twice(tmp_path: Path) -> None:
    """All secrets differ, between directories and within one."""
    make_secrets.make(tmp_path / "a")
    make_secrets.make(tmp_path / "b")
    values = [path.read_text() for path in tmp_path.glob("[ab]/*")]
    assert len(set(values)) == len(values)
    KeyRing.parse((tmp_path / "a" / "keys").read_text().strip())


def test_the_command_says_names_and_no_values(tmp_path: Path) -> None:
    """New files are listed by name, never by content; a second run prints nothing; a bad directory is one line."""
    command = [sys.executable, "-m", "deploy.make_secrets", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "amqp_url_token" in done.stdout
    assert not any(path.read_text().strip() in done.stdout for path in (tmp_path / "s").iterdir())
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
    (tmp_path / "file").write_text("")
    refused = subprocess.run([*command[:-1], str(tmp_path / "file")], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1


def test_the_cluster_has_the_same_users_at_every_node(tmp_path: Path) -> None:
    """Each URL has a twin that names all nodes, and follows when the password is changed by hand."""
    make_secrets.make(tmp_path)
    (tmp_path / "amqp_url_token").chmod(0o600)
    (tmp_path / "amqp_url_token").write_text("amqp://token:changed@rabbitmq:5672/\n")
    make_secrets.make(tmp_path)
    nodes = (tmp_path / "cluster_amqp_url_token").read_text().strip().split(",")
    assert nodes == [f"amqp://token:changed@{node}:5672/" for node in ("rabbitmq", "rabbitmq2", "rabbitmq3")]
    for alone in tmp_path.glob("mongodb_url*"):
        url = alone.read_text().strip()
        members = "@mongodb:27017,mongodb2:27017,mongodb3:27017/"
        assert (tmp_path / f"cluster_{alone.name}").read_text().strip() == url.replace("@mongodb:27017/", members)
        assert members in (tmp_path / f"cluster_{alone.name}").read_text()


def test_the_url_of_a_server_elsewhere_stays() -> None:
    """Somebody's own broker or database is used as given, also with compose.cluster.yaml."""
    for url in ("amqps://token:p@mq.example.test:5671/", "mongodb+srv://u:p@db.example.test/"):
        assert make_secrets.with_every_node(url) == url


def test_a_directory_of_an_earlier_version_gets_the_new_secrets(tmp_path: Path) -> None:
    """Each service gets a MongoDB user of its own; the files of the user that all had are kept, and listed."""
    make_secrets.make(tmp_path)
    for user in ROLES:
        (tmp_path / f"mongodb_url_{user}").unlink()
    (tmp_path / "mongodb_password").write_text("the-former-password\n")
    (tmp_path / "mongodb_url").write_text("mongodb://tokenwire:the-former-password@mongodb:27017/?replicaSet=rs0\n")
    command = [sys.executable, "-m", "deploy.make_secrets", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    made, former = done.stdout.splitlines()
    assert {f"mongodb_url_{user}" for user in ROLES} == set(made.partition(": ")[2].split(", "))
    assert former.endswith("can be deleted: mongodb_url, mongodb_password")
    for user in ROLES:
        assert urlsplit((tmp_path / f"mongodb_url_{user}").read_text()).username == user
    assert "the-former-password" in (tmp_path / "mongodb_url").read_text()


@pytest.mark.parametrize("salt", [b"\x00\x01\x02\x03", b"salt"])
def test_a_hash_is_salt_and_digest(salt: bytes) -> None:
    """RabbitMQ's format: base64 of the salt followed by SHA-256 of salt and password."""
    raw = base64.b64decode(make_secrets.password_hash("pa$$", salt))
    assert raw == salt + hashlib.sha256(salt + b"pa$$").digest()
