"""Forks processes from one that has imported every service, which takes a fifth of the time of a normal start.

`python -m tests.faults.fork_server` is that process. It reads JSON commands from standard input, one per line, and
writes a line for every start and every end. Its children end with it, and it ends with its parent.
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

from libs.processes import end, ending_with_this_process
from tests.acceptance.programs import END_WITHIN, ROOT, environment
from tests.deployment.wiring import SERVICES
from tests.faults import armed

_PARENT_DEATH_SIGNAL = 1


class ForkServer:
    """The forking process. `with` starts it, and stops it with all its children."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._responses = threading.Condition()
        self._started: list[int] = []
        self._statuses: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ending_with_this_process([sys.executable, "-m", "tests.faults.fork_server"]),
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
        """Start `python -m …`; append its output to the file."""
        if self._process is None or self._process.stdin is None:
            raise AssertionError("the fork server was never started")
        command = {"arguments": list(arguments), "environment": environment(own_environment), "output": str(output)}
        with self._responses:
            before = len(self._started)
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
            if not self._responses.wait_for(lambda: len(self._started) > before, timeout=60):
                raise AssertionError("the fork server started nothing")
            return Child(self, self._started[-1])

    def status(self, pid: int, within: float) -> int | None:
        """The exit status as subprocess reports it; None while the process runs."""
        with self._responses:
            self._responses.wait_for(lambda: pid in self._statuses, timeout=within)
            return self._statuses.get(pid)

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._note(json.loads(line))

    def _note(self, told: Mapping[str, int]) -> None:
        with self._responses:
            if "status" in told:
                self._statuses[told["pid"]] = told["status"]
            else:
                self._statuses.pop(told["pid"], None)  # from an earlier process with the same id
                self._started.append(told["pid"])
            self._responses.notify_all()


class Child:
    """A process started by the fork server."""

    def __init__(self, fork_server: ForkServer, pid: int) -> None:
        self._fork_server = fork_server
        self.pid = pid

    @property
    def running(self) -> bool:
        return self._fork_server.status(self.pid, 0) is None

    async def ended(self, within: float = END_WITHIN) -> int:
        """Wait for the exit status. Raises AssertionError if the process does not end in time."""
        status = await asyncio.to_thread(self._fork_server.status, self.pid, within)
        if status is None:
            raise AssertionError(f"process {self.pid} still runs after {within} s")
        return status

    async def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
        return await self.ended()

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process is gone."""
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
        self._fork_server.status(self.pid, END_WITHIN)


# The forking process


def _preload() -> None:
    for service in SERVICES:
        importlib.import_module(f"services.{service}.app")


def _serve() -> None:
    """Fork and reap children until the input ends."""
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
