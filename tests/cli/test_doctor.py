"""`tokenwire doctor` and `python -m services doctor`: each check fails where something is wrong, with a remedy."""

import base64
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cli.api_client import Reply
from cli.doctor import check_clock, check_key, check_readiness, check_transport
from cli.profiles import Profile
from contracts.diagnosis import CheckState
from libs.bus.port import BusUnavailable
from libs.bus.rabbit import Broker, RabbitBus
from services.doctor import checks
from tests.acceptance.programs import run_python
from tests.cli.conftest import CommandLine
from tests.eventually import eventually
from tests.ports import free_port
from tests.provision import rabbitmq as brokers
from tests.services.system import System
from tests.services.test_diagnoses import mongod

KEYS = f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}"
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


async def examined(tmp_path: Path, **settings: str) -> dict[str, dict[str, str]]:
    """What `python -m services doctor` finds with these settings and no others, by the name of the check."""
    given = {"TOKENWIRE_PORT": str(free_port()), **settings}
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("TOKENWIRE_")]:
            environment.delenv(name)
        for name, value in given.items():
            environment.setenv(name, value)
        found = await checks.check_all(tmp_path / "data")
    assert all(bool(check.remedy) is (check.state is CheckState.WRONG) for check in found), found
    return {check.name: check.model_dump() for check in found}


@pytest.mark.parametrize(("keys", "status"), [(KEYS, 0), ("damaged", 1)], ids=["right-key", "damaged-key"])
async def test_e1_the_command_of_the_services_has_a_report_and_a_status(tmp_path: Path, keys: str, status: int) -> None:
    """One object with --json; for people, a remedy below what is wrong; status 1 if something is."""
    settings = {"TOKENWIRE_KEYS": keys, "TOKENWIRE_PORT": str(free_port())}
    outcome = await run_python("services", "doctor", "--json", "--data", str(tmp_path), settings=settings)
    report = json.loads(outcome.out)
    assert (outcome.status, report["ok"]) == (status, not status), outcome
    assert {check["name"] for check in report["checks"]} >= {"settings", "keys", "MongoDB", "RabbitMQ", "disk"}
    for_people = await run_python("services", "doctor", "--data", str(tmp_path), settings=settings)
    assert (for_people.status, "mend it: " in for_people.out) == (status, bool(status)), for_people


# Keys, port, disk, settings


async def test_e1_nothing_is_wrong_with_nothing_to_check(tmp_path: Path) -> None:
    """Without settings, what cannot be checked is skipped, and says so."""
    found = await examined(tmp_path)
    states = {name: check["state"] for name, check in found.items() if not name.startswith("port")}
    skipped = dict.fromkeys(("keys", "MongoDB", "RabbitMQ"), "skipped")
    assert states == {**skipped, "settings": "ok", "disk": "ok"}, found


@pytest.mark.parametrize(
    ("settings", "name", "says"),
    [
        pytest.param({"TOKENWIRE_KEYS": "1:c2hvcnQ="}, "keys", "TOKENWIRE_KEYS: key 1 has 5 bytes", id="short-key"),
        pytest.param({"TOKENWIRE_KEYS": "no keys"}, "keys", "<id>:<base64 of 32 bytes>", id="no-key"),
        pytest.param({"TOKENWIRE_NOTIFIER_PRIVATE_KEYS": "x"}, "notifier keys", "X25519", id="notifier-key"),
        pytest.param({"TOKENWIRE_MONGODB_ULR": "x"}, "settings", "TOKENWIRE_MONGODB_ULR", id="misspelled"),
        pytest.param(
            {"TOKENWIRE_AMQP_URL": "http://a"}, "settings", "TOKENWIRE_AMQP_URL: an amqp://", id="no-amqp-url"
        ),
        pytest.param({"TOKENWIRE_HOST": "192.0.2.1", "TOKENWIRE_PORT": "9"}, "port 9", "cannot be listened", id="host"),
    ],
)
async def test_e1_a_wrong_setting_is_found(tmp_path: Path, settings: dict[str, str], name: str, says: str) -> None:
    """Keys, names, URLs and addresses; the value of a secret is not repeated."""
    found = await examined(tmp_path, **settings)
    assert (found[name]["state"], says in found[name]["says"]) == ("wrong", True), found


async def test_e1_the_keys_of_make_run_are_checked(tmp_path: Path) -> None:
    """Those in the data directory, where the settings have none; older keys of a ring are named."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "keys").write_text(f"{KEYS.replace('1:', '2:')},{KEYS}")
    assert (await examined(tmp_path))["keys"]["says"] == "key 2 is current; keys 1 are still accepted"
    (tmp_path / "data" / "keys").write_text("damaged")
    found = await examined(tmp_path)
    assert (found["keys"]["state"], "data/keys" in found["keys"]["says"]) == ("wrong", True), found


async def test_e1_a_port_is_free_ours_or_taken(tmp_path: Path, system: System) -> None:
    """Tokenwire on its own port is fine, another program is not."""
    ours = system.call.http.make_url("/").port
    found = (await examined(tmp_path, TOKENWIRE_PORT=str(ours)))[f"port {ours}"]
    assert (found["state"], found["says"]) == ("ok", "Tokenwire listens there")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = (await examined(tmp_path, TOKENWIRE_PORT=str(port)))[f"port {port}"]
    assert (found["state"], "another program" in found["says"]) == ("wrong", True), found
    free = free_port()
    assert (await examined(tmp_path, TOKENWIRE_PORT=str(free)))[f"port {free}"]["says"] == "free on 127.0.0.1"


def test_e1_a_full_disk_and_a_directory_that_is_none_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than a gigabyte is too little for MongoDB."""
    (tmp_path / "file").write_text("")
    assert checks.check_disk(tmp_path / "file").state is CheckState.WRONG
    assert checks.check_disk(tmp_path / "not" / "yet").state is CheckState.OK
    assert checks.check_disk(tmp_path / "not" / "yet", is_needed=False).state is CheckState.SKIPPED
    assert checks.check_disk(tmp_path / "file", is_needed=False).state is CheckState.WRONG
    monkeypatch.setattr(checks, "LEAST_FREE", 1 << 60)
    full = checks.check_disk(tmp_path)
    assert (full.state, "GB are free" in full.says) == (CheckState.WRONG, True), full


# MongoDB


async def test_e1_a_mongodb_that_is_right_passes(tmp_path: Path, system: System, mongodb_url: str) -> None:
    """Version, rights, indexes and clock of the database of running services."""
    database = system.deps.store.mongo._database
    found = await examined(tmp_path, TOKENWIRE_MONGODB_URL=mongodb_url, TOKENWIRE_MONGODB_DATABASE=database)
    for name in ("MongoDB", "MongoDB rights", "indexes", "MongoDB clock"):
        assert found[name]["state"] == "ok", found
    empty = await examined(
        tmp_path, TOKENWIRE_MONGODB_URL=mongodb_url, TOKENWIRE_MONGODB_DATABASE="tokenwire_test_none"
    )
    assert (empty["indexes"]["state"], "are missing" in empty["indexes"]["says"]) == ("wrong", True), empty


async def test_e1_a_mongodb_that_is_away_or_standalone_is_found(tmp_path: Path) -> None:
    """With the sentence of the diagnosis, and without the password."""
    away = f"mongodb://user:hush-hush@127.0.0.1:{free_port()}/?replicaSet=rs0"
    found = (await examined(tmp_path, TOKENWIRE_MONGODB_URL=away))["MongoDB"]
    assert (found["state"], "nothing can be reached at" in found["says"]) == ("wrong", True), found
    assert "hush-hush" not in str(found)
    (tmp_path / "db").mkdir()
    async with mongod(tmp_path / "db") as port:
        await eventually(lambda: says_that_it_is_standalone(tmp_path, f"mongodb://127.0.0.1:{port}/"))


async def says_that_it_is_standalone(tmp_path: Path, url: str) -> bool:
    """Whether that is what is wrong; False while the server does not listen yet."""
    found = (await examined(tmp_path, TOKENWIRE_MONGODB_URL=url))["MongoDB"]
    assert found["state"] == "wrong"
    return "not a replica set" in found["says"]


def test_e1_old_servers_and_clocks_that_disagree_are_found() -> None:
    """Versions below those of the tests, and more than five seconds."""
    assert [checks.check_mongodb_version(each).state for each in ("5.0.31", "6.0.5", "8.0.0")] == ["wrong", "ok", "ok"]
    assert checks.check_clock(timedelta(seconds=4)).state == "ok"
    for seconds, way in ((-60, "behind"), (60, "ahead of")):
        found = checks.check_clock(timedelta(seconds=seconds))
        assert (found.state, f"60 s {way}" in found.says) == ("wrong", True), found


# RabbitMQ


async def test_e1_a_rabbitmq_is_checked_for_queues_rights_and_dead_letters(
    tmp_path: Path, rabbitmq: brokers.Broker
) -> None:
    """An empty virtual host has no queues; after the services have declared them it passes."""
    url = rabbitmq.new_vhost()
    empty = await examined(tmp_path, TOKENWIRE_AMQP_URL=url)
    assert {empty[name]["state"] for name in ("queues", "RabbitMQ rights")} == {"wrong"}, empty
    assert empty["RabbitMQ"]["state"] == "ok"
    bus = RabbitBus(url, instance_name="doctor", declare=True)
    await bus.open()
    try:
        await eventually(lambda: answers(bus))
    finally:
        await bus.close()
    found = await examined(tmp_path, TOKENWIRE_AMQP_URL=url)
    assert [found[name]["state"] for name in ("queues", "RabbitMQ rights", "dead letters")] == ["ok"] * 3, found
    wrong_host = await examined(tmp_path, TOKENWIRE_AMQP_URL=f"{url}-gone")
    assert (wrong_host["RabbitMQ"]["state"], "virtual host" in wrong_host["RabbitMQ"]["says"]) == ("wrong", True)


async def answers(bus: RabbitBus) -> bool:
    try:
        await bus.ping()
    except BusUnavailable:
        return False
    return True


def test_e1_an_old_broker_refused_messages_and_dead_letters_are_found() -> None:
    """Each names what to do."""
    broker = Broker("3.9.1", "/", "this user may not publish to tokenwire.ticks", ("notifier",), {"revocation": 3})
    found = [
        checks.check_rabbitmq_version(broker),
        checks.check_queues(broker),
        checks.check_publishing(broker),
        checks.check_dead_letters(broker),
    ]
    assert [check.state for check in found] == ["wrong"] * 4
    assert "redrive" in found[3].remedy


# The management API


async def test_e1_a_server_that_is_well_passes(tokenwire: CommandLine) -> None:
    """Key, clock and readiness; without server settings here, their checks are skipped and say where to run them."""
    outcome = await tokenwire("doctor")
    assert (outcome.status, outcome.out.splitlines()[-1]) == (0, "all is well"), outcome.out
    assert "✓ operator key: an operator of the tests (admin)" in outcome.out
    assert "– server: none of TOKENWIRE_MONGODB_URL" in outcome.out
    report = (await tokenwire("doctor", "--json")).json
    assert [check["name"] for check in report["checks"]] == ["profile", "operator key", "clock", "readiness", "server"]


async def test_e1_a_server_that_is_away_or_refuses_the_key_is_found(tokenwire: CommandLine, tmp_path: Path) -> None:
    """No profile, nothing there, a wrong key: status 1, and the command that mends it."""
    for settings, name in (
        ({"TOKENWIRE_URL": f"http://127.0.0.1:{free_port()}"}, "management API"),
        ({"TOKENWIRE_OPERATOR_KEY": "wrong"}, "operator key"),
    ):
        outcome = await tokenwire("doctor", "--json", **settings)
        (wrong,) = [check for check in outcome.json["checks"] if check["state"] == "wrong"]
        assert (outcome.status, wrong["name"], "tokenwire login" in wrong["remedy"]) == (1, name, True), wrong
    alone = await CommandLine(tmp_path)("doctor")
    assert (alone.status, "mend it: `tokenwire login`" in alone.out) == (1, True), alone.out


async def test_e1_the_settings_of_the_server_are_read_from_a_file(tokenwire: CommandLine, tmp_path: Path) -> None:
    """`.env` in this directory; what it names is checked by `python -m services doctor`."""
    (tmp_path / ".env").write_text(f"# of the stack\nTOKENWIRE_KEYS='{KEYS}'\nTOKENWIRE_PORT={free_port()}\n")
    outcome = await tokenwire("doctor")
    assert (outcome.status, "✓ keys: key 1 is current" in outcome.out) == (0, True), outcome.out
    (tmp_path / ".env").write_text("TOKENWIRE_KEYS=nonsense\n")
    outcome = await tokenwire("doctor")
    assert (outcome.status, "✗ keys: TOKENWIRE_KEYS" in outcome.out) == (1, True), outcome.out


async def test_e1_a_service_that_is_not_ready_is_found(tokenwire: CommandLine) -> None:
    """Each dependency by name, degraded or unavailable; behind the edge, which hides /readyz, the check is skipped."""
    async with _responding(503, {"status": "unavailable", "mongodb": "no response in time", "bus": "ok"}) as url:
        outcome = await tokenwire("doctor", "--json", TOKENWIRE_URL=url)
    (found,) = [check for check in outcome.json["checks"] if check["name"] == "readiness"]
    assert (found["state"], found["says"]) == ("wrong", "mongodb: no response in time")
    assert [check.state for check in check_readiness(Reply(200, {"status": "degraded", "bus": "full"}, {}))] == [
        "wrong"
    ]
    assert [check.state for check in check_readiness(Reply(404, None, {}))] == ["skipped"]


@asynccontextmanager
async def _responding(status: int, body: dict[str, Any]) -> AsyncIterator[str]:
    """A server with an operator, and with this response to /readyz."""

    async def own(_: web.Request) -> web.Response:
        return web.json_response({"operator_id": "1", "name": "Auditor", "permissions": ["read"]})

    async def readyz(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_get("/api/operators/self", own)
    app.router.add_get("/readyz", readyz)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


def test_e1_a_clock_that_is_off_is_found() -> None:
    """By the Date of a response, which has whole seconds, and not by the time that the request took."""
    for off, state in ((0, "ok"), (4, "ok"), (-4, "ok"), (30, "wrong"), (-30, "wrong")):
        date = format_datetime((NOW + timedelta(seconds=off)).replace(microsecond=0), usegmt=True)
        assert check_clock(date, NOW, NOW + timedelta(milliseconds=900)).state == state, off
    slow = check_clock(format_datetime(NOW, usegmt=True), NOW - timedelta(seconds=20), NOW + timedelta(seconds=20))
    assert slow.state == "ok"
    assert check_clock("", NOW, NOW).state == "skipped"


def test_e1_a_key_that_expires_soon_is_found() -> None:
    """Within a week; and a response that is no operator."""
    operator = {"operator_id": "1", "name": "Auditor", "permissions": ["read"]}
    for days, state in ((3, "wrong"), (30, "ok")):
        expires = (NOW + timedelta(days=days)).isoformat()
        assert check_key(Reply(200, operator | {"expires_at": expires}, {}), NOW).state == state
    assert check_key(Reply(200, "<html>", {}), NOW).state == "wrong"


def test_e1_a_key_that_travels_unencrypted_is_found() -> None:
    """Plain HTTP is for this machine only."""
    urls = ("https://auth.example.test", "http://127.0.0.1:8080", "http://auth.example.test")
    assert [check_transport(Profile(url, "key")).state for url in urls] == ["ok", "ok", "wrong"]
