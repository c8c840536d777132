"""The rows of the kill matrix that break containers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from pymongo.errors import PyMongoError

from tests.eventually import eventually
from tests.faults.containers import SKEWED, USUAL, Containers, ContainerWorld, docker
from tests.faults.rows import Deed, Row, Scale, Scene

FULL = Scale(
    tokens=120,
    holders=8,
    pause=0.1,
    quiet_pause=0.3,
    rounds=1,
    latest=1,
    away=5.0,
    trouble=0.0,
    one_by_one=True,
    settle_within=3.0,
    sample=10,
    stops_within=10.0,
    slack=3.0,
    repeated=0.1,
)
"""Rows do not wait for what the notifier's lease and retries delay: all are judged again after the last one."""
SHORT = replace(FULL, slack=None, repeated=1.0)
"""For any machine, as in `make test`."""
SHORT_ROWS = ("services killed", "rabbitmq cut off", "scaled")
"""Rows that `make test-compose` runs."""
TOGETHER = (("token", "notifier", "gateway"), ("authorization", "revocation", "management"))
"""Services of which one container each is broken at the same time: first those with a second one, then the others."""
SHARE = 0.5
"""Every instance must do at least this part of its equal share."""
SHARED_WITHIN = 180.0
"""Seconds in which the load must have been shared once; the edge sends nothing to an instance that stood still."""
SCALED = {"token": 3, "gateway": 2, "notifier": 2}
WORK = {
    "token": "tokenwire_http_requests_total",
    "gateway": "tokenwire_http_requests_total",
    "notifier": "tokenwire_webhook_attempts_total",
}
"""The metric that shows an instance's part of the load."""

Fault = Callable[[Containers, str, float], Awaitable[None]]
FAULTS: Mapping[str, tuple[Fault, str]] = {
    "killed": (Containers.kill, "killed (`docker kill`), and started again"),
    "paused": (Containers.pause, "frozen (`docker pause`) for a while"),
    "cut off": (Containers.cut_off, "disconnected from all networks (`docker network disconnect`) for a while"),
    "restarted": (Containers.restart, "stopped gracefully and started again (`docker restart`)"),
    "out of memory": (
        Containers.run_out_of_memory,
        "filled with memory up to its limit until the kernel kills it; the engine starts it again",
    ),
}


def containers_of(scene: Scene) -> Containers:
    """The containers of a row that breaks them."""
    assert isinstance(scene.watched, ContainerWorld)
    return scene.watched.containers


def broken(fault: Fault, *groups: tuple[str, ...]) -> Deed:
    """One container of every service of a group suffers the fault; when all are ready again, the next group."""

    async def deed(scene: Scene) -> None:
        containers = containers_of(scene)
        for group in groups:
            found = [(await containers.containers(service))[0] for service in group]
            await asyncio.gather(*(fault(containers, each, scene.scale.away) for each in found))
            await containers.ready()
            await scene.more(scene.scale.tokens // 8)

    return deed


def full_disk(name: str) -> Deed:
    """The disk of MongoDB or RabbitMQ is full for a while."""

    async def deed(scene: Scene) -> None:
        containers = containers_of(scene)
        full = asyncio.create_task(containers.fill_disk(name, 4 * scene.scale.away))
        if name == "mongodb":
            await asyncio.sleep(1.0)
            # Write to the disk now; by itself MongoDB does once a minute.
            with suppress(PyMongoError):
                await scene.watched.grants.database.client.admin.command("fsync", maxTimeMS=5000)
        await full
        await containers.ready()
        await scene.more(scene.scale.tokens // 8)

    return deed


async def clocks_skewed(scene: Scene) -> None:
    """Further instances with wrong clocks share the load, and leave."""
    containers = containers_of(scene)
    await containers.compose("up", "-d", "--no-deps", "--no-recreate", *SKEWED)
    await containers.ready()
    await scene.more(scene.scale.tokens // 2)
    for name in SKEWED:
        (container,) = await containers.containers(name)
        logged = await docker("logs", container)
        assert "clock_differs_from_mongodb" in logged, f"{name} has not noticed its clock:\n{logged[-2000:]}"
    await containers.compose("rm", "--stop", "--force", *SKEWED)
    await scene.more(scene.scale.tokens // 8)


async def scaled(scene: Scene) -> None:
    """One instance of each, then several, then as usual; while there are several, each has a fair part of the load."""
    containers = containers_of(scene)
    await containers.scale(dict.fromkeys(USUAL, 1))
    await scene.more(scene.scale.tokens // 8)
    await containers.scale(SCALED)
    await containers.ready()
    await _known_to_the_edge(scene)
    await eventually(partial(_load_is_shared, scene), SHARED_WITHIN)
    await containers.scale(USUAL)
    await scene.more(scene.scale.tokens // 8)


async def _load_is_shared(scene: Scene) -> bool:
    """Whether every instance does a fair part of the work, from now on."""
    containers = containers_of(scene)
    before = await _done(containers)
    await asyncio.gather(scene.more(scene.scale.tokens), _verify(scene, 40))
    done = await _done(containers)
    for service, instances in done.items():
        parts = [work - before[service][container] for container, work in instances.items()]
        assert min(parts) >= SHARE * sum(parts) / len(parts), f"{service}: the load is shared as {parts}"
    return True


async def _known_to_the_edge(scene: Scene) -> None:
    """Wait until every new instance gets requests."""
    containers = containers_of(scene)
    before = await _done(containers)

    async def all_work() -> bool:
        await _verify(scene, 4)
        done = await _done(containers)
        return all(work > before[service][each] for service, found in done.items() for each, work in found.items())

    await eventually(all_work, 180, every=0.2)


async def _done(containers: Containers) -> dict[str, dict[str, float]]:
    """What each instance has done, by service and container."""
    return {
        service: {each: await containers.metric(each, metric) for each in await containers.containers(service)}
        for service, metric in WORK.items()
    }


async def _verify(scene: Scene, times: int) -> None:
    """Use a token at the gateway so many times."""
    token = next(iter(scene.load.holdings.tokens.values()))
    for _ in range(times):
        answer = await scene.load.holdings.tenants[token.grant_id].verified(token.access)
        assert answer.status < 500, answer.raw


async def rolled(scene: Scene) -> None:
    """`make roll`: every container of every service is replaced by a new one, and the edge reads its configuration."""
    containers = containers_of(scene)
    before = {each["Id"] for each in await containers.inspected()}
    await containers.roll()
    for service in ("token", "authorization", "revocation", "notifier", "management", "gateway"):
        kept = before & set(await containers.containers(service))
        assert not kept, f"{service} was not replaced: {kept}"
    await scene.more(scene.scale.tokens // 8)


async def edges_rolled(scene: Scene) -> None:
    """Two edges are replaced one after the other by `make roll edge`; then one is left, and the other stops."""
    containers = containers_of(scene)
    await containers.scale({"edge": 2})
    await containers.ready()
    before = set(await containers.containers("edge"))
    await containers.roll("edge")
    assert not before & set(await containers.containers("edge"))
    await scene.more(scene.scale.tokens // 4)
    await containers.scale({"edge": 1})
    await scene.more(scene.scale.tokens // 8)


def _rows_of(target: str, what: str, *groups: tuple[str, ...]) -> list[Row]:
    of_broker = target == "rabbitmq"
    return [
        Row(
            f"{target} {name}",
            f"{what} is {described}",
            during=broken(fault, *groups),
            processes=(),
            flawless=of_broker,
            kills_broker=of_broker,
        )
        for name, (fault, described) in FAULTS.items()
    ]


CONTAINER_ROWS: tuple[Row, ...] = (
    *_rows_of("services", "one container of token, notifier and gateway, then of every other service,", *TOGETHER),
    *_rows_of("edge", "the only edge", ("edge",)),
    *_rows_of("rabbitmq", "RabbitMQ", ("rabbitmq",)),
    *_rows_of("mongodb", "MongoDB", ("mongodb",)),
    Row(
        "scaled",
        "one instance of token, gateway and notifier; then 3, 2 and 2, each of which must do its part; then 2, 2 and 2",
        during=scaled,
        processes=(),
        flawless=True,
    ),
    Row(
        "rolled",
        "`make roll`: every container of every service is replaced, and the edge reads its configuration again",
        during=rolled,
        processes=(),
        flawless=True,
    ),
    Row(
        "edges rolled",
        "two edges are replaced one after the other by `make roll`, and one of them is stopped for good",
        during=edges_rolled,
        processes=(),
        flawless=True,
    ),
    Row(
        "clocks skewed",
        "further instances of token, authorization and notifier, with clocks five minutes wrong, share the load",
        during=clocks_skewed,
        processes=(),
        flawless=True,
    ),
    Row(
        "rabbitmq disk full",
        "RabbitMQ's disk is filled beyond its limit of free space for a while, so it stops all publishers",
        during=full_disk("rabbitmq"),
        processes=(),
        flawless=True,
        kills_broker=True,
    ),
    Row(
        "mongodb disk full",
        "MongoDB's disk is filled to the last byte for a while",
        during=full_disk("mongodb"),
        processes=(),
    ),
)
