"""One more process of a service, beside those behind the edge: with another setting, another clock, or about to die."""

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
class Beside:
    """The process, and who calls it."""

    program: Program
    call: Caller


@asynccontextmanager
async def beside(
    stack: Stack, home: Path, *command: str, service: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Beside]:
    """`python -m <command>` on the stack's servers and keys, ready; killed at the end. The edge does not know it."""
    port = free_port()
    own = {**stack.environment(service), **(settings or {}), "TOKENWIRE_PORT": str(port)}
    program = Program(*(command or (f"services.{service}",)), own_environment=own, output=home / f"{service}-{port}")
    one = Beside(program, stack.anybody.at(f"http://127.0.0.1:{port}"))

    async def ready() -> bool:
        assert program.running, program.output[-2000:]
        try:
            return (await one.call("GET", "/readyz")).status == 200
        except OSError:
            return False

    try:
        program.start()
        await eventually(ready, READY_WITHIN)
        yield one
    finally:
        if program.running:
            program.kill()
