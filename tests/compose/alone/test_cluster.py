"""One node of each cluster of compose.cluster.yaml is killed and cut off under load. `-s` shows the report."""

import logging
import sys

import pytest

from tests.eventually import eventually
from tests.faults import report
from tests.faults.cluster import CLUSTER_ROWS, SCALE, cluster_world, queue_members
from tests.faults.rows import play

SEED = "cluster"
SETTLED_WITHIN = 150.0
"""Seconds for what a broken node has delayed: its queues' consumers, the notifier's leases and retries."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The rows break the recorder's connection on purpose."""
    for name in ("aiormq", "aio_pika"):
        caplog.set_level(logging.CRITICAL, name)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def test_a_node_of_each_cluster_may_fail(image: str) -> None:
    """Tokens go on within the failover time, which is a few elections of MongoDB, and nothing is lost, made up or
    doubled, while one node is killed or cut off and comes back.
    """
    async with cluster_world(f"{image}-cluster", image) as world:

        async def every_queue_has_three() -> bool:
            members = await queue_members(world.containers)
            return len(members) == 9 and set(members.values()) == {3}

        await eventually(every_queue_has_three, 90, every=1)
        say(f"\n{report.heading()}")
        played = []
        for row in CLUSTER_ROWS:
            played.append(await play(world, row, SCALE, SEED))
            say(report.line(await played[-1].judged()))
        complaints: list[str] = []
        for each in played:
            await each.settled(SETTLED_WITHIN)
            result = await each.judged()
            complaints += [f"{each.row.name}: {complaint}" for complaint in result.complaints]
            complaints += [f"{each.row.name}: {complaint}" for complaint in await each.unbalanced()]
        within = await world.failover_within()
        assert len(world.pauses) == len(CLUSTER_ROWS)
        for name, seconds in world.pauses.items():
            say(f"{name}: no token for at most {seconds:.1f} s (at most {within:.0f})")
            if seconds > within:
                complaints.append(f"{name}: no token for {seconds:.1f} s")
        assert not complaints
