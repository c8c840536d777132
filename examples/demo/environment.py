"""The Tokenwire that the demo runs against, and the example servers on this machine."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout, web

DEFAULT_URL = "http://127.0.0.1:8080"
KEY_FILES = (Path(".data/operator-key"), Path(".secrets/bootstrap_operator_key"))
"""Where `make run` and `make up` keep the first operator's key."""
LOCAL = "127.0.0.1"
START_SECONDS = 180.0
STOP_SECONDS = 30.0


class CannotStart(Exception):
    """No Tokenwire is available for the demo; the message says what to do."""


# Tokenwire


@dataclass(frozen=True)
class Target:
    """A running Tokenwire."""

    url: str
    operator_key: str
    key_kept_in: str
    """Where a person finds the operator key."""
    in_containers: bool = False
    """Whether it is the stack of `make up`, which reaches this machine by another address than 127.0.0.1."""
    temporary: bool = False
    """Whether it was started for the demo, and ends with it."""


@contextlib.asynccontextmanager
async def tokenwire(http: ClientSession) -> AsyncIterator[Target]:
    """Yield the running Tokenwire, or start a temporary one. Raises CannotStart."""
    url = os.environ.get("TOKENWIRE_URL", DEFAULT_URL).rstrip("/")
    if await responses(http, url):
        print(f"Tokenwire responds at {url}")
        yield await known(http, url)
        return
    print(f"no Tokenwire responds at {url}: starting one with temporary data", flush=True)
    async with start_tokenwire(http) as own:
        print(f"Tokenwire responds at {own.url}")
        yield own


async def responses(http: ClientSession, url: str) -> bool:
    """Whether a Tokenwire responds: its management API refuses requests without a key in a recognisable way."""
    try:
        async with http.get(f"{url}/api/apis", timeout=ClientTimeout(total=5)) as response:
            body = json.loads(await response.text())
            return response.status == 401 and isinstance(body, dict) and body.get("Status") == "Error"
    except (ClientError, TimeoutError, ValueError):
        return False


async def known(http: ClientSession, url: str) -> Target:
    """A Tokenwire that was already running, with the key from the environment, or the key in a file that it accepts."""
    if key := os.environ.get("TOKENWIRE_OPERATOR_KEY"):
        return Target(url, key, "TOKENWIRE_OPERATOR_KEY", in_containers=key == _content(KEY_FILES[1]))
    for file in KEY_FILES:
        if not (key := _content(file)):
            continue
        async with http.get(f"{url}/api/apis", headers={"Authorization": key}) as response:
            if response.status == 200:
                return Target(url, key, str(file), in_containers=file == KEY_FILES[1])
    raise CannotStart(f"set TOKENWIRE_OPERATOR_KEY to an operator key of the Tokenwire at {url}")


def _content(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def address_for(target: Target) -> str:
    """The address at which Tokenwire reaches this machine, and this machine itself.

    For containers it is the gateway of Docker's default network where this machine has that address, else the address
    that this machine has on its own network.
    """
    if not target.in_containers:
        return LOCAL
    asked = ["docker", "network", "inspect", "bridge", "--format", "{{range .IPAM.Config}}{{.Gateway}} {{end}}"]
    with contextlib.suppress(OSError):
        for gateway in subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split():
            with contextlib.suppress(OSError), socket.create_server((gateway, 0)):
                return gateway
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unconnected:
        unconnected.connect(("192.0.2.1", 9))  # sends nothing; the system only chooses the address
        return str(unconnected.getsockname()[0])
    raise CannotStart("the containers cannot reach this machine: name its address on their network (--host-address)")


@contextlib.asynccontextmanager
async def start_tokenwire(http: ClientSession) -> AsyncIterator[Target]:
    """Run all services in one process, on a free port, with temporary data."""
    with tempfile.TemporaryDirectory(prefix="tokenwire-demo-", ignore_cleanup_errors=True) as directory:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        own = OwnTokenwire(f"http://127.0.0.1:{port}", Path(directory, "data"), Path(directory, "log"))
        process = own.start(port)
        try:
            await own.ready(http, process)
            yield Target(own.url, own.operator_key(), str(own.operator_key_file), temporary=True)
        finally:
            await stop(process)


@dataclass(frozen=True)
class OwnTokenwire:
    """A Tokenwire process, its data and its log."""

    url: str
    data: Path
    log: Path

    def start(self, port: int) -> subprocess.Popen[bytes]:
        """Start the process. It does not respond yet."""
        command = [sys.executable, "-m", "services", "--port", str(port), "--data", str(self.data)]
        # The TOKENWIRE_ settings belong to the user's own Tokenwire; this one must touch temporary data only.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")}
        with self.log.open("wb") as output:
            # A new session, so that Ctrl-C reaches only the demo, which then stops this process gracefully.
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def ready(self, http: ClientSession, process: subprocess.Popen[bytes]) -> None:
        """Wait until it responds. Raises CannotStart with the end of its log."""
        deadline = time.monotonic() + START_SECONDS
        while not await responses(http, self.url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotStart(
                    "the demo's Tokenwire did not start. Set TOKENWIRE_URL to a running one, or see its log:\n"
                    + self.log_tail()
                )
            await asyncio.sleep(0.1)

    @property
    def operator_key_file(self) -> Path:
        return self.data / "operator-key"

    def operator_key(self) -> str:
        return self.operator_key_file.read_text().strip()

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


async def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the process: SIGTERM first, SIGKILL after STOP_SECONDS."""
    if process.poll() is None:
        process.terminate()
    try:
        await asyncio.to_thread(process.wait, STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# The example servers


@dataclass(frozen=True)
class Ports:
    """The addresses of the example servers, reserved before they start because the API definition contains them."""

    host_address: str
    login: socket.socket
    webhooks: socket.socket
    orders: socket.socket

    def url(self, sock: socket.socket, path: str = "") -> str:
        return f"http://{self.host_address}:{sock.getsockname()[1]}{path}"


@contextlib.contextmanager
def free_ports(host_address: str) -> Iterator[Ports]:
    """Reserve three ports, on that address only if this machine has it."""
    interface = "0.0.0.0"  # noqa: S104 - an address that is translated on the way to this machine
    with contextlib.suppress(OSError), socket.create_server((host_address, 0)):
        interface = host_address
    with contextlib.ExitStack() as stack:
        yield Ports(host_address, *(stack.enter_context(socket.create_server((interface, 0))) for _ in range(3)))


@contextlib.asynccontextmanager
async def serving(app: web.Application, sock: socket.socket) -> AsyncIterator[None]:
    """Serve the application on this socket."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        yield
    finally:
        await runner.cleanup()
