"""The cost of abuse by anonymous callers: the service's memory, and the latency of `/healthz` during the attack.

Each attack runs against its own service process. The attacker and the prober are separate processes: `python -m
bench.abuse <attack>|probe --port N --seconds S`.
"""

import argparse
import asyncio
import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench.report import MeasurementFailed, Report, Target, quantiles
from bench.testbed import Running, Testbed

MEMORY_MB = 200
HEALTHZ_MS = 250
PROBED_EVERY = 0.025
_COLUMNS = ("requests", "RSS MB", "p50 ms", "p99 ms", "CPU µs")
PIECE = b"X-Padding: " + b"a" * 15_000 + b"\r\n"


def _request(line: str, headers: str = "", body: bytes = b"") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{line} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n".encode() + body


def _slashes(_: int) -> bytes:
    return _request("GET " + "/" * 16_000)


def _readings(number: int) -> bytes:
    """Five variants of the path that is most expensive to normalise within the length limit."""
    unit = ("..\\a;%2f%252f", "/", "..;/", "/%2e%2e", "%5c..;x")[number % 5]
    return _request("GET /" + (unit * 60 + "%61" * 600 + "a" * 8000)[:8000])


def _failed_login(number: int) -> bytes:
    """Client ids alternate between 63 KB and the longest that a client may have; requests come from 80 addresses."""
    client_id = f"{number:x}".rjust(63_000 if number % 2 else 128, "x")
    form = f"grant_type=client_credentials&client_id={client_id}&client_secret={'s' * 32}".encode()
    headers = f"X-Forwarded-For: 10.0.0.{number % 80}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    return _request("POST /demo-api/oauth/token", headers, form)


def _forwarded(number: int) -> bytes:
    """Header values alternate between 16 KB and just under the limit; no value repeats."""
    length = 15_900 if number % 2 else 1000
    return _request("GET /demo-api/oauth/authorize", f"X-Forwarded-For: {number:x}{'1' * length}, 10.0.0.1\r\n")


@dataclass(frozen=True)
class Attack:
    """The requests that anonymous attackers send to a service."""

    service: str
    what: str
    connections: int
    requests: Callable[[int], bytes]
    """Returns the request with this number. If `complete` is False, the connection stays open after it."""
    complete: bool = True


ATTACKS = {
    "slashes": Attack("gateway", "paths of 16 KB of slashes", 8, _slashes),
    "readings": Attack("gateway", "paths with the most readings", 8, _readings),
    "logins": Attack("token", "failed logins", 8, _failed_login),
    "forwarded": Attack("token", "X-Forwarded-For", 8, _forwarded),
    "heads": Attack("token", "unfinished heads", 200, lambda _: _request("GET /")[:-2] + PIECE * 4, complete=False),
    "bodies": Attack(
        "token",
        "large heads, slow bodies",
        200,
        lambda _: (
            _request("POST /demo-api/oauth/token", "Content-Length: 60000\r\n" + PIECE.decode() * 4, b"")
            + b"a" * 50_000
        ),
        complete=False,
    ),
}


def measure(testbed: Testbed) -> Report:
    """Run each attack for twice the seconds of a round. Raises MeasurementFailed if the prober got no response."""
    system = asyncio.run(testbed.new_system())
    report = Report("Denial-of-service attempts by unauthenticated clients")
    report.heading("attack", _COLUMNS)
    for name, attack in ATTACKS.items():
        program = system.program(attack.service, trusted_proxies="127.0.0.1", log_level="warning")
        with testbed.serving(program) as running:
            figures = _under(running, name, 2 * testbed.seconds)
        cells = (figures["requests"], figures["rss"], figures["p50"], figures["p99"], figures["cpu"])
        report.lines.append(f"  {attack.what}".ljust(34) + "".join(f"{cell:>10.0f}" for cell in cells))
        report.targets.append(Target(f"{attack.what}, MB of memory", figures["rss"], MEMORY_MB, at_most=True))
        report.targets.append(Target(f"{attack.what}, ms for /healthz (p99)", figures["p99"], HEALTHZ_MS, at_most=True))
        testbed.print_progress(report.lines[-1])
    return report


def _under(running: Running, attack: str, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.abuse", "--port", str(running.port), "--seconds", str(seconds)]
    both = [subprocess.Popen([*command, what], stdout=subprocess.PIPE) for what in (attack, "probe")]
    before = running.cpu_seconds()
    try:
        said = [json.loads(process.communicate(timeout=seconds + 60)[0] or b"{}") for process in both]
    finally:
        for process in both:
            process.kill()
    figures: dict[str, float] = said[0] | said[1]
    if any(process.returncode for process in both) or not figures["probes"]:
        raise MeasurementFailed(f"{attack}: the attacker failed, or /healthz never responded")
    cpu = (running.cpu_seconds() - before) / max(figures["requests"], 1) * 1e6
    return figures | {"rss": _most_memory(running.pid), "cpu": cpu}


def _most_memory(pid: int) -> float:
    """Peak memory of the process in megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


# The attacker


async def _attacked(attack: Attack, port: int, seconds: float) -> dict[str, float]:
    numbers, sent = count(secrets.randbelow(2**32)), count()
    deadline = time.monotonic() + seconds

    async def caller() -> None:
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await _connected(attack, port, numbers, sent)
            except (OSError, EOFError, TimeoutError):
                await asyncio.sleep(0.01)  # the service may close the connection

    await asyncio.gather(*(caller() for _ in range(attack.connections)))
    return {"requests": next(sent)}


async def _connected(attack: Attack, port: int, numbers: Iterator[int], sent: Iterator[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            writer.write(attack.requests(next(numbers)))
            await writer.drain()
            next(sent)
            if not attack.complete:
                await reader.read(1)
                return
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length: ")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            if b"connection: close" in head:
                return
    finally:
        writer.transport.abort()


# The other callers


def _probed(port: int, seconds: float) -> dict[str, float]:
    """Time `/healthz` on new connections, one after another. A refused connection counts as a time-out."""
    deadline, taken = time.monotonic() + seconds, []
    while time.monotonic() < deadline:
        began = time.monotonic()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as asked:
                asked.sendall(_request("GET /healthz", "Connection: close\r\n"))
                answered = asked.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            answered = False
        taken.append(time.monotonic() - began if answered else 10.0)
        time.sleep(PROBED_EVERY)
    return {**quantiles(taken), "probes": len(taken)}


def main() -> None:
    """Run the attacker or the prober, and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.abuse")
    parser.add_argument("what", choices=["probe", *ATTACKS])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    if arguments.what == "probe":
        figures = _probed(arguments.port, arguments.seconds)
    else:
        figures = asyncio.run(_attacked(ATTACKS[arguments.what], arguments.port, arguments.seconds))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
