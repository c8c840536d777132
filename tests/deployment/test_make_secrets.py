"""What `make secrets` makes: for its owner alone, once, and such that the servers and services accept it."""

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
from libs.sealing import KeyRing


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def test_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Nobody else may enter the directory; in it the files can be read, as the containers' users must."""
    directory = tmp_path / "made" / ".secrets"
    make_secrets.make(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert modes(directory) == {0o444}


def test_an_open_directory_is_closed(tmp_path: Path) -> None:
    """A directory that was there with more rights loses them."""
    tmp_path.chmod(0o755)
    make_secrets.make(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_what_exists_is_kept(tmp_path: Path) -> None:
    """A second run changes no secret; one that is missing is made, and one that was put there is used."""
    (tmp_path / "mongodb_password").write_text("chosen-by-me\n")
    first = make_secrets.make(tmp_path)
    assert "mongodb_password" not in first
    assert "chosen-by-me" in (tmp_path / "mongodb_url").read_text()
    before = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != make_secrets.DEFINITIONS}
    (tmp_path / "bootstrap_operator_key").unlink()
    assert make_secrets.make(tmp_path) == ["bootstrap_operator_key"]
    after = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != make_secrets.DEFINITIONS}
    assert {name for name in before if before[name] != after[name]} == {"bootstrap_operator_key"}
    assert modes(tmp_path) <= {0o444, 0o644}


def test_definitions_keep_their_file(tmp_path: Path) -> None:
    """A running container has the file itself mounted: written anew, it must still be the same one."""
    make_secrets.make(tmp_path)
    definitions = tmp_path / make_secrets.DEFINITIONS
    before = definitions.stat().st_ino
    make_secrets.make(tmp_path)
    assert definitions.stat().st_ino == before


def test_definitions_know_the_passwords_by_their_hashes(tmp_path: Path) -> None:
    """Each user's hash is that of the password in its URL, under four bytes of salt, as RabbitMQ checks it."""
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
    """Two directories have nothing in common, and no two files of one do."""
    make_secrets.make(tmp_path / "a")
    make_secrets.make(tmp_path / "b")
    values = [path.read_text() for path in tmp_path.glob("[ab]/*")]
    assert len(set(values)) == len(values)
    KeyRing.parse((tmp_path / "a" / "keys").read_text().strip())


def test_the_command_says_names_and_no_values(tmp_path: Path) -> None:
    """What was made is listed once; a second run has nothing to say; a place that cannot be is one line."""
    command = [sys.executable, "-m", "deploy.make_secrets", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "amqp_url_token" in done.stdout
    assert not any(path.read_text().strip() in done.stdout for path in (tmp_path / "s").iterdir())
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
    (tmp_path / "file").write_text("")
    refused = subprocess.run([*command[:-1], str(tmp_path / "file")], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("salt", [b"\x00\x01\x02\x03", b"salt"])
def test_a_hash_is_salt_and_digest(salt: bytes) -> None:
    """The form is RabbitMQ's: base64 of the salt followed by SHA-256 of salt and password."""
    raw = base64.b64decode(make_secrets.password_hash("pa$$", salt))
    assert raw == salt + hashlib.sha256(salt + b"pa$$").digest()
