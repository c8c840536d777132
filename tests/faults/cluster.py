"""The stack of compose.cluster.yaml, and the rows of the kill matrix that break one node of RabbitMQ or MongoDB."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo.errors import PyMongoError

from deploy import make_secrets
from libs.bus.rabbit.topology import BROADCASTS
from tests.deployment import stack
from tests.deployment.wiring import SERVICES
from tests.eventually import eventually
from tests.faults.container_rows import FULL, containers_of
from tests.faults.containers import Containers, ContainerWorld, container_world, docker
from tests.faults.holders import Load
from tests.faults.judge import Committed
from tests.faults.rows import Deed, Row, Scene
from tests.faults.world import Watched

OVERLAY = "compose.cluster.yaml"
SCALE = replace(FULL, tokens=100, holders=6, quiet_pause=0.1)
ELECTIONS = 4
"""Tokens must go on within so many election timeouts (`electionTimeoutMillis`) of MongoDB's members. The first passes
until they miss their primary, and an election may be tied. The services need the rest to find the new one.
"""
CUT_OFF_FOR = 45.0
"""Seconds: longer than that, so that tokens go on without the node and not because it is back."""
PRIMARY_WITHIN = 90.0

Grants = AsyncIOMotorCollection[dict[str, Any]]


class Plain(Containers):
    """The running project without small disks and instances with wrong clocks."""

    def _additions(self) -> dict[str, Any]:
        """Fixed addresses for the witnesses, and patient health checks."""
        fixed = {name: {"networks": {"data": {"ipv4_address": address}}} for name, address in self._fixed.items()}
        patient = {name: {"healthcheck": {"timeout": "30s", "retries": 10}} for name in SERVICES}
        addresses = {"subnet": f"{self._network}.0/24", "ip_range": f"{self._network}.128/25"}
        return {"services": {**fixed, **patient}, "networks": {"data": {"ipam": {"config": [addresses]}}}}


class Cluster(Plain):
    """The running project with every node of the cluster."""

    @property
    def amqp_url(self) -> str:
        """Every RabbitMQ node for a subscriber outside, which notices within seconds that one is away."""
        alone = self.secret("amqp_url_subscriber")
        nodes = [address.partition(":")[0] for address in make_secrets.RABBITMQ_NODES]
        return ",".join(f"{alone.replace('@rabbitmq:', f'@{self._fixed[node]}:')}?heartbeat=5" for node in nodes)

    def members(self) -> Mapping[str, str]:
        """The URL of each MongoDB member alone, for the administrator, by its container's name."""
        names = [address.partition(":")[0] for address in make_secrets.MONGODB_MEMBERS]
        first = self._fixed["mongodb"]
        return {name: self.mongodb_url.replace(f"@{first}:", f"@{self._fixed[name]}:") for name in names}

    @property
    def _fixed(self) -> Mapping[str, str]:
        nodes = (*make_secrets.MONGODB_MEMBERS, *make_secrets.RABBITMQ_NODES)
        return {node.partition(":")[0]: f"{self._network}.{10 + number}" for number, node in enumerate(nodes)}

    def _write_files(self) -> None:
        super()._write_files()
        shutil.copy(stack.ROOT / OVERLAY, self._home)
        files = ("compose.yaml", OVERLAY, "faults.yaml")
        self.environment["COMPOSE_FILE"] = ":".join(str(self._home / name) for name in files)


@dataclass(frozen=True)
class ClusterWorld(ContainerWorld):
    """The system on clusters."""

    members: Mapping[str, Grants]
    """The collection of grants at each member."""
    pauses: dict[str, float] = field(default_factory=dict)
    """By container, the longest time in seconds without a new token while it was broken and after."""

    async def committed(self, client_ids: Collection[str]) -> dict[str, Committed]:
        """The grants of these clients, read from the primary with majority concern."""
        name = await self.primary()
        return await Watched.committed(replace(self, grants=self.members[name]), client_ids)

    async def failover_within(self) -> float:
        """Seconds within which tokens must go on after a node failed."""
        admin = self.members[await self.primary()].database.client.admin
        config = (await admin.command("replSetGetConfig"))["config"]
        within = ELECTIONS * config["settings"]["electionTimeoutMillis"] / 1000
        assert within < CUT_OFF_FOR
        return float(within)

    async def primary(self) -> str:
        """Wait until there is a primary; the name of its container."""
        found: list[str] = []

        async def elected() -> bool:
            for name, grants in self.members.items():
                try:
                    hello = await grants.database.client.admin.command("hello")
                except PyMongoError:
                    continue
                if hello.get("isWritablePrimary"):
                    found.append(name)
                    return True
            return False

        await eventually(elected, PRIMARY_WITHIN, every=0.2)
        return found[-1]


@asynccontextmanager
async def cluster_world(project: str, version: str) -> AsyncIterator[ClusterWorld]:
    """Run the stack on clusters until the block ends, as `container_world`. Raises CannotProvide."""
    async with container_world(project, version, Cluster) as world:
        assert isinstance(world.containers, Cluster)
        clients: dict[str, AsyncIOMotorClient[dict[str, Any]]] = {
            name: AsyncIOMotorClient(
                url, readConcernLevel="majority", serverSelectionTimeoutMS=1000, socketTimeoutMS=5000
            )
            for name, url in world.containers.members().items()
        }
        try:
            members = {name: client["tokenwire"]["grants"] for name, client in clients.items()}
            yield ClusterWorld(world.system, world.receiver, world.recorder, world.grants, world.containers, members)
        finally:
            for client in clients.values():
                client.close()


async def queue_members(containers: Containers) -> dict[str, int]:
    """The number of nodes that have each queue of the pools."""
    (node,) = await containers.containers("rabbitmq")
    listing = ("rabbitmqctl", "--quiet", "--no-table-headers", "list_queues", "name", "members")
    lines = [line.split("\t") for line in (await docker("exec", node, *listing)).splitlines()]
    return {
        name: members.count("rabbit@")
        for name, members in lines
        if name.startswith("tokenwire.") and not name.startswith(BROADCASTS)
    }


async def broker_node(_: Scene) -> str:
    """A node that has leaders of queues and connections."""
    return "rabbitmq"


async def other_broker_node(_: Scene) -> str:
    """Another one, so that it was not started a moment ago."""
    return "rabbitmq2"


async def mongodb_primary(scene: Scene) -> str:
    """The member that is primary now."""
    assert isinstance(scene.watched, ClusterWorld)
    return await scene.watched.primary()


def broken_node(which: Callable[[Scene], Awaitable[str]], fault: Callable[[Containers, str], Awaitable[None]]) -> Deed:
    """The node suffers the fault, and the world keeps how long no client got a token."""

    async def deed(scene: Scene) -> None:
        containers = containers_of(scene)
        assert isinstance(scene.watched, ClusterWorld)
        name = await which(scene)
        (container,) = await containers.containers(name)
        watching = asyncio.create_task(_longest_pause(scene.load))
        try:
            await fault(containers, container)
            await scene.more(scene.scale.tokens // 4)
        finally:
            watching.cancel()
        scene.watched.pauses[f"{name} {fault.__name__.strip('_')}"] = await watching
        await containers.ready()
        await scene.more(scene.scale.tokens // 8)

    return deed


async def _longest_pause(load: Load) -> float:
    """Until cancelled; the longest time in seconds in which no client got a token."""
    loop = asyncio.get_running_loop()
    longest, last, tokens = 0.0, loop.time(), len(load.holdings.tokens)
    try:
        while True:
            await asyncio.sleep(0.05)
            if len(load.holdings.tokens) > tokens:
                last, tokens = loop.time(), len(load.holdings.tokens)
            longest = max(longest, loop.time() - last)
    except asyncio.CancelledError:
        return longest


async def _killed(containers: Containers, container: str) -> None:
    await containers.kill(container, SCALE.away)


async def _cut_off(containers: Containers, container: str) -> None:
    await containers.cut_off(container, CUT_OFF_FOR)


CLUSTER_ROWS = (
    Row(
        "rabbitmq node killed",
        "one of three RabbitMQ nodes is killed, and started again",
        during=broken_node(broker_node, _killed),
        processes=(),
        flawless=True,
        kills_broker=True,
    ),
    Row(
        "rabbitmq node cut off",
        f"one of three RabbitMQ nodes is cut off from every other container for {CUT_OFF_FOR:.0f} seconds",
        during=broken_node(other_broker_node, _cut_off),
        processes=(),
        flawless=True,
        kills_broker=True,
    ),
    Row(
        "mongodb primary killed",
        "the primary of three MongoDB members is killed, and started again",
        during=broken_node(mongodb_primary, _killed),
        processes=(),
    ),
    Row(
        "mongodb primary cut off",
        f"the primary of three MongoDB members is cut off from every other container for {CUT_OFF_FOR:.0f} seconds",
        during=broken_node(mongodb_primary, _cut_off),
        processes=(),
    ),
)
