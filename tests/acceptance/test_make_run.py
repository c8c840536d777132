"""`make run` as a user has it: started, stopped, started again, killed, and started where something is in the way."""

import asyncio
import os
import re
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from services.demo_data import RATE
from tests.acceptance.caller import Caller
from tests.acceptance.curl import filled_in, pasted
from tests.acceptance.discretion import Secrets
from tests.acceptance.programs import Program, run_python
from tests.acceptance.tenants import import_api, register_client
from tests.builders import Answer, api_document
from tests.eventually import eventually
from tests.ports import free_port
from tests.processes import started_with

READY_WITHIN = 60.0
"""Seconds until it is ready; on two idle cores it takes about four."""
MARK = "TOKENWIRE_ACCEPTANCE"


@dataclass
class Own:
    """A Tokenwire of one's own: where it is, and the process once it is started."""

    program: Program
    data: Path
    port: int
    mark: str
    starts: int = 0

    async def start(self) -> None:
        """Started once more, and ready."""
        self.starts += 1
        self.program.start()

        def ready() -> bool:
            if not self.program.running:
                raise RuntimeError(f"it ended:\n{self.program.output}")
            return self.program.output.count("Stop with Ctrl-C") == self.starts

        await eventually(ready, READY_WITHIN)

    @property
    def banner(self) -> str:
        """What the latest start printed."""
        return self.program.output.rpartition("Tokenwire is ready on ")[2]

    @property
    def operator_key(self) -> str:
        """As the banner has it."""
        return self.banner.partition("operator key")[2].split()[0]

    @property
    def commands(self) -> list[str]:
        """The commands that the banner offers."""
        return re.findall(r"^  (curl .+)$", self.banner, re.MULTILINE)

    def processes(self) -> set[str]:
        """The programs that run because of it."""
        return started_with(f"{MARK}={self.mark}")


@asynccontextmanager
async def own_tokenwire(home: Path, data: Path, **settings: str) -> AsyncIterator[Own]:
    """Not started yet; gone at the end."""
    port, mark = free_port(), secrets.token_hex(8)
    command = ("services", "--port", str(port), "--data", str(data))
    program = Program(*command, own_environment={**settings, MARK: mark}, output=home / "output")
    own = Own(program, data, port, mark)
    try:
        yield own
    finally:
        own.program.close()


async def test_the_whole_life_of_make_run(tmp_path: Path) -> None:
    """What it prints works as it is; what was registered outlives SIGTERM, SIGKILL and Ctrl-C; no process does."""
    async with own_tokenwire(tmp_path, tmp_path / "it's my data") as own, aiohttp.ClientSession() as http:
        await own.start()
        base = f"http://127.0.0.1:{own.port}"
        assert own.banner.startswith(f"{base}\n")
        assert own.processes() >= {"mongod"}
        ask, use, look = own.commands
        token, listed = await pasted(ask), await pasted(look)
        assert_issued(token)
        calls = [await pasted(filled_in(use, token.body)) for _ in range(RATE + 1)]
        assert [call.status for call in calls] == [200] * RATE + [429], "through the gateway, up to the policy's rate"
        assert listed.status == 200
        assert [entry["api_definition"]["api_id"] for entry in listed.body["apis"]] == ["demo-api"]

        key, operator = own.operator_key, Caller(http, base, Secrets()).with_key(own.operator_key)
        kept = own.data / "operator-key"
        assert (kept.read_text(), kept.stat().st_mode & 0o777) == (f"{key}\n", 0o600)
        api_id = await import_api(operator, api_document())
        client_id, secret = await register_client(operator, api_id)

        assert await own.program.stop() == 0
        assert own.processes() == set()

        await own.start()
        assert own.operator_key == key
        await assert_still_there(operator, api_id, client_id, secret)
        assert_issued(await pasted(own.commands[0]))

        own.program.kill()
        await eventually(lambda: not own.processes())
        await own.start()
        await assert_still_there(operator, api_id, client_id, secret)
        os.killpg(own.program.pid, signal.SIGINT)  # as Ctrl-C does: to all that run in the foreground
        assert await own.program.ended() == 0
        assert own.processes() == set()


def assert_issued(answer: Answer) -> None:
    """An access token came."""
    assert answer.status == 200, answer.raw
    assert {"access_token", "expires_in", "token_type"} == set(answer.body)


async def assert_still_there(operator: Caller, api_id: str, client_id: str, secret: str) -> None:
    """The client as it was registered, secret included, which only the same keys can show."""
    read = await operator("GET", f"/api/apis/oauth/{api_id}/{client_id}")
    assert read.status == 200, read.raw
    assert (read.body["client_id"], read.body["secret"]) == (client_id, secret)


async def test_what_is_in_the_way_is_said_in_one_line(tmp_path: Path) -> None:
    """A taken port, and data that another start uses; the one that runs is not disturbed, nothing else is left."""
    key = f"tw_ok_{secrets.token_urlsafe(32)}"
    async with own_tokenwire(tmp_path, tmp_path / "data", TOKENWIRE_BOOTSTRAP_OPERATOR_KEY=key) as own:
        await own.start()
        assert own.operator_key == key
        before, mark = own.processes(), secrets.token_hex(8)
        port, data = str(own.port), str(own.data)

        async def started(port: str, data: str) -> str:
            outcome = await run_python("services", "--port", port, "--data", data, settings={MARK: mark})
            assert outcome.status == 1, outcome
            return outcome.complaint

        taken, in_use = await asyncio.gather(started(port, str(tmp_path / "other")), started(str(free_port()), data))
        assert taken == (
            "python -m services: TOKENWIRE_HOST, TOKENWIRE_PORT: "
            f"cannot listen on 127.0.0.1:{port}: Address already in use"
        )
        assert in_use.startswith(f"python -m services: the data in {data} is in use by another start")
        assert started_with(f"{MARK}={mark}") == set()
        assert own.processes() == before
        ask, _, look = own.commands
        token, listed = await pasted(ask), await pasted(look)
        assert_issued(token)
        assert listed.status == 200, listed.raw
