"""`make bench`: the token endpoint against a bare handler and the naive way, in one run.

client_credentials, one process, MongoDB with majority, each token's event published and confirmed, the access line on.
"""

import argparse
import asyncio
import base64
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aio_pika
from motor.motor_asyncio import AsyncIOMotorClient
from nacl.public import PrivateKey

from bench.servers import SECRET as NAIVE_SECRET
from libs.bus.local import LocalBus
from libs.processes import end, tied_to_us
from libs.runtime import new_deps
from libs.settings import Settings, load
from services.demo_data import CLIENT_ID, CLIENT_SECRET, load_demo_data
from tests.ports import free_port
from tests.provision import mongodb, rabbitmq

CONNECTIONS = (32, 128)
TARGETS = {32: 0.07, 128: 0.13}
"""Of the bare handler."""
OVER_NAIVE = 2.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Figures:
    """All rounds of one variant at one number of connections."""

    rounds: list[dict[str, float]] = field(default_factory=list)

    def median(self, name: str) -> float:
        """Of the rounds."""
        return statistics.median(figures[name] for figures in self.rounds)


@dataclass(frozen=True)
class Variant:
    """One server to measure."""

    name: str
    command: list[str]
    environment: dict[str, str]
    secret: str
    expected: str

    def request(self) -> bytes:
        """The raw request, the same length for all."""
        basic = base64.b64encode(f"{CLIENT_ID}:{self.secret}".encode()).decode()
        body = "grant_type=client_credentials"
        lines = (
            "POST /demo-api/oauth/token HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Basic {basic}",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(body)}",
        )
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def _serving(variant: Variant, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", *variant.command, "--port", str(port)]
    with log.open("ab") as sink:
        process = subprocess.Popen(
            tied_to_us(command), stdout=sink, stderr=sink, env={**os.environ, **variant.environment}
        )
    try:
        _wait_until_serving(variant, process, port, log)
        yield process
    finally:
        end(process, within=12)


def _wait_until_serving(variant: Variant, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    basic = base64.b64encode(f"{CLIENT_ID}:{variant.secret}".encode()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/demo-api/oauth/token",
        data=b"grant_type=client_credentials",
        headers={"Authorization": f"Basic {basic}"},
    )
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(request, timeout=5).read()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit(f"bench: {variant.name} did not start; its log is {log}")


def _measured(variant: Variant, connections: int, seconds: float, home: Path) -> dict[str, float]:
    port = free_port()
    request = home / f"{variant.name}.request"
    request.write_bytes(variant.request())
    driver = [sys.executable, "-m", "bench.driver", "--port", str(port), "--connections", str(connections)]
    load_options = ["--request", str(request), "--expected", variant.expected]
    with _serving(variant, port, home / f"{variant.name}.log") as process:
        subprocess.run([*driver, "--seconds", "0.7", *load_options], check=True, capture_output=True)
        before = _cpu_seconds(process.pid)
        run = subprocess.run([*driver, "--seconds", str(seconds), *load_options], capture_output=True, check=False)
        if run.returncode:
            raise SystemExit(f"bench: {variant.name}: {run.stderr.decode().strip().splitlines()[-1]}")
        figures: dict[str, float] = json.loads(run.stdout)
        figures["cpu"] = (_cpu_seconds(process.pid) - before) / figures["requests"] * 1e6
    return figures


async def _seed(values: dict[str, str]) -> None:
    deps = new_deps(load(Settings, **values), "bench", LocalBus())
    await deps.store.mongo.open()
    await deps.bus.open()
    await deps.outbox.open()
    await deps.store.mongo.prepared()
    await load_demo_data(deps, 1)
    await deps.outbox.drain()
    await deps.outbox.close()
    await deps.bus.close()
    await deps.store.mongo.close()


async def _subscribe(url: str) -> None:
    """A durable subscriber, as the naive variant has one: an event with nobody to keep it costs the broker nothing."""
    connection = await aio_pika.connect(url)
    async with connection, connection.channel() as channel:
        exchange = await channel.declare_exchange("tokenwire.events", aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue("sub.bench", durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind(exchange, "#")


async def _unpublished(url: str) -> int:
    client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(url)
    try:
        deadline = time.monotonic() + 60
        while left := await client["tokenwire"]["grants"].count_documents({"pending_since": {"$exists": True}}):
            if time.monotonic() > deadline:
                return left
            await asyncio.sleep(0.2)
        return 0
    finally:
        client.close()


def _variants(values: dict[str, str]) -> tuple[Variant, ...]:
    environment = {f"TOKENWIRE_{name.upper()}": value for name, value in values.items()}
    expected = '{"access_token":"tw_at_'
    servers = ["--mongodb", values["mongodb_url"], "--amqp", values["amqp_url"]]
    return (
        Variant("bare", ["bench.servers", "bare"], {}, "x", expected),
        Variant("tokenwire", ["services.token"], environment, CLIENT_SECRET, expected),
        Variant("naive", ["bench.servers", "naive", *servers], {}, NAIVE_SECRET, '{"access_token": "tw_at_'),
    )


def _report(results: dict[tuple[str, int], Figures], names: list[str]) -> bool:
    reached = True
    for connections in CONNECTIONS:
        print(f"\n{connections} connections          rps   ratio     p50 ms     p99 ms   CPU µs/request")
        bare = results["bare", connections].median("rps")
        for name in names:
            figures = results[name, connections]
            print(
                f"  {name:<18}{figures.median('rps'):>8.0f}{figures.median('rps') / bare:>8.3f}"
                f"{figures.median('p50'):>11.2f}{figures.median('p99'):>11.2f}{figures.median('cpu'):>17.0f}"
            )
        ours, naive = results["tokenwire", connections].median("rps"), results["naive", connections].median("rps")
        passed = ours / bare >= TARGETS[connections] and ours / naive >= OVER_NAIVE
        reached &= passed
        print(
            f"  of bare {ours / bare:.3f} (target {TARGETS[connections]}), of naive {ours / naive:.1f} "
            f"(target {OVER_NAIVE:.0f}): {'reached' if passed else 'MISSED'}"
        )
    return reached


def main() -> None:
    """Measure, print, and exit with 1 where a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    database, broker = asyncio.run(mongodb.provide()), rabbitmq.provide()
    try:
        ring = base64.b64encode(secrets.token_bytes(32)).decode()
        values = {
            "mongodb_url": database.url,
            "amqp_url": broker.new_vhost(),
            "keys": f"1:{ring}",
            "notifier_public_key": base64.b64encode(bytes(PrivateKey.generate().public_key)).decode(),
        }
        asyncio.run(_seed(values))
        asyncio.run(_subscribe(values["amqp_url"]))
        variants = _variants(values)
        results = {(variant.name, number): Figures() for variant in variants for number in CONNECTIONS}
        with tempfile.TemporaryDirectory(prefix="tokenwire-bench-") as home:
            for turn in range(arguments.rounds):
                for connections in CONNECTIONS:
                    for variant in variants:
                        figures = _measured(variant, connections, arguments.seconds, Path(home))
                        results[variant.name, connections].rounds.append(figures)
                        print(
                            f"round {turn + 1} {variant.name:<10} {connections:>4}: {figures['rps']:8.0f}/s", flush=True
                        )
        left = asyncio.run(_unpublished(values["mongodb_url"]))
        reached = _report(results, [variant.name for variant in variants])
        print(f"\nevents committed and not published when the load had ended: {left}")
    finally:
        broker.close()
        asyncio.run(database.close())
    sys.exit(0 if reached and left == 0 else 1)


if __name__ == "__main__":
    main()
