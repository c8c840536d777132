"""Several workers of a service on one port: they share requests, and stop, die and are replaced without losing any."""

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.programs import Program, run_python
from tests.acceptance.served_by_workers import FAILS, STATUS
from tests.eventually import eventually
from tests.ports import free_port
from tests.processes import runs

MODULE = "tests.acceptance.served_by_workers"
CLIENTS = 32
PER_CONNECTION = 20
"""Requests that a client sends on a connection before it opens another one."""
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
ONLY_REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"


async def asked(port: int, request: bytes) -> str:
    """The body of the response on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return (await reader.read()).decode().partition("\r\n\r\n")[2]
    finally:
        writer.close()


@dataclass
class Served:
    """A running service with workers."""

    program: Program
    port: int

    @property
    def pids(self) -> dict[int, int]:
        """Process id of the newest process of each worker, by the worker's number."""
        found: dict[int, int] = {}
        for pid in sorted(
            map(int, Path(f"/proc/{self.program.pid}/task/{self.program.pid}/children").read_text().split())
        ):
            command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if "--worker" in command and "-c" not in command:
                found[int(command[command.index("--worker") + 1].partition("/")[0])] = pid
        return found

    async def metrics(self) -> dict[str, float]:
        """The value of each series."""
        text = await asked(self.port, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        series = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in series}

    async def are_up(self, number: int) -> bool:
        """Whether exactly so many workers are up."""
        metrics = await self.metrics()
        return sum(value for name, value in metrics.items() if name.startswith("tokenwire_worker_up{")) == number

    def logged(self, event: str) -> list[str]:
        """The log lines of this event."""
        return [line for line in self.program.output.splitlines() if f'"event":"{event}"' in line]


@asynccontextmanager
async def served(home: Path, workers: int = 2, settings: Mapping[str, str] | None = None) -> AsyncIterator[Served]:
    """A service whose workers are all up; killed at the end if it still runs."""
    port = free_port()
    given = {"TOKENWIRE_WORKERS": str(workers), "TOKENWIRE_LINGER": "0.3", **(settings or {})}
    program = Program(MODULE, "--port", str(port), own_environment=given, output=home / "output")
    program.start()
    try:
        await eventually(lambda: '"event":"workers_ready"' in program.output, within=120)
        yield Served(program, port)
    finally:
        program.close()


@dataclass
class Load:
    """What became of the requests of all clients."""

    outcomes: Counter[str]
    slowest: float = 0.0

    @property
    def lost(self) -> int:
        return self.outcomes["lost"] + self.outcomes["refused"]


@asynccontextmanager
async def load(port: int, *, stops: bool = False) -> AsyncIterator[Load]:
    """Clients that send requests on kept connections, and open others all the time, until the block ends.

    If the service `stops`, a refused connection ends a client instead of counting as a failure.
    """
    seen, ending = Load(Counter()), asyncio.Event()
    clients = [asyncio.create_task(_client(port, seen, ending, stops)) for _ in range(CLIENTS)]
    try:
        await eventually(lambda: seen.outcomes["answered"] > 5 * CLIENTS)
        yield seen
    finally:
        ending.set()
        await asyncio.gather(*clients)


async def _client(port: int, seen: Load, ending: asyncio.Event, stops: bool) -> None:
    while not ending.is_set():
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            if stops:
                return
            seen.outcomes["refused"] += 1
            await asyncio.sleep(0.05)
            continue
        try:
            for _ in range(PER_CONNECTION):
                if reader.at_eof():
                    break  # closed while idle: nothing is lost
                writer.write(REQUEST + b"body")
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(2)
                assert " 200 " in head
                seen.outcomes["answered"] += 1
                seen.slowest = max(seen.slowest, time.monotonic() - began)
                if "connection: close" in head:
                    break
                await asyncio.sleep(0.01)
                began = time.monotonic()
        except (asyncio.IncompleteReadError, ConnectionError):
            seen.outcomes["lost"] += 1
        finally:
            writer.close()


def never_smaller(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """The counters that became smaller, which Prometheus would take for a restart of the service."""
    ends = ("_total", "_count", "_sum", "_bucket")
    counters = [name for name in before if name.partition("{")[0].endswith(ends)]
    assert counters
    return [name for name in counters if after.get(name, 0.0) < before[name]]


async def test_workers_share_requests_and_their_metrics_are_summed(tmp_path: Path) -> None:
    """Each worker gets its share of the connections, and `/metrics` of any of them has the requests of all."""
    async with served(tmp_path) as service:
        number = 400
        for _ in range(number // 40):
            await asyncio.gather(*(asked(service.port, ONLY_REQUEST + b"body") for _ in range(40)))
        seen = [await service.metrics() for _ in range(8)]
        for metrics in seen:
            assert metrics['tokenwire_http_requests_total{method="POST",route="/",status="200"}'] == number
            assert metrics['tokenwire_http_request_seconds_bucket{le="+Inf",route="/"}'] == number
            assert metrics["tokenwire_workers"] == 2
        shares = [seen[-1][f'tokenwire_worker_http_requests_total{{worker="{each}"}}'] for each in (1, 2)]
        requests = sum(value for name, value in seen[-1].items() if name.startswith("tokenwire_http_requests_total"))
        assert sum(shares) == requests
        assert min(shares) > 0.3 * number, shares
        resident = sum(value for name, value in seen[-1].items() if "worker_resident_memory_bytes" in name)
        assert resident < seen[-1]["process_resident_memory_bytes"], "the parent's memory counts, too"
        assert never_smaller(seen[0], seen[-1]) == []
        assert await service.program.stop() == 0
    requests_logged = service.logged("request")
    assert {re.findall(r'"worker":(\d)', line)[0] for line in requests_logged} == {"1", "2"}
    assert len(service.logged("stopped")) == 3, "both workers, and the parent"


async def test_a_killed_worker_comes_back_while_the_other_serves(tmp_path: Path) -> None:
    """Only the requests that the killed worker held are lost; connections for it go to the other one meanwhile."""
    async with served(tmp_path) as service:
        async with load(service.port) as seen:
            before, pids = await service.metrics(), service.pids
            os.kill(pids[1], signal.SIGKILL)
            await eventually(lambda: service.logged("worker_ended"))
            await asyncio.sleep(0.5)  # until the clients have noticed
            held = seen.lost
            assert held <= CLIENTS
            await eventually(lambda: service.pids.get(1, pids[1]) != pids[1])
            await eventually(lambda: service.are_up(2))
            answered = seen.outcomes["answered"]
            await eventually(lambda: seen.outcomes["answered"] > answered + 10 * CLIENTS)
            after = await service.metrics()
        assert seen.lost == held, "after it was gone, nothing was lost"
        assert seen.outcomes["answered"] > 0
        assert never_smaller(before, after) == []
        assert after['tokenwire_worker_restarts_total{worker="1"}'] == 1
        assert service.pids[2] == pids[2]
        (line,) = service.logged("worker_ended")
        assert '"how":"was killed by SIGKILL"' in line
        assert '"worker":1' in line
        assert await service.program.stop() == 0


async def test_a_worker_that_does_not_come_back_is_stood_in_for(tmp_path: Path) -> None:
    """While a worker cannot be started, every connection is served at once by the other one."""
    fails = tmp_path / "fails"
    async with served(tmp_path, settings={FAILS: str(fails)}) as service:
        fails.touch()
        os.kill(service.pids[2], signal.SIGKILL)
        await eventually(lambda: len(service.logged("worker_ended")) >= 3)
        async with load(service.port) as seen:
            await asyncio.sleep(1)
        assert seen.lost == 0, seen.outcomes
        assert (await service.metrics())['tokenwire_worker_up{worker="2"}'] == 0
        fails.unlink()
        await eventually(lambda: service.are_up(2))
        assert await service.program.stop() == 0
    delays = [float(re.findall(r'"restart_in_seconds":([0-9.]+)', line)[0]) for line in service.logged("worker_ended")]
    assert delays[:3] == [0.5, 1.0, 2.0]


async def test_sighup_replaces_every_worker_without_a_failed_request(tmp_path: Path) -> None:
    """One after the other is replaced, each when its successor is ready. No request under load fails meanwhile.

    The successors have read the files of the settings again.
    """
    file = tmp_path / "public-url"
    file.write_text("https://before.example.test")
    async with served(tmp_path, settings={"TOKENWIRE_PUBLIC_URL_FILE": str(file)}) as service:
        async with load(service.port) as seen:
            before, pids = await service.metrics(), service.pids
            file.write_text("https://after.example.test")
            os.kill(service.program.pid, signal.SIGHUP)
            await eventually(lambda: service.logged("workers_restarted"))
            await eventually(lambda: service.are_up(2))
            after = await service.metrics()
        assert seen.lost == 0, seen.outcomes
        assert pids.keys() == service.pids.keys() == {1, 2}
        assert not set(pids.values()) & set(service.pids.values())
        assert never_smaller(before, after) == []
        assert after['tokenwire_worker_restarts_total{worker="1"}'] == 0
        assert await service.program.stop() == 0
    lines = [line for line in service.program.output.splitlines() if re.search(r'"event":"(listening|stopped)"', line)]
    events = [(re.findall(r'"event":"(\w+)"', line)[0], re.findall(r'"worker":(\d)', line)) for line in lines]
    urls = [re.findall(r"https://(\w+)", line)[0] for line in service.logged("listening")]
    assert urls == ["before", "before", "after", "after"]
    assert events[2:6] == [("listening", ["1"]), ("stopped", ["1"]), ("listening", ["2"]), ("stopped", ["2"])]


async def test_a_worker_whose_successor_does_not_start_stays(tmp_path: Path) -> None:
    """If the new process is not ready, the old ones serve on, and the log says so."""
    fails = tmp_path / "fails"
    async with served(tmp_path, settings={FAILS: str(fails)}) as service:
        fails.touch()
        pids = service.pids
        os.kill(service.program.pid, signal.SIGHUP)
        await eventually(lambda: service.logged("worker_not_replaced"))
        async with load(service.port) as seen:
            pass
        assert seen.lost == 0
        assert service.pids == pids
        assert service.logged("workers_restarted") == []
        assert await service.program.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "sigint"])
async def test_no_request_is_lost_when_the_workers_stop(tmp_path: Path, number: signal.Signals) -> None:
    """A signal to the parent stops all workers; requests in progress and connections in the queues are served."""
    async with served(tmp_path, workers=3) as service:
        async with load(service.port, stops=True) as seen:
            slow = asyncio.create_task(asked(service.port, ONLY_REQUEST + b"slow"))
            await asyncio.sleep(0.2)
            os.kill(service.program.pid, number)
            assert await service.program.ended() == 0
            assert (await slow).strip() == "4"
        assert seen.lost == 0, seen.outcomes
    assert '"worker"' not in service.logged("stopped")[-1]
    assert service.logged("worker_failed_to_stop") == []


async def test_a_hung_worker_is_named_in_the_metrics(tmp_path: Path) -> None:
    """A worker that does not respond delays `/metrics` for a second, its counters stay, and `worker_up` is 0."""
    async with served(tmp_path) as service:
        async with load(service.port):
            pass
        before = await service.metrics()
        os.kill(service.pids[1], signal.SIGSTOP)
        try:
            # The hung worker has connections of its own; those of the other one respond.
            async def responds() -> dict[str, float]:
                async with asyncio.timeout(3):
                    return await service.metrics()

            async def first() -> dict[str, float] | None:
                try:
                    return await responds()
                except TimeoutError:
                    return None

            after = await eventually(first)
        finally:
            os.kill(service.pids[1], signal.SIGCONT)
        assert (after['tokenwire_worker_up{worker="1"}'], after['tokenwire_worker_up{worker="2"}']) == (0, 1)
        assert never_smaller(before, after) == []
        assert 'tokenwire_worker_resident_memory_bytes{worker="1"}' not in after
        await eventually(lambda: service.are_up(2))
        assert await service.program.stop() == 0


async def test_connections_of_a_hung_worker_are_served_by_another(tmp_path: Path) -> None:
    """After two pings without a response, another worker takes the connections of the one that hangs, until it
    responds again.
    """
    async with served(tmp_path) as service:
        hung = service.pids[1]
        os.kill(hung, signal.SIGSTOP)
        try:
            waiting = [asyncio.create_task(asked(service.port, ONLY_REQUEST + b"body")) for _ in range(30)]
            done, late = await asyncio.wait(waiting, timeout=60)
            assert not late, "those in its queue, too"
            assert {task.result().strip() for task in done} == {"4"}
        finally:
            os.kill(hung, signal.SIGCONT)
        await eventually(lambda: service.are_up(2))
        assert service.pids[1] == hung, "it was not killed"
        assert await service.program.stop() == 0


async def test_a_worker_that_stays_hung_is_replaced(tmp_path: Path) -> None:
    """A worker that leaves pings unanswered for half a minute is killed, and started again."""
    async with served(tmp_path) as service:
        hung = service.pids[1]
        os.kill(hung, signal.SIGSTOP)
        await eventually(lambda: service.logged("worker_hung"), within=120)
        await eventually(lambda: service.pids.get(1, hung) != hung)
        await eventually(lambda: service.are_up(2))
        assert await service.program.stop() == 0


async def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """If the parent is killed, its workers stop by themselves, and free the port."""
    async with served(tmp_path) as service:
        pids = service.pids
        service.program.kill()
        await eventually(lambda: not any(map(runs, pids.values())))


async def test_the_parent_is_small(tmp_path: Path) -> None:
    """The parent loads no library of the services: it takes less than half of a worker's memory."""
    async with served(tmp_path) as service:
        assert resident(service.program.pid) < resident(service.pids[1]) / 2
        assert await service.program.stop() == 0


def resident(pid: int) -> int:
    """Resident memory in pages."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


async def test_workers_that_cannot_start_end_the_parent_with_one_line(tmp_path: Path) -> None:
    """If no worker was ever ready, the parent ends with the status of the first that failed, and says so once."""
    (tmp_path / "fails").touch()
    outcome = await run_python(
        MODULE, "--port", str(free_port()), TOKENWIRE_WORKERS="2", settings={FAILS: str(tmp_path / "fails")}
    )
    assert outcome.status == STATUS
    said = [line for line in outcome.complaints.splitlines() if line != "this worker cannot start"]
    assert len(said) == 1
    assert re.fullmatch(
        rf"python -m services\.served: worker [12] ended with status {STATUS} before it was ready", said[0]
    )


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        pytest.param({"TOKENWIRE_LINGER": "long"}, "TOKENWIRE_LINGER: ", id="setting"),
        pytest.param({"TOKENWIRE_HOST": "no.such.host.invalid"}, "TOKENWIRE_HOST: cannot listen on ", id="host"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": "nowhere"}, "OTEL_EXPORTER_OTLP_ENDPOINT: ", id="built-with"),
    ],
)
async def test_a_wrong_setting_is_named_once(settings: Mapping[str, str], complaint: str) -> None:
    """With several workers, a wrong setting is one line, as with one process."""
    outcome = await run_python(MODULE, "--port", str(free_port()), TOKENWIRE_WORKERS="3", settings=settings)
    assert outcome.status == 1
    assert outcome.complaint.startswith(f"python -m services.served: {complaint}")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_port_in_use_is_refused(tmp_path: Path, workers: str) -> None:
    """Another start does not join the workers on their port, whatever its own number of workers is."""
    async with served(tmp_path) as service:
        outcome = await run_python(MODULE, "--port", str(service.port), TOKENWIRE_WORKERS=workers)
        assert outcome.status == 1
        assert f"--port: cannot listen on 127.0.0.1:{service.port}: Address already in use" in outcome.complaint
        assert await service.program.stop() == 0


async def test_one_worker_is_one_process(tmp_path: Path) -> None:
    """By default there is no parent: the process that was started serves itself."""
    port = free_port()
    program = Program(MODULE, "--port", str(port), own_environment={}, output=tmp_path / "output")
    program.start()
    try:
        await eventually(lambda: '"event":"listening"' in program.output, within=120)
        service = Served(program, port)
        assert service.pids == {}
        metrics = await service.metrics()
        assert metrics["tokenwire_workers"] == 1
        assert not [name for name in metrics if "{worker=" in name]
        assert '"worker"' not in program.output
        assert await program.stop() == 0
    finally:
        program.close()
