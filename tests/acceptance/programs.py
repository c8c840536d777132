"""Our own programs as separate processes: what they print is kept, and none outlives the tests."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from libs.processes import end, tied_to_us

ROOT = Path(__file__).parents[2]
END_WITHIN = 20.0
"""Seconds that a program which was told to stop gets before it is killed."""
RUN_WITHIN = 60.0
"""Seconds after which a program that should end by itself is killed."""


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """This machine's environment without settings of Tokenwire's but these; what is printed is there at once."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")}
    return {**rest, "PYTHONUNBUFFERED": "1", **own}


class Program:
    """One `python -m …`, with what it printed on both streams since its first start."""

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
        """Started, in a session of its own: a Ctrl-C is for the tests, which then end it. Not yet answering."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                tied_to_us(self._command),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def tell_to_stop(self) -> None:
        """SIGTERM; it is not waited for."""
        self._started().terminate()

    async def ended(self, within: float = END_WITHIN) -> int:
        """The exit status, once there is one. Raises AssertionError where there is none in time."""
        try:
            return await asyncio.to_thread(self._started().wait, within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self._command} still runs after {within} s:\n{self.output[-2000:]}") from None

    async def stop(self) -> int:
        """The exit status after SIGTERM."""
        self.tell_to_stop()
        return await self.ended()

    def kill(self) -> None:
        """SIGKILL; gone and reaped when this returns."""
        self._started().kill()
        self._started().wait()

    def close(self) -> None:
        """Not running any more. Idempotent."""
        if self._process is not None:
            end(self._process, within=END_WITHIN)

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise AssertionError(f"{self._command} was never started")
        return self._process


@dataclass(frozen=True)
class Outcome:
    """How a program that ended by itself ended, and what it said."""

    status: int
    out: str
    complaints: str

    @property
    def complaint(self) -> str:
        """The one line that it complained with."""
        lines = self.complaints.splitlines()
        assert len(lines) == 1, self.complaints
        return lines[0]


async def run(*command: str, own_environment: Mapping[str, str], within: float = RUN_WITHIN) -> Outcome:
    """The program has run to its end. Raises AssertionError where it has not in time, after killing it."""
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
    """`python -m …` has run to its end. What it starts itself it also ends itself, so it is asked to and not killed."""
    command = tied_to_us([sys.executable, "-m", *arguments], ending=signal.SIGTERM)
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
