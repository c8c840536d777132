"""The command line as a separate process, with a home of its own, against running services."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from cli.__main__ import app
from cli.failures import Failure
from contracts.operators import Permission
from tests.acceptance.programs import ROOT, environment
from tests.builders import make_operator
from tests.services.system import System, open_system


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class RunningCommand:
    """A command that does not end by itself."""

    process: asyncio.subprocess.Process

    async def line(self) -> str:
        """The next line of its standard output."""
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), 60)).decode()

    async def complaint(self) -> str:
        """The next line of its standard error."""
        assert self.process.stderr is not None
        return (await asyncio.wait_for(self.process.stderr.readline(), 60)).decode()

    async def interrupt(self) -> int:
        """Press Ctrl-C; its exit status."""
        self.process.send_signal(signal.SIGINT)
        return await asyncio.wait_for(self.process.wait(), 30)

    async def errors(self) -> str:
        """What is left of its standard error."""
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()


@dataclass(frozen=True)
class CommandLine:
    """`tokenwire …` in a directory and a home of its own."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)

    async def __call__(self, *arguments: str, given: str = "", **settings: str) -> Outcome:
        """Run the command in a thread of this process, which spares the start of another."""
        return await asyncio.to_thread(self._run, arguments, given, self.settings | settings)

    def _run(self, arguments: tuple[str, ...], given: str, settings: dict[str, str]) -> Outcome:
        known = {name: None for name in os.environ if name.startswith(("TOKENWIRE_", "TYK_"))}
        # The services run in this process, too, and would log to the command's standard output.
        with contextlib.chdir(self.home), structlog.testing.capture_logs():
            result = CliRunner().invoke(app, arguments, input=given, env={**known, **self._own, **settings})
        if isinstance(result.exception, Failure):
            return Outcome(result.exception.status, result.stdout, f"tokenwire: {result.exception}\n")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    async def process(self, *arguments: str) -> Outcome:
        """Run the command in a process of its own."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cli",
            *arguments,
            cwd=self.home,
            env=environment({**self._own, **self.settings, "PYTHONPATH": str(ROOT)}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return Outcome(process.returncode or 0, out.decode(), err.decode())

    async def on_a_terminal(self, *arguments: str, until: str) -> str:
        """What the command shows on a terminal of 80 columns until this appears, and after Ctrl-C then."""
        mine, its = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cli",
            *arguments,
            cwd=self.home,
            env=environment({**self._own, **self.settings, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}),
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        shown = ""
        try:
            async with asyncio.timeout(60):
                while until not in shown:
                    shown += (await asyncio.to_thread(os.read, mine, 4096)).decode(errors="replace")
                if process.returncode is None:
                    process.send_signal(signal.SIGINT)
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            os.close(mine)
        return shown

    @contextlib.asynccontextmanager
    async def running(self, *arguments: str, **settings: str) -> AsyncIterator["RunningCommand"]:
        """The command in a process of its own, for as long as the block."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cli",
            *arguments,
            cwd=self.home,
            env=environment({**self._own, **self.settings, **settings, "PYTHONPATH": str(ROOT)}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield RunningCommand(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    @property
    def _own(self) -> dict[str, str]:
        return {"XDG_CONFIG_HOME": str(self.home), "COLUMNS": "200", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    async with open_system(mongodb_url, tyk_gateway_api=True) as system:
        yield system


@pytest.fixture(name="tokenwire")
async def _tokenwire(system: System, tmp_path: Path) -> CommandLine:
    """The command line with the key of an operator who may do everything."""
    key = await make_operator(system.deps, Permission.ADMIN)
    return CommandLine(tmp_path, {"TOKENWIRE_URL": url_of(system), "TOKENWIRE_OPERATOR_KEY": key})


def url_of(system: System) -> str:
    """Where the services of the system are reached."""
    return str(system.call.http.make_url("/")).rstrip("/")
