"""`make run`: started, stopped, restarted, killed, and started when something is wrong."""

import asyncio
import base64
import os
import re
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from services.demo_data import RATE
from services.embedded import EmbeddedMongo
from tests.acceptance.caller import Caller
from tests.acceptance.curl import filled_in, pasted
from tests.acceptance.discretion import Secrets
from tests.acceptance.programs import Program, run_python
from tests.acceptance.tenants import import_api, issued, new_tenant, register_client
from tests.builders import Response, api_document
from tests.eventually import eventually
from tests.ports import free_port
from tests.processes import pids_of, started_with
from tests.services.console_browser import Consoles
from tests.services.system import basic

READY_WITHIN = 180.0
"""Seconds until it is ready; on two idle cores it takes about four."""
MARK = "TOKENWIRE_ACCEPTANCE"


@dataclass
class Own:
    """A Tokenwire in one process: its address, and the process once started."""

    program: Program
    data: Path
    port: int
    mark: str
    starts: int = 0

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.starts += 1
        self.program.start()

        def ready() -> bool:
            if not self.program.running:
                raise RuntimeError(f"it ended:\n{self.program.output}")
            return self.program.output.count("Stop with Ctrl-C") == self.starts

        await eventually(ready, READY_WITHIN)

    @property
    def banner(self) -> str:
        """The output of the latest start."""
        return self.program.output.rpartition("Tokenwire is ready on ")[2]

    @property
    def operator_key(self) -> str:
        """The operator key in the data directory."""
        return (self.data / "operator-key").read_text().strip()

    @property
    def commands(self) -> list[str]:
        """The commands printed in the banner."""
        return re.findall(r"^  (curl .+)$", self.banner, re.MULTILINE)

    def processes(self) -> set[str]:
        """The processes started by it."""
        return started_with(f"{MARK}={self.mark}")


@asynccontextmanager
async def own_tokenwire(home: Path, data: Path, **settings: str) -> AsyncIterator[Own]:
    """A Tokenwire that is not started yet; stopped at the end."""
    port, mark = free_port(), secrets.token_hex(8)
    command = ("services", "--port", str(port), "--data", str(data))
    program = Program(*command, own_environment={**settings, MARK: mark}, output=home / "output")
    own = Own(program, data, port, mark)
    try:
        yield own
    finally:
        own.program.close()


async def test_the_whole_life_of_make_run(tmp_path: Path) -> None:
    """The printed commands work. Registered data survives SIGTERM, SIGKILL and Ctrl-C; no process does."""
    async with own_tokenwire(tmp_path, tmp_path / "it's my data") as own, aiohttp.ClientSession() as http:
        await own.start()
        base = f"http://127.0.0.1:{own.port}"
        assert own.banner.startswith(f"{base}\n")
        assert own.processes() >= {"mongod"}
        assert f"\n  console        {base}/console/\n  operator key   {own.operator_key}\n" in own.banner
        async with Consoles(base).browser() as browser:
            assert "Overview" in (await browser.sign_in(own.operator_key)).plain
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
        assert own.program.output.count(key) == 1
        api_id = await import_api(operator, api_document())
        client_id, secret = await register_client(operator, api_id)

        assert await own.program.stop() == 0
        assert own.processes() == set()

        await own.start()
        assert own.operator_key == key
        assert own.program.output.count(key) == 1, "a17: shown at the first start, and only there"
        assert f"\n  console        {base}/console/\n  operator key   kept in {kept}\n" in own.banner
        await assert_still_there(operator, api_id, client_id, secret)
        assert_issued(await pasted(own.commands[0]))

        own.program.kill()
        await eventually(lambda: not own.processes())
        await own.start()
        await assert_still_there(operator, api_id, client_id, secret)
        os.killpg(own.program.pid, signal.SIGINT)  # Ctrl-C reaches every process in the foreground
        assert await own.program.ended() == 0
        assert own.processes() == set()


async def test_workers_of_make_run_act_as_one(tmp_path: Path) -> None:
    """With workers and no RabbitMQ, a client registered at one is known to all, a token that all of them have cached is
    refused by all once it is revoked, and no process is left when they stop.
    """
    async with (
        own_tokenwire(tmp_path, tmp_path / "data", TOKENWIRE_WORKERS="3") as own,
        aiohttp.ClientSession() as http,
    ):
        await own.start()
        assert "workers        3" in own.banner
        assert_issued(await pasted(own.commands[0]))
        # Each call on a connection of its own, so that the calls are spread over the workers.
        anybody = Caller(http, f"http://127.0.0.1:{own.port}", Secrets()).with_header("Connection", "close")
        tenant = await new_tenant(anybody, anybody.with_key(own.operator_key))
        responses = [await tenant.client_credentials() for _ in range(24)]
        assert {response.status for response in responses} == {200}
        token = issued(responses[0]).access

        async def statuses() -> set[int]:
            return {(await tenant.verified(token)).status for _ in range(24)}

        assert await statuses() == {200}
        revoked = await tenant.operator("POST", f"/api/apis/oauth/{tenant.client_id}/revoke_all")
        assert revoked.status == 200

        async def refused() -> bool:
            return await statuses() == {403}

        await eventually(refused, within=3)
        metrics = (await anybody("GET", "/metrics")).raw.decode()
        requests = re.findall(r"^tokenwire_worker_http_requests_total\{.*\} (\S+)$", metrics, re.MULTILINE)
        assert len(requests) == 3
        assert all(float(number) > 0 for number in requests)
        assert await own.program.stop() == 0
        assert own.processes() == set()


def assert_issued(response: Response) -> None:
    """The response contains an access token."""
    assert response.status == 200, response.raw
    assert {"access_token", "expires_in", "token_type"} == set(response.body)


async def assert_still_there(operator: Caller, api_id: str, client_id: str, secret: str) -> None:
    """The client is unchanged; its secret can only be shown with the same encryption keys."""
    read = await operator("GET", f"/api/apis/oauth/{api_id}/{client_id}")
    assert read.status == 200, read.raw
    assert (read.body["client_id"], read.body["secret"]) == (client_id, secret)


async def test_a_used_port_or_directory_is_reported_in_one_line(tmp_path: Path) -> None:
    """A used port or data directory is reported in one line; the running instance is not disturbed."""
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
            f"python -m services: --port (PORT= of make run): cannot listen on 127.0.0.1:{port}: Address already in use"
            "; stop the program that listens there, or choose another port (make run PORT=9000)"
        )
        assert in_use.startswith(f"python -m services: the data in {data} is in use by another start")
        assert started_with(f"{MARK}={mark}") == set()
        assert own.processes() == before
        ask, _, look = own.commands
        token, listed = await pasted(ask), await pasted(look)
        assert_issued(token)
        assert listed.status == 200, listed.raw


async def test_a17_demo_data_exists_only_in_development(tmp_path: Path, mongodb_url: str, database_name: str) -> None:
    """Demo data has a well-known secret, so it is refused in production and with an external MongoDB."""
    elsewhere = {"TOKENWIRE_MONGODB_URL": mongodb_url, "TOKENWIRE_MONGODB_DATABASE": database_name}
    for name, settings in {"production": {"TOKENWIRE_ENVIRONMENT": "production"}, "elsewhere": elsewhere}.items():
        home = tmp_path / name
        home.mkdir()
        async with own_tokenwire(home, home / "data", **settings) as own, aiohttp.ClientSession() as http:
            await own.start()
            assert "demo-client" not in own.banner
            operator = Caller(http, f"http://127.0.0.1:{own.port}", Secrets()).with_key(own.operator_key)
            assert (await operator("GET", "/api/apis")).body["apis"] == []
            (look,) = own.commands
            assert (await pasted(look)).status == 200


async def test_a17_a_key_that_the_operator_has_set_is_never_shown(tmp_path: Path) -> None:
    """An operator key from the settings is never printed."""
    key = f"tw_ok_{secrets.token_urlsafe(32)}"
    async with own_tokenwire(tmp_path, tmp_path / "data", TOKENWIRE_BOOTSTRAP_OPERATOR_KEY=key) as own:
        await own.start()
        assert "TOKENWIRE_BOOTSTRAP_OPERATOR_KEY" in own.banner
        assert key not in own.program.output


async def test_b10_a_mongod_that_dies_under_make_run_comes_back(tmp_path: Path) -> None:
    """A mongod that dies is restarted, which is logged, and requests succeed again."""
    async with own_tokenwire(tmp_path, tmp_path / "data") as own:
        await own.start()
        (pid,) = pids_of("mongod", f"{MARK}={own.mark}")
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: "embedded_mongodb_restarted" in own.program.output, READY_WITHIN)
        assert own.program.output.count("embedded_mongodb_died") == 1
        assert "killed by signal 9" in own.program.output

        async def issues() -> bool:
            return (await pasted(own.commands[0])).status == 200

        await eventually(issues, READY_WITHIN)


async def test_b10_a_wrong_amqp_url_is_one_sentence(tmp_path: Path) -> None:
    """A wrong amqp_url is logged once with setting and reason, without the password, and shown in the banner; all else
    works.
    """
    port = free_port()
    url = f"amqp://user:hush-hush@127.0.0.1:{port}/"
    async with own_tokenwire(tmp_path, tmp_path / "data", TOKENWIRE_AMQP_URL=url) as own:
        await own.start()
        reason = f"TOKENWIRE_AMQP_URL: nothing can be reached at 127.0.0.1:{port}: "
        assert f"but without RabbitMQ: {reason}" in own.banner
        assert_issued(await pasted(own.commands[0]))
        logged = [line for line in own.program.output.splitlines() if re.match(r"\S+ \[\w+ *\]", line)]
        assert sum("bus_not_connected" in line for line in logged) == 1
        assert sum(reason in line for line in logged) <= 2, "and once more as the dependency that is away"
        assert not [line for line in logged if " library " in line]
        assert "hush-hush" not in own.program.output


@pytest.mark.parametrize("what", ["read-only", "a file", "unreadable key"])
async def test_b10_a_data_directory_that_cannot_be_used_is_one_line(tmp_path: Path, what: str) -> None:
    """An unusable data directory is reported in one line with path and reason."""
    data = tmp_path / "data"
    if what == "read-only":
        data = Path("/proc/self/fdinfo/data")  # not even root can write here
    elif what == "a file":
        data.write_text("")
    else:
        data.mkdir()
        (data / "keys").mkdir()
    outcome = await run_python("services", "--port", str(free_port()), "--data", str(data))
    assert outcome.status == 1
    named = f"{data / 'keys'}: Is a directory" if what == "unreadable key" else "--data (DATA= of make run): "
    assert outcome.complaint.startswith(f"python -m services: {named}")
    assert str(data) in outcome.complaint


async def test_c3_oauth_errors_have_tyk_s_status_however_it_is_run(
    tmp_path: Path, mongodb_url: str, database_name: str
) -> None:
    """OAuth errors have Tyk's statuses in both ways of running when so configured, else those of RFC 6749."""
    keys = f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}"
    shared = {
        "TOKENWIRE_MONGODB_URL": mongodb_url,
        "TOKENWIRE_MONGODB_DATABASE": database_name,
        "TOKENWIRE_KEYS": keys,
    }
    tyk = {"TOKENWIRE_OAUTH_ERROR_STATUS": "403"}
    async with own_tokenwire(tmp_path, tmp_path / "data", **shared, **tyk) as own, aiohttp.ClientSession() as http:
        await own.start()
        operator = Caller(http, f"http://127.0.0.1:{own.port}", Secrets()).with_key(own.operator_key)
        document = api_document()
        place = document["x-tyk-api-gateway"]["server"]["listenPath"]["value"]
        client_id, secret = await register_client(operator, await import_api(operator, document))
        wrong = {
            "headers": {"Authorization": basic(client_id, f"not-{secret}")},
            "data": {"grant_type": "client_credentials"},
        }
        right = {**wrong, "headers": {"Authorization": basic(client_id, secret)}}

        async def status(port: int, path: str, request: dict[str, Any]) -> int:
            async with http.post(f"http://127.0.0.1:{port}{place}{path}", **request) as response:
                return response.status

        assert await status(own.port, "oauth/token", right) == 200
        assert await status(own.port, "oauth/token", wrong) == 403
        assert await status(own.port, "oauth/token", {**right, "data": {"grant_type": "unheard-of"}}) == 403
        assert await status(own.port, "oauth/revoke", {**wrong, "data": {"token": "none"}}) == 403
        assert await status(own.port, "oauth/authorize", {"data": {"response_type": "code"}}) == 403

        needed = {
            **shared,
            "TOKENWIRE_AMQP_URL": "amqp://127.0.0.1:9/",
            "TOKENWIRE_NOTIFIER_PUBLIC_KEY": base64.b64encode(bytes(range(32))).decode(),
        }
        for name, setting, expected in (("tyk", tyk, 403), ("rfc", {}, 401)):
            port = free_port()
            single = Program(
                *("services.token", "--port", str(port)),
                own_environment={**needed, **setting},
                output=tmp_path / f"{name}.log",
            )
            single.start()
            try:

                async def refused(port: int = port, expected: int = expected) -> bool:
                    try:
                        return await status(port, "oauth/token", wrong) == expected
                    except aiohttp.ClientConnectionError:
                        return False

                await eventually(refused, READY_WITHIN)
            finally:
                single.close()


@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        pytest.param("", "this MongoDB user may not do what is needed", id="nobody"),
        pytest.param("tokenwire:wrong@", "MongoDB refuses the user name or password", id="wrong-password"),
    ],
)
async def test_b10_a_mongodb_that_refuses_the_user_is_one_sentence(tmp_path: Path, user: str, sentence: str) -> None:
    """A MongoDB that refuses the user is reported in the banner, `/readyz` and the log: one sentence, once, no stack
    trace.
    """
    async with EmbeddedMongo(tmp_path / "theirs") as theirs, aiohttp.ClientSession() as http:
        place = urlsplit(theirs.url)
        options = "replicaSet=rs0&authSource=admin" if user else "replicaSet=rs0"
        url = f"mongodb://{user}127.0.0.1:{place.port}/?{options}"
        async with own_tokenwire(tmp_path, tmp_path / "data", TOKENWIRE_MONGODB_URL=url) as own:
            await own.start()
            assert f"but without MongoDB: TOKENWIRE_MONGODB_URL: {sentence}" in own.program.output
            base = f"http://127.0.0.1:{own.port}"

            async def postponed() -> bool:
                return "task=recorder" in own.program.output

            await eventually(postponed, READY_WITHIN)
            async with http.get(f"{base}/readyz") as ready:
                assert ready.status == 503
                assert (await ready.json())["mongodb"].startswith(sentence)
            async with http.get(f"{base}/api/apis", headers={"Authorization": own.operator_key}) as response:
                assert response.status == 503
            output = own.program.output
            assert "background_task_failed" not in output
            assert "pymongo" not in output
            assert output.count("mongodb_not_ready") == 1
            assert output.count("outbox_not_swept") <= 2
            assert len(output) < 6000, output


DAMAGED = ["keys", "notifier-key", "operator-key", "mongodb-password", "mongodb-keyfile"]


async def test_b10_a_damaged_file_in_the_data_directory_is_named(tmp_path: Path) -> None:
    """A damaged file in the data directory stops the start with one line that names it and says what to do."""

    async def started(name: str, number: int, content: bytes) -> None:
        data = tmp_path / f"{name}-{number}"
        data.mkdir()
        (data / name).write_bytes(content)
        outcome = await run_python("services", "--port", str(free_port()), "--data", str(data))
        assert outcome.status == 1
        assert outcome.complaint.startswith(f"python -m services: {data / name} is ")
        assert "delete" in outcome.complaint
        assert "TOKENWIRE_" not in outcome.complaint
        assert (data / name).read_bytes() == content

    for number, content in enumerate([b"\n", b"c!\n", b"\xff\xfe\x00"]):
        await asyncio.gather(*(started(name, number, content) for name in DAMAGED))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--prot", "1"], "unknown option --prot; --port was probably meant", id="prot"),
        pytest.param(["-p", "3"], "unknown option -p; --port was probably meant", id="p"),
        pytest.param(["--host=203.0.113.1", "--po", "1"], "cannot listen on", id="abbreviated"),
        pytest.param(["--datta", "x", "config-lint"], "unknown option --datta; --data was probably meant", id="before"),
        pytest.param(["config-lint", "--jsn"], "unknown option --jsn; --json was probably meant", id="of-a-command"),
        pytest.param(["--data", ""], "the path of a directory is expected", id="no-data"),
    ],
)
async def test_b10_an_unknown_option_is_named(arguments: list[str], said: str, tmp_path: Path) -> None:
    """An unknown option is named without its value, which could be mistaken for a command."""
    outcome = await run_python("services", *(["--data", str(tmp_path)] if "--po" in arguments else []), *arguments)
    assert outcome.status != 0
    assert said in outcome.complaints.splitlines()[-1]
    assert "invalid choice" not in outcome.complaints


async def test_b10_an_unknown_option_of_a_service_is_named() -> None:
    """The same for a single service."""
    outcome = await run_python("services.token", "--prot", "1")
    assert outcome.complaints.endswith("error: unknown option --prot; --port was probably meant\n")


async def test_b10_the_banner_has_the_port_that_the_system_chose(tmp_path: Path) -> None:
    """With `--port 0` the banner's commands contain the port that the system chose."""
    program = Program(
        *("services", "--port", "0", "--data", str(tmp_path / "data")), own_environment={}, output=tmp_path / "output"
    )
    own = Own(program, tmp_path / "data", 0, "")
    try:
        await own.start()
        assert ":0" not in own.banner.partition("\n")[0]
        assert_issued(await pasted(own.commands[0]))
    finally:
        program.close()
