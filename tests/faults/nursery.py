"""Starts processes by forking one that has imported every service, which takes a fifth of the time of a start anew.

`python -m tests.faults.nursery` is that one: it reads commands from its standard input, a line of JSON each, and writes
a line for every start and every end. Whatever it started ends with it, and it ends with whoever started it.
"""

import asyncio
import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

from libs.processes import end, tied_to_us
from tests.acceptance.programs import END_WITHIN, ROOT, environment
from tests.deployment.wiring import SERVICES
from tests.faults import armed

_PARENT_DEATH_SIGNAL = 1


class Nursery:
    """The process that forks. `with` starts it, and ends whatever it started."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._answers = threading.Condition()
        self._started: list[int] = []
        self._statuses: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            tied_to_us([sys.executable, "-m", "tests.faults.nursery"]),
            cwd=ROOT,
            env=environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            end(self._process, within=END_WITHIN)
        if self._listener is not None:
            self._listener.join(END_WITHIN)

    def start(self, arguments: Sequence[str], own_environment: Mapping[str, str], output: Path) -> "Child":
        """`python -m …`, started; what it prints is added to the file."""
        if self._process is None or self._process.stdin is None:
            raise AssertionError("the nursery was never started")
        command = {"arguments": list(arguments), "environment": environment(own_environment), "output": str(output)}
        with self._answers:
            before = len(self._started)
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
            if not self._answers.wait_for(lambda: len(self._started) > before, timeout=60):
                raise AssertionError("the nursery started nothing")
            return Child(self, self._started[-1])

    def status(self, pid: int, within: float) -> int | None:
        """How the process ended, as subprocess counts it; None while it runs."""
        with self._answers:
            self._answers.wait_for(lambda: pid in self._statuses, timeout=within)
            return self._statuses.get(pid)

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._note(json.loads(line))

    def _note(self, told: Mapping[str, int]) -> None:
        with self._answers:
            if "status" in told:
                self._statuses[told["pid"]] = told["status"]
            else:
                self._statuses.pop(told["pid"], None)  # of one that had this number long ago
                self._started.append(told["pid"])
            self._answers.notify_all()


class Child:
    """One process that the nursery started."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid

    @property
    def running(self) -> bool:
        return self._nursery.status(self.pid, 0) is None

    async def ended(self, within: float = END_WITHIN) -> int:
        """The exit status, once there is one. Raises AssertionError where there is none in time."""
        status = await asyncio.to_thread(self._nursery.status, self.pid, within)
        if status is None:
            raise AssertionError(f"process {self.pid} still runs after {within} s")
        return status

    async def stop(self) -> int:
        """The exit status after SIGTERM."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
        return await self.ended()

    def kill(self) -> None:
        """SIGKILL; gone when this returns."""
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
        self._nursery.status(self.pid, END_WITHIN)


# The process that forks


def _preload() -> None:
    for service in SERVICES:
        importlib.import_module(f"services.{service}.app")


def _serve() -> None:
    """Start and bury until the input ends."""
    wakes, waker = os.pipe()
    for descriptor in (wakes, waker):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    rest = b""
    while True:
        ready, _, _ = select.select((sys.stdin.fileno(), wakes), (), ())
        if wakes in ready:
            os.read(wakes, 4096)
            _bury()
        if sys.stdin.fileno() in ready:
            received = os.read(sys.stdin.fileno(), 65536)
            if not received:
                return
            *lines, rest = (rest + received).split(b"\n")
            for line in lines:
                _fork(json.loads(line), (wakes, waker))


def _bury() -> None:
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _tell(pid=ended[0], status=os.waitstatus_to_exitcode(ended[1]))
    except ChildProcessError:
        return


def _tell(**facts: int) -> None:
    os.write(sys.stdout.fileno(), json.dumps(facts).encode() + b"\n")


def _fork(command: Mapping[str, Any], ours: Sequence[int]) -> None:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(command, parent, ours)
    _tell(pid=pid)


def _become(command: Mapping[str, Any], parent: int, ours: Sequence[int]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(command["environment"])
        _redirect(command["output"])
        for descriptor in ours:
            os.close(descriptor)
        status = _run(command["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _redirect(output: str) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    printed = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for descriptor, number in ((nothing, 0), (printed, 1), (printed, 2)):
        os.dup2(descriptor, number)
        os.set_inheritable(number, True)
    os.close(nothing)
    os.close(printed)


def _run(arguments: Sequence[str]) -> int:
    try:
        armed.main(arguments)
    except SystemExit as ending:
        if isinstance(ending.code, str):
            sys.stderr.write(f"{ending.code}\n")
            return 1
        return ending.code or 0
    return 0


if __name__ == "__main__":
    _preload()
    _serve()
