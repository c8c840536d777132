"""How many workers there are, what they send to the parent, and how their metrics are added up."""

import asyncio
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from libs.logging import _atomic_pieces
from libs.serving import _Acceptor, listening, listening_for_workers
from libs.settings import WrongSetting
from libs.telemetry import ACROSS_WORKERS, families
from libs.workers.channel import LARGEST, MOST_UNREAD, Channel, Overflow
from libs.workers.membership import Membership
from libs.workers.metric_families import Families
from libs.workers.number import MOST, available_cores, worker_count
from tests.acceptance.programs import ROOT
from tests.eventually import eventually

CORES = len(os.sched_getaffinity(0))


@pytest.fixture(name="groups")
def _groups(tmp_path: Path) -> Path:
    """A directory like /sys/fs/cgroup, with the process in the group `service.slice/token`."""
    (tmp_path / "service.slice" / "token").mkdir(parents=True)
    (tmp_path / "own").write_text("1:name=other:/elsewhere\n0::/service.slice/token\n")
    return tmp_path


def cores(groups: Path) -> int:
    return available_cores(groups, groups / "own")


def test_cores_are_those_of_the_cpu_affinity(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a quota, the CPUs on which the process may run count, not those of the machine."""
    assert cores(groups) == CORES
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4, 7})
    assert cores(groups) == 3


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        pytest.param("400000 100000\n", 4, id="whole"),
        pytest.param("350000 100000\n", 3, id="rounded-down"),
        pytest.param("50000 100000\n", 1, id="below-one"),
        pytest.param("max 100000\n", 16, id="none"),
        pytest.param("nonsense\n", 16, id="unreadable"),
    ],
)
@pytest.mark.parametrize("place", ["", "service.slice", "service.slice/token"], ids=["root", "above", "own"])
def test_cores_are_limited_by_quotas(
    groups: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int, place: str
) -> None:
    """The smallest quota of the process's control group and those above it counts, rounded down, but one at least."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (groups / place / "cpu.max").write_text(quota)
    assert cores(groups) == expected


def test_the_older_control_groups_are_known(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cgroup v1 has quota and period in two files; -1 is no quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (groups / "cpu").mkdir()
    (groups / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (groups / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores(groups) == 16
    (groups / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    assert cores(groups) == 2


def test_auto_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with more cores, `auto` is the largest number that may be set."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4 * MOST)))
    assert worker_count("auto") == MOST


def test_a_membership_survives_the_command_line() -> None:
    """The parent writes what the worker reads."""
    membership = Membership(2, 4, 9, (3, 4, 5, 6))
    assert Membership.parse(str(membership)) == membership


@pytest.mark.parametrize("text", ["", "1", "1/2", "1/2:3", "1/2:3:", "1/2:x:4", "one/2:3:4"])
def test_another_membership_is_refused(text: str) -> None:
    """argparse reports a ValueError as a wrong option."""
    with pytest.raises(ValueError):
        Membership.parse(text)


async def test_frames_arrive_whole_and_in_order() -> None:
    """Frames of any size arrive as they were sent, and end when the sender closes."""
    one, other = socket.socketpair()
    sender, receiver = await Channel.over(one), await Channel.over(other)
    for size in (0, 1, 100_000, 3):
        sender.send(kind="report", text="x" * size)
    sender.close()
    assert [len(frame["text"]) async for frame in receiver.frames()] == [0, 1, 100_000, 3]
    sender.send(kind="ready")  # to a closed channel: nothing happens
    receiver.close()


@pytest.mark.parametrize(
    "sent", [(LARGEST + 1).to_bytes(4, "big"), b"\0\0\0\2{]", b"\0\0"], ids=["huge", "no-json", "cut"]
)
async def test_anything_else_ends_a_channel(sent: bytes) -> None:
    """What is not a frame ends the frames, and is not read."""
    one, other = socket.socketpair()
    receiver = await Channel.over(other)
    one.sendall(sent)
    one.close()
    assert [frame async for frame in receiver.frames()] == []
    receiver.close()


def one_worker(**values: float) -> Families:
    """Metrics of a worker: a counter, a histogram's bucket, and gauges that are summed, or the largest or least."""
    found = Families()
    calls = found.family("calls", "Calls.", "counter")
    calls.add("calls_total", (("route", "/"),), values["calls"])
    calls.add("calls_created", (("route", "/"),), values["began"])
    found.family("seconds", "Seconds.", "histogram").add("seconds_bucket", (("le", "1.0"),), values["fast"])
    for combine in ("sum", "max", "min"):
        found.family(f"gauge_{combine}", "A gauge.", "gauge", combine).add(f"gauge_{combine}", (), values["gauge"])
    return found


def test_metrics_are_added_up_by_what_they_are() -> None:
    """Counters and histograms are summed, gauges as declared; a counter began when the first one did."""
    total = Families()
    total.add(one_worker(calls=3, began=20, fast=2, gauge=5))
    total.add(Families.from_json(one_worker(calls=4, began=10, fast=1, gauge=7).as_json()))
    values = {name: value for family in total for (name, _), value in family.samples.items()}
    assert values == {
        "calls_total": 7,
        "calls_created": 10,
        "seconds_bucket": 3,
        "gauge_sum": 12,
        "gauge_max": 7,
        "gauge_min": 5,
    }


def test_of_a_worker_that_has_ended_only_the_counters_stay() -> None:
    """Its gauges are gone with it."""
    total = Families()
    total.add(one_worker(calls=3, began=20, fast=2, gauge=5), only_growing=True)
    assert {name for family in total for name, _ in family.samples} == {
        "calls_total",
        "calls_created",
        "seconds_bucket",
    }


def test_every_gauge_says_how_it_is_combined() -> None:
    """A new gauge needs an entry: whether workers add up, or which of them counts."""
    families()
    gauges = {metric.name for metric in REGISTRY.collect() if metric.type == "gauge"}
    ours = {name for name in gauges if name.startswith(("tokenwire_", "process_", "python_"))}
    assert ours - {"process_start_time_seconds"} <= ACROSS_WORKERS.keys()
    assert {name for name in ACROSS_WORKERS if name.startswith("tokenwire_")} <= gauges
    assert set(ACROSS_WORKERS.values()) <= {"sum", "max", "min"}


def test_the_docs_say_which_gauges_are_summed() -> None:
    """docs/operations.md lists the gauges that are summed or the least; all others are the largest."""
    text = (ROOT / "docs" / "operations.md").read_text()
    for name, combine in ACROSS_WORKERS.items():
        row = next((line for line in text.splitlines() if f"`{name}`" in line and "| the sum" in line), "")
        assert bool(row) == (combine == "sum"), name


def test_lines_of_several_processes_are_written_in_pieces_that_a_pipe_takes_whole() -> None:
    """Lines are kept together up to 4096 bytes; a longer one is a piece of its own."""
    lines = [b"a" * 3000 + b"\n", b"b" * 1000 + b"\n", b"c" * 200 + b"\n", b"d" * 9000 + b"\n", b"e\n"]
    pieces = list(_atomic_pieces(lines))
    assert b"".join(pieces) == b"".join(lines)
    assert [len(piece) for piece in pieces] == [4002, 201, 9001, 2]
    assert list(_atomic_pieces([])) == [b""]


async def test_a_process_that_does_not_read_is_noticed() -> None:
    """What waits for a process that hangs is bounded."""

    one, other = socket.socketpair()
    sender = await Channel.over(one)
    with other:
        text = "x" * (MOST_UNREAD // 4)
        for _ in range(5):
            sender.send(text=text)
        with pytest.raises(Overflow):
            sender.send(text=text)
        sender.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_the_sockets_of_workers_have_one_port_that_no_other_start_joins(host: str) -> None:
    """All are on the same port; with or without workers, a second start on it is refused."""
    origin = {"host_from": "--host", "port_from": "--port"}
    with ExitStack() as opened:
        sockets = [opened.enter_context(each) for each in listening_for_workers(host, 0, 3, **origin)]
        (port,) = {each.getsockname()[1] for each in sockets}
        with pytest.raises(WrongSetting, match=r"--port: cannot listen on .*: Address already in use"):
            listening_for_workers(host, port, 2, **origin)
        with pytest.raises(WrongSetting, match=r"--port: cannot listen on .*: Address already in use"):
            listening(host, port, **origin)


async def test_a_socket_is_taken_and_left_without_a_trace() -> None:
    """A worker that stands in for another one, and stops doing so, keeps no descriptor, and the socket stays open."""
    listener = listening("127.0.0.1", 0, host_from="--host", port_from="--port")
    acceptor, descriptors = _Acceptor([listener]), Path("/proc/self/fd")
    taken: list[asyncio.Protocol] = []

    def connect() -> asyncio.Protocol:
        taken.append(asyncio.Protocol())
        return taken[-1]

    await asyncio.sleep(0)
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        await acceptor.accept_on(connect, {0})  # type: ignore[arg-type]
        await acceptor.accept_on(connect, set())  # type: ignore[arg-type]
        await asyncio.sleep(0)
    assert len(list(descriptors.iterdir())) <= before
    waiting = socket.create_connection(listener.getsockname())
    assert taken == []
    await acceptor.accept_on(connect, {0})  # type: ignore[arg-type]
    await eventually(lambda: len(taken) == 1, within=10)
    waiting.close()
    acceptor.close()
