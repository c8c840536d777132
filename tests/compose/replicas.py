"""What more instances of the token service bring in the container stack. It needs a Docker engine, and takes minutes.

    python -m tests.compose.replicas

Clients get tokens (client_credentials) through the edge from one, two and three instances: first from instances that
may use a whole core each, then from instances that may use a fifth of one. The load comes from a container beside the
stack. On a machine with few cores the first series shows what the machine can do, the second one how the work is
shared, because then neither the machine, the edge nor MongoDB is the limit.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import yaml

from bench.testbed import TOKEN
from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.tenants import Tenant, basic, new_tenant
from tests.compose.containers import ComposeStack, copied
from tests.provision import CannotProvide

INSTANCES = (1, 2, 3)
PARTS_OF_A_CORE = (1.0, 0.2)
ROUNDS = 3
SECONDS = 8.0
WARM_UP = 4.0
"""Seconds of load that do not count: the edge finds new instances within two."""
CONNECTIONS = 64
SERVED = """
import re, urllib.request
text = urllib.request.urlopen("http://127.0.0.1:8080/metrics").read().decode()
found = re.findall(r'^tokenwire_http_requests_total{.*route="[^"]*/oauth/token".*} ([0-9.e+]+)$', text, re.MULTILINE)
print(sum(map(float, found)))
"""


def main() -> None:
    """Print a line for each number of instances."""
    try:
        with tempfile.TemporaryDirectory(prefix="tokenwire-replicas-") as directory:
            for part in PARTS_OF_A_CORE:
                _measure(Path(directory) / str(part), part)
    except CannotProvide as reason:
        sys.exit(f"replicas: {reason}")


def _measure(directory: Path, part: float) -> None:
    """Start a stack whose token instances may use this part of a core each, and print its figures."""
    directory.mkdir()
    files = {"COMPOSE_FILE": "compose.yaml:replicas.yaml", "TOKENWIRE_ISSUANCE_LIMIT": "100000000/60"}
    with copied(directory, **files) as stack:
        limits = {"deploy": {"resources": {"limits": {"cpus": str(part)}}}}
        (directory / "replicas.yaml").write_text(yaml.safe_dump({"services": {"token": limits}}), encoding="utf-8")
        stack.make("images")
        stack.make("up")
        request = directory / "load" / "request"
        request.parent.mkdir()
        request.write_bytes(_request(asyncio.run(_tenant(stack))))
        rates: dict[int, list[float]] = {number: [] for number in INSTANCES}
        shares: dict[int, float] = {}
        for _ in range(ROUNDS):  # in turn, so that a busy moment of the machine does not fall on one of them
            for number in INSTANCES:
                stack.scale(token=number)
                _load(stack, WARM_UP)
                before = _served(stack, number)
                rates[number].append(_load(stack, SECONDS)["rps"])
                done = [after - earlier for after, earlier in zip(_served(stack, number), before, strict=True)]
                shares[number] = min(done) / (sum(done) / number)
        one = statistics.median(rates[1])
        cores = os.cpu_count()
        say(f"\n{part:g} of a core for each instance, {CONNECTIONS} connections, {cores} cores in all")
        for number in INSTANCES:
            rate = statistics.median(rates[number])
            say(
                f"{number} instances: {rate / one:.2f} times the tokens of one ({rate:.0f}/s; rounds "
                f"{', '.join(f'{each:.0f}' for each in rates[number])}); the least busy instance had "
                f"{shares[number]:.0%} of an equal share"
            )


def say(line: str) -> None:
    """Print it at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _tenant(stack: ComposeStack) -> Tenant:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        anybody = Caller(http, stack.url, Secrets())
        return await new_tenant(anybody, anybody.with_key(stack.operator_key))


def _request(tenant: Tenant) -> bytes:
    body = "grant_type=client_credentials"
    headers: Mapping[str, str] = {
        "Host": urlsplit(tenant.edge.url).netloc,
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": str(len(body)),
        **basic(tenant.client_id, tenant.secret),
    }
    lines = [f"POST {tenant.path}/oauth/token HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", body]).encode()


def _load(stack: ComposeStack, seconds: float) -> dict[str, float]:
    """The figures of this much load, from a container beside the stack. Every response must have a token."""
    mounts = [
        f"--volume={stack.directory / 'bench'}:/opt/tokenwire/bench:ro",
        f"--volume={stack.directory / 'load'}:/load:ro",
    ]
    driver = ["python", "-m", "bench.driver", "--host=edge", "--port=8080", "--request=/load/request"]
    options = [f"--expected={TOKEN}", f"--connections={CONNECTIONS}", f"--seconds={seconds}"]
    command = ["docker", "run", "--rm", f"--network={stack.project}_outside", *mounts, stack.image, *driver, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 120)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _served(stack: ComposeStack, instances: int) -> list[float]:
    """The token requests that each instance has had."""
    found = []
    for container in [each for each in stack.containers("token") if each.state == "running"]:
        command = ["docker", "exec", container.id, "python", "-c", SERVED]
        found.append(float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
    assert len(found) == instances, found
    return found


if __name__ == "__main__":
    main()
