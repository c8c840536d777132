"""Runs our programs as separate processes. Their output is kept, and none outlives the tests."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from libs.processes import end, ending_with_this_process

ROOT = Path(__file__).parents[2]
END_WITHIN = 90.0
"""Seconds from SIGTERM until a program is killed."""
RUN_WITHIN = 240.0
"""Seconds after which a program that should exit by itself is killed."""


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with only these of Tokenwire's settings, and unbuffered output."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")}
    return {**rest, "PYTHONUNBUFFERED": "1", **own}


class Program:
    """One `python -m …`, with its output on both streams since its first start."""

    def __init__(self, *arguments: str, own_environment: Mapping[str, str], output: Path) -> None:
        self._command = [sys.executable, "-m", *arguments]
        self._environment = environment(own_environment)
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._started().pid

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start in a new session, so that Ctrl-C reaches only the tests, which then end it. Do not wait until it is
        ready.
        """
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                ending_with_this_process(self._command),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def tell_to_stop(self) -> None:
        """Send SIGTERM; do not wait."""
        self._started().terminate()

    async def ended(self, within: float = END_WITHIN) -> int:
        """Wait for the exit status. Raises AssertionError if the process does not end in time."""
        try:
            return await asyncio.to_thread(self._started().wait, within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self._command} still runs after {within} s:\n{self.output[-2000:]}") from None

    async def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.tell_to_stop()
        return await self.ended()

    def kill(self) -> None:
        """Send SIGKILL, and reap the process."""
        self._started().kill()
        self._started().wait()

    def close(self) -> None:
        """Make sure that it is not running. Idempotent."""
        if self._process is not None:
            end(self._process, within=END_WITHIN)

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise AssertionError(f"{self._command} was never started")
        return self._process


@dataclass(frozen=True)
class Outcome:
    """Exit status and output of a program that ended by itself."""

    status: int
    out: str
    complaints: str

    @property
    def complaint(self) -> str:
        """The single line on standard error."""
        lines = self.complaints.splitlines()
        assert len(lines) == 1, self.complaints
        return lines[0]


async def run(*command: str, own_environment: Mapping[str, str], within: float = RUN_WITHIN) -> Outcome:
    """Run the program to its end. If it takes too long, kill it and raise AssertionError."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=environment(own_environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(within):
            out, complaints = await process.communicate()
    except TimeoutError:
        raise AssertionError(f"{command} still runs after {within} s") from None
    finally:
        await _ended_in_order(process)
    return Outcome(process.returncode or 0, out.decode(errors="replace"), complaints.decode(errors="replace"))


async def run_python(
    *arguments: str, within: float = RUN_WITHIN, settings: Mapping[str, str] | None = None, **own_environment: str
) -> Outcome:
    """Run `python -m …` to its end. On time-out it gets SIGTERM, so that it can stop what it started."""
    command = ending_with_this_process([sys.executable, "-m", *arguments], ending=signal.SIGTERM)
    return await run(*command, own_environment={**(settings or {}), **own_environment}, within=within)


async def _ended_in_order(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_WITHIN)
    except TimeoutError:
        process.kill()
        await process.wait()
