"""The stack of compose.yaml in a project of its own, whose containers may be broken, with the witnesses outside.

It needs an engine on this machine: the witnesses reach RabbitMQ and MongoDB by their addresses on its networks.
"""

import asyncio
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml
from aiohttp.abc import AbstractResolver, ResolveResult
from motor.motor_asyncio import AsyncIOMotorClient
from prometheus_client.parser import text_string_to_metric_families

from deploy import make_secrets
from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.deployment import stack
from tests.deployment.wiring import SERVICES
from tests.eventually import eventually
from tests.faults.stack import Arming
from tests.faults.witnesses import receiver, recorder
from tests.faults.world import Watched, clients
from tests.ports import free_ports
from tests.provision import CannotProvide

PROJECT = os.environ.get("COMPOSE_PROJECT_NAME", "tokenwire-faults")
VERSION = os.environ.get("TOKENWIRE_VERSION", "local")
USUAL: Mapping[str, int] = {"token": 2, "gateway": 2, "notifier": 2}
"""Instances unless a row wants others; one of every other service."""
SKEWED = {
    "token-ahead": ("token", 300),
    "authorization-behind": ("authorization", -300),
    "notifier-behind": ("notifier", -300),
}
"""Further instances with a wrong clock, which a row starts: name, service, and seconds by which it is ahead."""
DISKS = {"mongodb": "1000m", "rabbitmq": "1500m"}
"""Sizes of the two volumes. RabbitMQ wants a free gigabyte."""
FILLED = {"mongodb": 1000, "rabbitmq": 1200}
"""Megabytes written to fill them: MongoDB's to the last byte, RabbitMQ's far beyond its limit of free space."""
READY_WITHIN = 300.0
"""Seconds until everything is ready; on two idle cores it takes about twenty."""
RUN_OUT_OF_MEMORY = """
for process in /proc/[0-9]*; do
    [ "$process" = "/proc/$$" ] || echo 1000 > "$process/oom_score_adj"
done 2> /dev/null
exec tail /dev/zero
"""
"""Makes every process of the container the kernel's first choice, then allocates memory without end."""
_PROFILE = "skewed"
_NUMBER = "com.docker.compose.container-number"
_QUEUE = "sub.faults"


async def docker(*words: str, environment: Mapping[str, str] | None = None, fails: bool = False) -> str:
    """The output of `docker …`. With `fails`, its exit status does not matter, else AssertionError."""
    process = await asyncio.create_subprocess_exec(
        "docker",
        *words,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = await process.communicate()
    if process.returncode != 0 and not fails:
        raise AssertionError(f"docker {' '.join(words)}: {complaint.decode()[-2000:]}")
    return output.decode()


class Containers:
    """The running project. The edges share the load; a client whose connection is refused tries the other one."""

    def __init__(self, home: Path, edges: "Edges", caller: Caller, project: str, version: str) -> None:
        self._home = home
        self._project = project
        self._image = f"tokenwire:{version}"
        self._edges = edges
        self._http = caller
        self._network = f"10.{secrets.randbelow(55) + 200}.{secrets.randbelow(256)}"
        make_secrets.make(home / ".secrets")
        self.anybody = caller.at("http://edge.test")
        self.operator = self.anybody.with_key(self.secret("bootstrap_operator_key"))
        self.environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_FILE": f"{home / 'compose.yaml'}:{home / 'faults.yaml'}",
            "TOKENWIRE_VERSION": version,
            "EDGE_ADDRESS": edges.address,
            "EDGE_PORT": f"{edges.ports[0]}-{edges.ports[-1]}",
            "TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS": "true",
            "TOKENWIRE_WEBHOOK_TIMEOUT": "2",
            "TOKENWIRE_ACCESS_LOG_SAMPLE": "0",
        }
        self._write_files()

    def secret(self, name: str) -> str:
        """A secret of the stack."""
        return (self._home / ".secrets" / name).read_text().strip()

    @property
    def amqp_url(self) -> str:
        """RabbitMQ for a subscriber outside."""
        return self.secret("amqp_url_subscriber").replace("@rabbitmq:", f"@{self._fixed['rabbitmq']}:")

    @property
    def mongodb_url(self) -> str:
        """MongoDB for its administrator, outside."""
        password = self.secret("mongodb_root_password")
        return f"mongodb://root:{password}@{self._fixed['mongodb']}:27017/?directConnection=true&authSource=admin"

    async def up(self) -> None:
        """Start everything, and wait until it is ready."""
        await self.down()
        await self.compose("up", "-d", *_scaled(USUAL))
        await self.ready()

    async def down(self) -> None:
        """Remove every container, network and volume of the project."""
        await self.compose("--profile", _PROFILE, "down", "--volumes", "--timeout", "5", "--remove-orphans")

    async def compose(self, *words: str) -> str:
        """The output of `docker compose …` for this project."""
        return await docker("compose", *words, environment=self.environment)

    async def roll(self, *names: str) -> str:
        """The output of what `make roll` runs."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deploy.roll", *names),
            cwd=stack.ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    async def scale(self, instances: Mapping[str, int]) -> None:
        """Run so many instances of these services. Those that are too many are stopped gracefully."""
        await self.compose("up", "-d", "--no-deps", "--no-recreate", *_scaled(instances), *instances)

    async def have(self, names: tuple[str, ...] = (), armings: tuple[Arming, ...] = ()) -> None:
        """Run the usual instances, and wait until they are ready. Nothing can be armed here."""
        assert (names, armings) == ((), ())
        wanted = {name: USUAL.get(name, 1) for name in (*SERVICES, "edge")}
        found = [_service(each) for each in await self.inspected() if each["State"]["Running"]]
        if wrong := {name: number for name, number in wanted.items() if found.count(name) != number}:
            await self.scale(wrong)
        await self.ready()

    async def ready(self, *_: str) -> None:
        """Wait until every service and edge that should run is ready for requests."""
        await eventually(self._all_ready, READY_WITHIN, every=0.3)

    async def containers(self, service: str) -> list[str]:
        """The ids of the containers of a service."""
        return [each["Id"] for each in await self.inspected() if _service(each) == service]

    async def inspected(self, *containers: str) -> list[dict[str, Any]]:
        """What the engine says about these containers, by default all of the project, in the order of their numbers."""
        label = f"label=com.docker.compose.project={self._project}"
        ids = containers or (await docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label)).split()
        # A container may be removed meanwhile, which fails the command, and leaves the others in its output.
        found: list[dict[str, Any]] = json.loads(await docker("inspect", *ids, fails=True)) if ids else []
        return sorted(found, key=lambda each: int(each["Config"]["Labels"].get(_NUMBER, 0)))

    async def metric(self, container: str, name: str) -> float:
        """The sum of a metric of one instance, over all labels."""
        (facts,) = await self.inspected(container)
        answer = await self._http.at(f"http://{self._address_of(facts)}:8080")("GET", "/metrics")
        families = text_string_to_metric_families(answer.raw.decode())
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    # Faults. Each ends when its cause has ended, not when the container is ready again.

    async def kill(self, container: str, away: float) -> None:
        """Kill it, wait, and start it again."""
        await docker("kill", container)
        await asyncio.sleep(away)
        await docker("start", container)

    async def pause(self, container: str, away: float) -> None:
        """Freeze all its processes for so many seconds."""
        await docker("pause", container)
        try:
            await asyncio.sleep(away)
        finally:
            await docker("unpause", container)

    async def cut_off(self, container: str, away: float) -> None:
        """Disconnect it from all its networks for so many seconds. It may come back with other addresses."""
        (facts,) = await self.inspected(container)
        networks = facts["NetworkSettings"]["Networks"]
        for name in networks:
            await docker("network", "disconnect", name, container)
        try:
            await asyncio.sleep(away)
        finally:
            for name, endpoint in networks.items():
                aliases = [word for alias in endpoint["Aliases"] or () for word in ("--alias", alias)]
                fixed = (endpoint["IPAMConfig"] or {}).get("IPv4Address")
                await docker("network", "connect", *aliases, *(("--ip", fixed) if fixed else ()), name, container)

    async def restart(self, container: str, _away: float) -> None:
        """Stop it gracefully, and start it again at once."""
        await docker("restart", container)

    async def run_out_of_memory(self, container: str, _away: float) -> None:
        """Allocate memory beyond its limit, until the kernel has killed it and the engine has started it again."""
        (before,) = await self.inspected(container)
        await docker("exec", container, "sh", "-c", RUN_OUT_OF_MEMORY, fails=True)

        async def started_again() -> bool:
            (now,) = await self.inspected(container)
            return bool(now["State"]["Running"] and now["State"]["StartedAt"] != before["State"]["StartedAt"])

        await eventually(started_again, 300, every=0.2)

    async def fill_disk(self, name: str, away: float) -> None:
        """Fill the volume of MongoDB or RabbitMQ for so many seconds."""
        (disks,) = await self.containers("disks")
        write = ("dd", "if=/dev/zero", f"of=/{name}/fill", "bs=1M", f"count={FILLED[name]}", "status=none")
        await docker("exec", disks, *write, fails=True)
        try:
            await asyncio.sleep(away)
        finally:
            await docker("exec", disks, "rm", f"/{name}/fill")

    async def _all_ready(self) -> bool:
        running = [each for each in await self.inspected() if each["State"]["Running"]]
        edges = [each for each in running if _service(each) == "edge"]
        for name in SERVICES:
            assert any(_service(each) == name for each in running), f"no {name} runs"
        assert edges, "no edge runs"
        skewed = {service: name for service, (name, _) in SKEWED.items()}
        services = [each for each in running if skewed.get(_service(each), _service(each)) in SERVICES]
        await asyncio.gather(
            *(self._ready(each["Name"], f"http://{self._address_of(each)}:8080") for each in services),
            *(self._edge_ready(each) for each in edges),
        )
        return True

    async def _ready(self, name: str, url: str) -> None:
        try:
            answer = await self._http.at(url)("GET", "/readyz")
        except OSError as fault:
            raise AssertionError(f"{name}: {fault}") from fault
        assert (answer.status, answer.body.get("status")) == (200, "ok"), f"{name}: {answer.raw.decode()}"

    async def _edge_ready(self, edge: Mapping[str, Any]) -> None:
        for port in _published(edge):
            try:
                answer = await self._http.at(f"http://{self._edges.address}:{port}")("GET", "/api/apis")
            except OSError as fault:
                raise AssertionError(f"edge: {fault}") from fault
            assert answer.status in {401, 403}, f"edge: {answer.raw.decode()}"

    def _address_of(self, facts: Mapping[str, Any]) -> str:
        return str(facts["NetworkSettings"]["Networks"][f"{self._project}_services"]["IPAddress"])

    @property
    def _fixed(self) -> Mapping[str, str]:
        """The addresses of the two servers on the network `data`."""
        return {"mongodb": f"{self._network}.10", "rabbitmq": f"{self._network}.11"}

    def _write_files(self) -> None:
        """compose.yaml and what it mounts as they are, and the additions."""
        shutil.copytree(stack.ROOT / "edge", self._home / "edge")
        shutil.copytree(stack.ROOT / "deploy/rabbitmq", self._home / "deploy/rabbitmq")
        shutil.copy(stack.ROOT / "compose.yaml", self._home)
        (self._home / "faults.yaml").write_text(yaml.safe_dump(self._additions()))

    def _additions(self) -> dict[str, Any]:
        """Fixed addresses for the witnesses, small disks, patient health checks, and instances with wrong clocks."""
        fixed = {name: {"networks": {"data": {"ipv4_address": address}}} for name, address in self._fixed.items()}
        patient = {name: {"healthcheck": {"timeout": "30s", "retries": 10}} for name in SERVICES}
        disks = {
            "image": self._image,
            "user": "0:0",
            "command": ["sleep", "infinity"],
            "init": True,
            "network_mode": "none",
            "healthcheck": {"disable": True},
            "volumes": [f"{name}:/{name}" for name in DISKS],  # while it runs, they survive the servers' stops
        }
        # Containers get addresses from the upper half, so that the fixed ones stay free.
        addresses = {"subnet": f"{self._network}.0/24", "ip_range": f"{self._network}.128/25"}
        return {
            "services": {
                **fixed,
                **patient,
                "disks": disks,
                **{name: self._skewed(*which) for name, which in SKEWED.items()},
            },
            "networks": {"data": {"ipam": {"config": [addresses]}}},
            "volumes": {
                name: {"driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": f"size={size},uid=999,gid=999"}}
                for name, size in DISKS.items()
            },
        }

    def _skewed(self, service: str, seconds: int) -> dict[str, Any]:
        """An instance of the service with a wrong clock, which the edge finds under the service's name."""
        usual = stack.containers()[service]
        *python, module = usual["command"]
        return {
            **{name: value for name, value in usual.items() if name not in {"depends_on", "build"}},
            "image": self._image,
            "command": [*python, "tests.security.skewed", module, f"--seconds={seconds}"],
            "environment": {name: self.environment.get(name, value) for name, value in usual["environment"].items()},
            "networks": {name: {"aliases": [service]} for name in usual["networks"]},
            "volumes": [f"{stack.ROOT / 'tests'}:/opt/tokenwire/tests:ro"],
            "profiles": [_PROFILE],
        }


def _scaled(instances: Mapping[str, int]) -> Sequence[str]:
    return [word for name, number in instances.items() for word in ("--scale", f"{name}={number}")]


def _service(facts: Mapping[str, Any]) -> str:
    return str(facts["Config"]["Labels"]["com.docker.compose.service"])


def _published(facts: Mapping[str, Any]) -> list[int]:
    return [int(each["HostPort"]) for found in facts["NetworkSettings"]["Ports"].values() for each in found or ()]


def _adjacent_ports() -> tuple[int, int]:
    """Two free ports in a row. Compose gives one of a range to each edge."""
    while True:
        (first,) = free_ports(1)
        with socket.socket() as next_one:
            try:
                next_one.bind(("", first + 1))
            except (OSError, OverflowError):
                continue
            return first, first + 1


@dataclass(frozen=True)
class Edges(AbstractResolver):
    """Resolves every name to all edges, in random order: what DNS does for edges on several machines."""

    address: str
    ports: Sequence[int]

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The address with each port."""
        ports = secrets.SystemRandom().sample(self.ports, len(self.ports))
        return [
            ResolveResult(
                hostname=host, host=self.address, port=each, family=family, proto=0, flags=socket.AI_NUMERICHOST
            )
            for each in ports
        ]

    async def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class ContainerWorld(Watched):
    """The system in containers."""

    containers: Containers


@asynccontextmanager
async def container_world(
    project: str = PROJECT, version: str = VERSION, kind: type[Containers] = Containers
) -> AsyncIterator[ContainerWorld]:
    """Run the stack until the block ends; then remove all of it but the images. Raises CannotProvide.

    `version` is the tag of the application image, `kind` the class that describes the stack.
    """
    try:
        subnet = await docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Subnet}}")
        await docker("image", "inspect", f"tokenwire:{version}")
    except (OSError, AssertionError) as fault:
        raise CannotProvide(
            f"a Docker engine and the images are needed (make images, docker compose build): {fault}"
        ) from fault
    async with AsyncExitStack() as opened:
        home = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="tokenwire-faults-")))
        # The bridge's first address is this machine. On loopback, a proxy of Docker would accept connections for an
        # edge that has stopped.
        edges = Edges(str(next(ip_network(subnet.strip()).hosts())), _adjacent_ports())
        http = await opened.enter_async_context(clients(edges))
        running = kind(home, edges, Caller(http, "", Secrets()), project, version)
        opened.push_async_callback(running.down)
        await running.up()
        webhooks = await opened.enter_async_context(receiver(edges.address))
        events = await opened.enter_async_context(recorder(running.amqp_url, _QUEUE))
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
            running.mongodb_url, readConcernLevel="majority"
        )
        opened.callback(client.close)
        yield ContainerWorld(running, webhooks, events, client["tokenwire"]["grants"], running)
