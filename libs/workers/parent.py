"""The parent process: it starts the workers, restarts those that end, replaces them on SIGHUP, and stops them.

It does nothing else: no requests, no database, no bus. It holds the listening sockets, one for each worker, all on the
same port. So no connection is lost while a worker is replaced: its socket stays open, and a socket whose worker is away
is served by another worker meanwhile.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import structlog

from libs.cancellation import cancel_and_wait
from libs.processes import ending_with_this_process
from libs.workers.channel import Channel, Frame, Overflow
from libs.workers.membership import Membership
from libs.workers.metric_families import Families
from libs.workers.own_series import add_parent, add_worker

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds before a worker that ended is started again; the delay doubles while it keeps ending early."""
STABLE_AFTER = 30.0
"""A worker that was ready for so many seconds did not end early."""
EARLY_ENDS = 5
"""So many workers in a row that end before they are ready, while none is ready, end the parent."""
READY_WITHIN = 60.0
"""Seconds until a worker that replaces another one must be ready."""
STOP_WITHIN = 16.0
"""Seconds beyond the linger time after which a worker that should stop is killed."""
COLLECT_WITHIN = 1.0
"""Seconds that a worker has to report its metrics."""
PING_EVERY = 5.0
"""Seconds between two pings to each worker."""
AWAY_AFTER, HUNG_AFTER = 1, 6
"""Unanswered pings after which another worker stands in, and after which the worker is killed."""
_IN_ORDER = (0, -signal.SIGTERM)
"""Statuses of a process that was told to stop; the second, if it was still starting."""

log = structlog.get_logger("workers")


@dataclass(eq=False)
class _Process:
    """One process of a worker."""

    number: int
    process: asyncio.subprocess.Process
    channel: Channel
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ready_since: float = 0.0
    stopping: bool = False
    unanswered: int = 0
    accepts: frozenset[int] = frozenset()
    families: Families = field(default_factory=Families)
    """Its metrics when it last reported them."""
    reports: dict[int, asyncio.Future[None]] = field(default_factory=dict)

    @property
    def serves(self) -> bool:
        return self.ready.is_set() and not self.stopping and not self.ended.is_set()

    @property
    def responds(self) -> bool:
        return self.serves and self.unanswered <= AWAY_AFTER

    def send(self, **frame: object) -> None:
        """Send it a frame, or kill it if it has not read for too long."""
        try:
            self.channel.send(**frame)
        except Overflow:
            log.error("worker_hung", worker=self.number, pid=self.process.pid)
            self.kill()

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)


@dataclass(eq=False)
class _Worker:
    """A worker: its number, and its process, which may be replaced."""

    number: int
    current: _Process | None = None
    early_ends: int = 0
    """How often in a row it has ended early."""
    restarts: int = 0
    restart: asyncio.TimerHandle | None = None
    past: Families = field(default_factory=Families)
    """Counters of its processes that have ended."""

    def cancel_restart(self) -> None:
        if self.restart is not None:
            self.restart.cancel()
            self.restart = None


class Workers:
    """The workers of one service."""

    def __init__(
        self,
        command: Sequence[str],
        sockets: Sequence[socket.socket],
        *,
        linger: float,
        ready: Callable[[], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._environment = {**os.environ, **(environment or {})}
        self._sockets = sockets
        self._stop_within = linger + STOP_WITHIN
        self._on_ready = ready
        """Called once, when every worker is ready."""
        self._workers = [_Worker(number) for number in range(1, len(sockets) + 1)]
        self._processes: set[_Process] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._launching = 0
        """Processes that are being started, and are not in `_processes` yet."""
        self._rolling: asyncio.Task[None] | None = None
        self._replacing: _Worker | None = None
        self._roll_again = False
        self._collecting: asyncio.Task[Families] | None = None
        self._numbers = count()
        self._early_ends = 0
        self._was_ready = self._all_were_ready = False
        self._stopping = False
        self._finished = asyncio.Event()
        self._status = 0
        self.complaint = ""
        """Why the workers were given up; empty if they were stopped in order."""

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; the exit status. SIGHUP replaces the workers one by one."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._replace_all)
        await asyncio.gather(*map(self._start, self._workers))
        self._spawn(self._ping_forever())
        await self._finished.wait()
        await cancel_and_wait(*self._tasks)
        return self._status

    def stop(self) -> None:
        """Stop every worker in order; called again, end their linger time."""
        if not self._stopping:
            self._stopping = True
            # The workers have the sockets, too. The last one that closes a socket serves what waits in its queue.
            for listener in self._sockets:
                listener.close()
            for worker in self._workers:
                worker.cancel_restart()
            self._spawn(self._kill_late())
        for process in self._processes:
            process.stopping = True
            process.signal(signal.SIGTERM)
        self._finish_if_all_ended()

    # Starting

    async def _start(self, worker: _Worker) -> None:
        worker.restart = None
        if self._stopping:
            return
        try:
            worker.current = await self._launched(worker)
        except OSError as error:  # no memory, or too many processes
            delay = self._restart_later(worker)
            log.error("worker_not_started", worker=worker.number, reason=error.strerror, restart_in_seconds=delay)

    async def _launched(self, worker: _Worker) -> _Process:
        self._launching += 1
        try:
            return await self._launch(worker)
        finally:
            self._launching -= 1
            self._finish_if_all_ended()

    async def _launch(self, worker: _Worker) -> _Process:
        ours, its = socket.socketpair()
        with its:
            membership = Membership(
                worker.number, len(self._workers), its.fileno(), tuple(each.fileno() for each in self._sockets)
            )
            process = await asyncio.create_subprocess_exec(
                *ending_with_this_process([*self._command, "--worker", str(membership)], ending=signal.SIGTERM),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(its.fileno(), *membership.sockets),
                env=self._environment,
                start_new_session=True,  # so that a Ctrl-C in the terminal reaches only the parent
            )
        started = _Process(worker.number, process, await Channel.over(ours))
        self._processes.add(started)
        if self._stopping:  # while it was started
            started.stopping = True
            started.signal(signal.SIGTERM)
        self._spawn(self._attend(worker, started))
        return started

    async def _attend(self, worker: _Worker, process: _Process) -> None:
        """Handle what the process sends, until it ends."""
        try:
            async for frame in process.channel.frames():
                self._received(process, frame)
        except Exception as error:
            log.error("worker_not_understood", worker=process.number, error=type(error).__name__, exc_info=error)
            process.kill()
        status = await process.process.wait()
        process.channel.close()
        process.ended.set()
        self._processes.discard(process)
        worker.past.add(process.families, only_growing=True)
        for waiting in process.reports.values():
            waiting.cancel()
        self._has_ended(worker, process, status)

    def _received(self, process: _Process, frame: Frame) -> None:
        match frame["kind"]:
            case "ready":
                self._is_ready(process)
            case "pong":
                process.unanswered = 0
                self._assign()
            case "report":
                process.families = Families.from_json(frame["families"])
                if waiting := process.reports.pop(frame["number"], None):
                    waiting.set_result(None)
            case "merge":
                self._spawn(self._merge_for(process, frame["number"]))
            case "relay":
                self._relay(process, frame["message"])

    def _is_ready(self, process: _Process) -> None:
        process.ready.set()
        process.ready_since = asyncio.get_running_loop().time()
        self._early_ends, self._was_ready = 0, True
        self._assign()
        if not self._all_were_ready and all(each.current and each.current.serves for each in self._workers):
            self._all_were_ready = True
            self._on_ready()

    def _assign(self) -> None:
        """Tell every worker which sockets it accepts on: its own, and those of workers that are away."""
        if self._stopping:
            return
        wanted: dict[_Process, set[int]] = {each: set() for each in self._processes if each.ready.is_set()}
        able = [each.current for each in self._workers if each.current and each.current.responds]
        for worker in self._workers:
            if worker.current in able:
                wanted[worker.current].add(worker.number)
        for worker in self._workers:
            if worker.current not in able and able:
                wanted[min(able, key=lambda each: len(wanted[each]))].add(worker.number)
        for process, numbers in wanted.items():
            if numbers != process.accepts:
                process.accepts = frozenset(numbers)
                process.send(kind="accept", numbers=sorted(numbers))

    def _relay(self, sender: _Process, message: object) -> None:
        for process in self._processes:
            if process is not sender:
                process.send(kind="relay", message=message)

    # Ending

    def _has_ended(self, worker: _Worker, process: _Process, status: int) -> None:
        expected = process.stopping
        if worker.current is process:
            worker.current = None
        if expected and status not in _IN_ORDER:
            log.error("worker_failed_to_stop", worker=worker.number, pid=process.process.pid, how=how_it_ended(status))
        if self._stopping:
            self._status = self._status or (_exit_status(status) if status not in _IN_ORDER else 0)
            self._finish_if_all_ended()
            return
        self._assign()
        if expected or self._is_given_up(worker, process, status):
            return
        if process.ready.is_set() and self._now() - process.ready_since >= STABLE_AFTER:
            worker.early_ends = 0
        facts = {"worker": worker.number, "pid": process.process.pid, "how": how_it_ended(status)}
        if worker.current is not None or self._replacing is worker:
            log.error("worker_ended", **facts)
            return
        worker.restarts += 1
        log.error("worker_ended", **facts, restart_in_seconds=self._restart_later(worker))

    def _restart_later(self, worker: _Worker) -> float:
        """Start the worker again after a delay, which is returned; it doubles with each end before it was stable."""
        delay = min(FIRST_DELAY * 2.0 ** min(worker.early_ends, 30), LONGEST_DELAY)
        worker.early_ends += 1
        worker.restart = asyncio.get_running_loop().call_later(delay, lambda: self._spawn(self._start(worker)))
        return delay

    def _is_given_up(self, worker: _Worker, process: _Process, status: int) -> bool:
        """Whether no worker can be started at all, so that the parent ends as the process would without workers."""
        if process.ready.is_set() or any(each.ready.is_set() for each in self._processes):
            return False
        self._early_ends += 1
        if self._was_ready and self._early_ends < EARLY_ENDS:
            return False
        self._status = _exit_status(status)
        self.complaint = f"worker {worker.number} {how_it_ended(status)} before it was ready"
        self.stop()
        return True

    def _finish_if_all_ended(self) -> None:
        if self._stopping and not self._processes and not self._launching:
            self._finished.set()

    async def _kill_late(self) -> None:
        await asyncio.sleep(self._stop_within)
        for process in self._processes:
            self._kill_hung(process)

    def _kill_hung(self, process: _Process) -> None:
        log.error("worker_hung", worker=process.number, pid=process.process.pid)
        process.kill()

    async def _ping_forever(self) -> None:
        while True:
            await asyncio.sleep(PING_EVERY)
            for process in [each for each in self._processes if each.serves]:
                if process.unanswered >= HUNG_AFTER:
                    self._kill_hung(process)
                else:
                    process.unanswered += 1
                    process.send(kind="ping")
            self._assign()

    # Replacing

    def _replace_all(self) -> None:
        if self._stopping:
            return
        if self._rolling is not None and not self._rolling.done():
            self._roll_again = True
            return
        self._rolling = self._spawn(self._replaced())

    async def _replaced(self) -> None:
        again = True
        while again and not self._stopping:
            self._roll_again = False
            log.warning("workers_restarting", workers=len(self._workers))
            for worker in self._workers:
                if not await self._replaced_one(worker):
                    break  # the others would not become ready either
            else:
                log.warning("workers_restarted", workers=len(self._workers))
            again = self._roll_again

    async def _replaced_one(self, worker: _Worker) -> bool:
        """Start another process of this worker, and stop the present one when that is ready. False if it was not."""
        if self._stopping:
            return False
        self._replacing = worker
        worker.cancel_restart()
        try:
            new = await self._launched(worker)
        except OSError as error:  # no memory, or too many processes
            log.error("worker_not_replaced", worker=worker.number, reason=error.strerror)
            self._replacing = None
            if worker.current is None:
                self._restart_later(worker)
            return False
        try:
            if not await self._became_ready(new):
                if self._stopping:
                    return False
                log.error("worker_not_replaced", worker=worker.number, pid=new.process.pid)
                new.kill()
                await new.ended.wait()
                return False
            old, worker.current = worker.current, new
            self._assign()
            if old is not None:
                await self._stopped(old)
            return True
        finally:
            self._replacing = None
            if worker.current is None and not self._stopping:
                await self._start(worker)

    async def _became_ready(self, process: _Process) -> bool:
        waiting = [asyncio.create_task(event.wait()) for event in (process.ready, process.ended)]
        await asyncio.wait(waiting, timeout=READY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return process.ready.is_set() and not process.ended.is_set()

    async def _stopped(self, process: _Process) -> None:
        process.stopping = True
        self._assign()
        process.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.ended.wait(), self._stop_within)
        except TimeoutError:
            self._kill_hung(process)
            await process.ended.wait()

    # Metrics

    async def _merge_for(self, process: _Process, number: int) -> None:
        if self._collecting is None or self._collecting.done():
            self._collecting = asyncio.create_task(self._merged())
        families = await asyncio.shield(self._collecting)
        process.send(kind="merged", number=number, families=families.as_json())

    async def _merged(self) -> Families:
        """The metrics of all workers together. Of one that does not report in time, only its last known counters."""
        asked = [each for each in self._processes if each.ready.is_set()]
        reported = dict(zip(asked, await asyncio.gather(*map(self._reports, asked)), strict=True))
        families = Families()
        for worker in self._workers:
            families.add(worker.past)
        for process in self._processes:
            families.add(process.families, only_growing=not reported.get(process, False))
        for worker in self._workers:
            own = Families()
            own.add(worker.past)
            for process in self._processes:
                if process.number == worker.number:
                    own.add(process.families)
            is_up = worker.current is not None and reported.get(worker.current, False)
            add_worker(families, worker.number, own, restarts=worker.restarts, is_up=is_up)
        add_parent(families)
        return families

    async def _reports(self, process: _Process) -> bool:
        number, waiting = next(self._numbers), asyncio.get_running_loop().create_future()
        process.reports[number] = waiting
        process.send(kind="collect", number=number)
        done, _ = await asyncio.wait((waiting,), timeout=COLLECT_WITHIN)
        process.reports.pop(number, None)
        return bool(done) and not waiting.cancelled()

    # Tasks

    def _spawn(self, work: Awaitable[None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def how_it_ended(status: int) -> str:
    """`ended with status 1`, or `was killed by SIGKILL`."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _exit_status(status: int) -> int:
    """As in a shell: a signal's number plus 128."""
    return 128 - status if status < 0 else status
