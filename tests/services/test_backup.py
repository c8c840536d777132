"""`python -m services backup` and `restore` against a real MongoDB that others write to."""

import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bson
import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

ROOT = Path(__file__).parents[2]
FILLER = 200
"""Documents of 100 kB, so that copying them takes a while."""


def services(command: str, url: str, database: str, archive: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Run the command as typed, without our environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")}
    environment |= {"TOKENWIRE_MONGODB_URL": url, "TOKENWIRE_MONGODB_DATABASE": database}
    arguments = [sys.executable, "-m", "services", command]
    return subprocess.run(arguments, input=archive, capture_output=True, cwd=ROOT, env=environment, timeout=120)


@pytest.fixture
def server(mongodb_url: str) -> Iterator["MongoClient[dict[str, Any]]"]:
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        yield client


@pytest.fixture
def archive(server: "MongoClient[dict[str, Any]]", mongodb_url: str, database_name: str) -> bytes:
    server[database_name]["grants"].insert_many({"_id": number, "n": number} for number in range(1000))
    done = services("backup", mongodb_url, database_name)
    assert (done.returncode, done.stderr.startswith(b"backed up: 1000 documents of 1 collections")) == (0, True)
    return done.stdout


@contextmanager
def handing_over(grants: "Collection[dict[str, Any]]", deliveries: "Collection[dict[str, Any]]") -> Iterator[list[int]]:
    """Like the notifier: write a delivery, then note in the grant that it is there; again and again."""
    ending, done = threading.Event(), [0]

    def write() -> None:
        while not ending.is_set():
            deliveries.insert_one({"_id": done[0] + 1})
            done[0] += 1
            grants.update_one({"_id": "grant"}, {"$set": {"handed_over": done[0]}}, upsert=True)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield done
    finally:
        ending.set()
        writer.join()


def test_a_backup_is_the_state_of_one_moment(
    server: "MongoClient[dict[str, Any]]", mongodb_url: str, database_name: str
) -> None:
    """What one collection says of another is true in the backup too, although one is read long after the other.

    Restored, every document is what it was.
    """
    database, restored = server[database_name], server[f"{database_name}_r"]
    padding = os.urandom(100_000)
    database["filler"].insert_many(
        {"_id": number, "bytes": padding, "some": {"x": [1, None]}} for number in range(FILLER)
    )
    with handing_over(database["grants"], database["deliveries"]) as written:
        while written[0] < 50:
            time.sleep(0.01)
        before = written[0]
        done = services("backup", mongodb_url, database_name)
        after = written[0]
    assert done.returncode == 0, done.stderr
    assert after > before
    again = services("restore", mongodb_url, restored.name, done.stdout)
    assert again.returncode == 0, again.stderr
    assert again.stderr.partition(b":")[2] == done.stderr.partition(b":")[2]
    (grant,) = restored["grants"].find()
    numbers = [document["_id"] for document in restored["deliveries"].find().sort("_id", 1)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert before <= grant["handed_over"] <= len(numbers) <= grant["handed_over"] + 1
    assert list(restored["filler"].find().sort("_id", 1)) == list(database["filler"].find().sort("_id", 1))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        pytest.param(lambda archive: archive[:-100], "the archive is damaged or incomplete", id="cut"),
        pytest.param(
            lambda archive: archive[:300] + bytes(20) + archive[320:], "the archive is damaged", id="overwritten"
        ),
        pytest.param(lambda _: b"PK\x03\x04", "the archive is damaged or incomplete", id="no-gzip"),
        pytest.param(lambda _: gzip.compress(bson.encode({"a": 1})), "this is not a backup of Tokenwire", id="other"),
        pytest.param(lambda _: b"", "the archive is damaged or incomplete", id="nothing"),
        pytest.param(
            lambda archive: gzip.compress(gzip.decompress(archive)[:-20]), "damaged or incomplete", id="cut-and-packed"
        ),
    ],
)
def test_a_damaged_backup_is_one_line(
    archive: bytes, mongodb_url: str, database_name: str, damage: Any, complaint: str
) -> None:
    """It is never taken for a complete one."""
    done = services("restore", mongodb_url, f"{database_name}_r", damage(archive))
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
    assert complaint in done.stderr.decode()


def test_a_database_with_data_is_left_alone(
    server: "MongoClient[dict[str, Any]]", archive: bytes, mongodb_url: str, database_name: str
) -> None:
    """Nothing is mixed or overwritten; empty collections and indexes are no obstacle."""
    done = services("restore", mongodb_url, database_name, archive)
    assert (done.returncode, b"is not empty (grants)" in done.stderr) == (1, True)
    restored = server[f"{database_name}_r"]
    restored["grants"].create_index("n", unique=True)
    assert services("restore", mongodb_url, restored.name, archive).returncode == 0
    assert restored["grants"].count_documents({}) == 1000
    with pytest.raises(DuplicateKeyError):
        restored["grants"].insert_one({"n": 7})


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_without_mongodb_it_says_so_in_one_line(archive: bytes, mongodb_url: str, command: str) -> None:
    """A wrong address and a wrong URL end the command with a sentence and without a password."""
    for url in ("mongodb://user:hidden@127.0.0.1:1/?serverSelectionTimeoutMS=300", "localhost"):
        done = services(command, url, "nowhere", archive)
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
        assert b"hidden" not in done.stderr
