"""Starts one more process of a service next to those behind the edge: with other settings, another clock, or armed to
die.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.caller import Caller
from tests.acceptance.programs import Program
from tests.acceptance.stack import READY_WITHIN, Stack
from tests.eventually import eventually
from tests.ports import free_port


@dataclass(frozen=True)
class ExtraProcess:
    """The process, and a client for it."""

    program: Program
    call: Caller


@asynccontextmanager
async def extra_process(
    stack: Stack, home: Path, *command: str, service: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[ExtraProcess]:
    """Run `python -m <command>` with the stack's servers and keys until the block ends. The edge does not know the
    process.
    """
    port = free_port()
    own = {**stack.environment(service), **(settings or {}), "TOKENWIRE_PORT": str(port)}
    program = Program(*(command or (f"services.{service}",)), own_environment=own, output=home / f"{service}-{port}")
    one = ExtraProcess(program, stack.anybody.at(f"http://127.0.0.1:{port}"))

    async def ready() -> bool:
        assert program.running, program.output[-2000:]
        try:
            return bool((await one.call("GET", "/readyz")).body["status"] == "ok")
        except OSError:
            return False

    try:
        program.start()
        await eventually(ready, READY_WITHIN)
        yield one
    finally:
        if program.running:
            program.kill()
