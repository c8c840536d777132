"""The Tokenwire that the story is told with, and the servers of this machine that take part."""

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
KEY_FILE = Path(".data/operator-key")
START_SECONDS = 180.0
STOP_SECONDS = 30.0


class CannotStart(Exception):
    """There is no Tokenwire to tell the story with; the message says what to do."""


# Tokenwire


@dataclass(frozen=True)
class Target:
    """A Tokenwire that answers."""

    url: str
    operator_key: str


@contextlib.asynccontextmanager
async def tokenwire(http: ClientSession) -> AsyncIterator[Target]:
    """The one that runs, or one of its own that is gone afterwards. Raises CannotStart."""
    url = os.environ.get("TOKENWIRE_URL", DEFAULT_URL).rstrip("/")
    if await answers(http, url):
        print(f"Tokenwire answers at {url}")
        yield Target(url, known_operator_key(url))
        return
    print(f"no Tokenwire answers at {url}: starting one with temporary data", flush=True)
    async with own_tokenwire(http) as own:
        print(f"Tokenwire answers at {own.url}")
        yield own


async def answers(http: ClientSession, url: str) -> bool:
    """Whether a Tokenwire is there: the management API refuses a stranger in its own words."""
    try:
        async with http.get(f"{url}/api/apis", timeout=ClientTimeout(total=5)) as response:
            body = json.loads(await response.text())
            return response.status == 401 and isinstance(body, dict) and body.get("Status") == "Error"
    except (ClientError, TimeoutError, ValueError):
        return False


def known_operator_key(url: str) -> str:
    """The key for a Tokenwire that runs already."""
    if key := os.environ.get("TOKENWIRE_OPERATOR_KEY"):
        return key
    try:
        return KEY_FILE.read_text().strip()
    except OSError:
        raise CannotStart(f"set TOKENWIRE_OPERATOR_KEY to an operator key of the Tokenwire at {url}") from None


@contextlib.asynccontextmanager
async def own_tokenwire(http: ClientSession) -> AsyncIterator[Target]:
    """Every service in one process, on a free port, with temporary data."""
    with tempfile.TemporaryDirectory(prefix="tokenwire-demo-", ignore_cleanup_errors=True) as directory:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        own = OwnTokenwire(f"http://127.0.0.1:{port}", Path(directory, "data"), Path(directory, "log"))
        process = own.start(port)
        try:
            await own.ready(http, process)
            yield Target(own.url, own.operator_key())
        finally:
            await stop(process)


@dataclass(frozen=True)
class OwnTokenwire:
    """A process, its data and what it said."""

    url: str
    data: Path
    log: Path

    def start(self, port: int) -> subprocess.Popen[bytes]:
        """Started; not yet answering."""
        command = [sys.executable, "-m", "services", "--port", str(port), "--data", str(self.data)]
        # Settings are for the Tokenwire that somebody runs; this one keeps to its temporary data.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")}
        with self.log.open("wb") as output:
            # A session of its own: Ctrl-C is for this process, which then stops the other in order.
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def ready(self, http: ClientSession, process: subprocess.Popen[bytes]) -> None:
        """It answers. Raises CannotStart with the end of its log."""
        deadline = time.monotonic() + START_SECONDS
        while not await answers(http, self.url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotStart(
                    f"its own Tokenwire does not answer. Start one and set TOKENWIRE_URL, or see why:\n{self.said()}"
                )
            await asyncio.sleep(0.1)

    def operator_key(self) -> str:
        return (self.data / "operator-key").read_text().strip()

    def said(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


async def stop(process: subprocess.Popen[bytes]) -> None:
    """The process is gone."""
    if process.poll() is None:
        process.terminate()
    try:
        await asyncio.to_thread(process.wait, STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# The servers next to it


@dataclass(frozen=True)
class Ports:
    """Where the examples of this machine can be reached, known before they run: the API definition names them."""

    host_address: str
    login: socket.socket
    webhooks: socket.socket
    orders: socket.socket

    def url(self, sock: socket.socket, path: str = "") -> str:
        return f"http://{self.host_address}:{sock.getsockname()[1]}{path}"


@contextlib.contextmanager
def free_ports(host_address: str) -> Iterator[Ports]:
    """Three of them, held: on this machine only, unless the story is told under another address."""
    local = host_address in {"127.0.0.1", "localhost"}
    interface = "127.0.0.1" if local else "0.0.0.0"  # noqa: S104 - containers must reach it
    with contextlib.ExitStack() as stack:
        yield Ports(host_address, *(stack.enter_context(socket.create_server((interface, 0))) for _ in range(3)))


@contextlib.asynccontextmanager
async def serving(app: web.Application, sock: socket.socket) -> AsyncIterator[None]:
    """The application answers on the socket."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        yield
    finally:
        await runner.cleanup()
