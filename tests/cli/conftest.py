"""The command line as a separate process, with a home of its own, against running services."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from contracts.operators import Permission
from tests.acceptance.programs import ROOT, environment
from tests.builders import make_operator
from tests.services.system import System, open_system

RUN_WITHIN = 120.0


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
class CommandLine:
    """`tokenwire …` in a directory and a home of its own."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)

    async def __call__(self, *arguments: str, given: str = "", **settings: str) -> Outcome:
        own = {"XDG_CONFIG_HOME": str(self.home), "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cli",
            *arguments,
            cwd=self.home,
            env=environment(own | self.settings | settings),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(RUN_WITHIN):
            out, err = await process.communicate(given.encode())
        return Outcome(process.returncode or 0, out.decode(), err.decode())


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
