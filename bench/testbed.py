"""The environment of every measurement: MongoDB, RabbitMQ, the server processes, and the load generator."""

import base64
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nacl.public import PrivateKey

from bench.report import MeasurementFailed
from libs.bus.port import Bus, BusUnavailable
from libs.bus.rabbit import RabbitBus
from libs.processes import end, ending_with_this_process
from libs.runtime import Deps, new_deps
from libs.settings import Settings, load
from services.demo_data import load_demo_data
from tests.eventually import eventually
from tests.ports import free_port
from tests.provision.rabbitmq import Broker

TICKS = os.sysconf("SC_CLK_TCK")
TOKEN = '{"access_token":"tw_at_'
"""The body of every token response begins with this."""


@dataclass(frozen=True)
class Program:
    """A server to measure: `python -m …`, started with `--port`."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    """Processes that share the port."""


@dataclass(frozen=True)
class Running:
    """A started server that is ready."""

    pid: int
    port: int

    def cpu_seconds(self) -> float:
        """Processor time used so far, with that of its workers."""
        return sum(map(_cpu_seconds, [self.pid, *_children(self.pid)]))

    def requests_by_worker(self) -> Mapping[str, float]:
        """HTTP requests so far by the number of the worker; nothing without workers."""
        return _series(self.port, "tokenwire_worker_http_requests_total")


@dataclass(frozen=True)
class System:
    """A database, a vhost and keys of its own, with the demo data: one API, one client."""

    values: Mapping[str, str]
    notifier_key: str
    """The private key."""

    def program(self, service: str, **own: object) -> Program:
        """One of Tokenwire's services, configured for this system."""
        values = {**self.values, "notifier_private_keys": self.notifier_key, **own}
        environment = {f"TOKENWIRE_{name.upper()}": str(value) for name, value in values.items()}
        workers = int(str(own.get("workers", 1)))
        name = service if workers == 1 else f"{service} x {workers}"
        return Program(name, [f"services.{service}"], environment, workers)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Deps]:
        """This system's store and bus, opened in this process to prepare a measurement."""
        settings = load(Settings, **self.values)
        deps = new_deps(settings, "bench", RabbitBus(self.values["amqp_url"], instance_name="bench"))
        await deps.store.mongo.open()
        await deps.bus.open()
        await deps.outbox.open()
        await deps.store.mongo.prepared()
        await eventually(lambda: _reached(deps.bus))
        try:
            yield deps
            await deps.outbox.drain()
        finally:
            await deps.outbox.close()
            await deps.bus.close()
            await deps.store.mongo.close()


@dataclass(frozen=True)
class Testbed:
    """MongoDB, RabbitMQ, a directory for logs, and the number and length of rounds."""

    mongodb_url: str
    broker: Broker
    home: Path
    rounds: int
    seconds: float
    size: int = 0
    """Records of each kind in benchmarks of large databases."""

    async def new_system(self) -> System:
        """A system with nothing but the demo data."""
        ring = base64.b64encode(secrets.token_bytes(32)).decode()
        private = PrivateKey.generate()
        values = {
            "mongodb_url": self.mongodb_url,
            "mongodb_database": f"bench_{secrets.token_hex(4)}",
            "amqp_url": self.broker.new_vhost(),
            "keys": f"1:{ring}",
            "notifier_public_key": base64.b64encode(bytes(private.public_key)).decode(),
            "issuance_limit": "100000000/60",  # counted, but one client under load never reaches it
        }
        system = System(values, base64.b64encode(bytes(private)).decode())
        async with system.opened() as deps:
            await load_demo_data(deps, 1)
        return system

    def print_progress(self, text: str) -> None:
        """Print a line of progress at once."""
        print(text, flush=True)

    @contextmanager
    def serving(self, program: Program) -> Iterator[Running]:
        """Run the program on a free port until the block ends. Raises MeasurementFailed if it does not become ready."""
        port, log = free_port(), self.home / f"{program.name}.log"
        command = ending_with_this_process([sys.executable, "-m", *program.command, "--port", str(port)])
        with log.open("ab") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink, env={**os.environ, **program.environment})
        try:
            if not _ready(process, port, program.workers):
                raise MeasurementFailed(f"{program.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            yield Running(process.pid, port)
        finally:
            end(process, within=12)

    def run_load(
        self,
        program: Program,
        request: bytes,
        expected: str,
        connections: int,
        chains: Callable[[Running], Path] | None = None,
    ) -> dict[str, float]:
        """Send this request repeatedly, after a warm-up, and return the figures. Raises MeasurementFailed.

        `chains` makes the file of the refresh tokens with which the connections begin, for the warm-up and again.
        """
        with self.serving(program) as running:
            return self.load_running(program, [running], running.port, request, expected, connections, chains)

    def load_running(
        self,
        program: Program,
        involved: Sequence[Running],
        port: int,
        request: bytes,
        expected: str,
        connections: int,
        chains: Callable[[Running], Path] | None = None,
    ) -> dict[str, float]:
        """The same for servers that run already; `cpu` is that of all of them. The first one may have workers."""
        file = self.home / f"{program.name}.request"
        file.write_bytes(request)
        running = involved[0]
        driver = [sys.executable, "-m", "bench.driver", "--port", str(port)]
        driver += ["--connections", str(connections), "--request", str(file), "--expected", expected]
        _driven(program, [*driver, "--seconds", "0.7", *_chained(chains, running)])
        own = _chained(chains, running)
        before = sum(each.cpu_seconds() for each in involved)
        requests = running.requests_by_worker() if program.workers > 1 else {}
        figures = _driven(program, [*driver, "--seconds", str(self.seconds), *own])
        figures["cpu"] = (sum(each.cpu_seconds() for each in involved) - before) / figures["requests"] * 1e6
        if requests:
            figures |= _shares(requests, running.requests_by_worker())
        self.print_progress(f"  {program.name:<12} {connections:>4} connections: {figures['rps']:8.0f}/s")
        return figures

    def run_bare(self, connections: int) -> dict[str, float]:
        """Figures of the bare handler under the same load."""
        return self.run_load(Program("bare", ["bench.servers", "bare"]), token_request("x", "x"), TOKEN, connections)


def _chained(chains: Callable[[Running], Path] | None, running: Running) -> Sequence[str]:
    return () if chains is None else ("--chains", str(chains(running)))


async def _reached(bus: Bus) -> bool:
    try:
        await bus.ping()
    except BusUnavailable:
        return False
    return True


def token_request(
    client_id: str, secret: str, body: str = "grant_type=client_credentials", listen_path: str = "/demo-api/"
) -> bytes:
    """The raw request. Its length depends only on the lengths of the arguments."""
    basic = base64.b64encode(f"{client_id}:{secret}".encode()).decode()
    lines = (
        f"POST {listen_path}oauth/token HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Basic {basic}",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _children(pid: int) -> Sequence[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _shares(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """`share 1`, `share 2`, …: the part of the requests that each worker had."""
    requests = {worker: after[worker] - before[worker] for worker in before}
    return {f"share {worker}": number / sum(requests.values()) for worker, number in requests.items()}


def _series(port: int, name: str) -> Mapping[str, float]:
    """The values of this metric by its only label."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    parts = [line.removeprefix(f"{name}{{").split('"') for line in lines if line.startswith(f"{name}{{")]
    return {value: float(rest.removeprefix("} ")) for _, value, rest in parts}


def _ready(process: "subprocess.Popen[bytes]", port: int, workers: int) -> bool:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            ready = b"degraded" not in urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).read()
            if ready and (workers == 1 or sum(_series(port, "tokenwire_worker_up").values()) == workers):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.1)
    return False


def _driven(program: Program, command: Sequence[str]) -> dict[str, float]:
    run = subprocess.run(command, capture_output=True, check=False)
    if run.returncode:
        raise MeasurementFailed(f"{program.name}: {run.stderr.decode().strip().splitlines()[-1]}")
    figures: dict[str, float] = json.loads(run.stdout)
    return figures
