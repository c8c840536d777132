"""What operators rely on: health, metrics, help, and clear errors at start."""

import asyncio
import base64
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.acceptance.programs import Outcome, run_python
from tests.acceptance.stack import INSTANCES, Stack
from tests.deployment.wiring import CONSOLE, SERVICES, settings_class

# Health and metrics


@pytest.mark.parametrize("name", INSTANCES)
async def test_a_service_is_watched_on_its_own_port(stack: Stack, name: str) -> None:
    """Each service reports liveness, readiness of each dependency by name, and metrics on its own port."""
    service = stack.service(name)
    for slash in ("", "/"):
        alive = await service("GET", f"/healthz{slash}")
        assert (alive.status, alive.body) == (200, {"status": "ok"})
        ready = await service("GET", f"/readyz{slash}")
        assert ready.status == 200
        parts = {"management": "ok"} if name == CONSOLE else {"mongodb": "ok", "bus": "ok"}
        assert ({"status": "ok"} | parts).items() <= ready.body.items()
        metrics = await service("GET", f"/metrics{slash}")
        assert metrics.status == 200
        assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert b"\ntokenwire_http_requests_total{" in metrics.raw


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("spelling", ["{}", "{}/", "/{}", "{}/more", "/x/..{}", "/%6{}"])
async def test_the_edge_exposes_none_of_it(stack: Stack, path: str, spelling: str) -> None:
    """The edge exposes none of these, however the path is written."""
    written = f"/%{ord(path[1]):x}{path[2:]}" if spelling == "/%6{}" else spelling.format(path)
    response = await stack.anybody("GET", written)
    assert response.status == 404
    assert b"tokenwire_" not in response.raw


# The command line


@pytest.fixture(scope="module")
async def help_texts() -> Mapping[str, Outcome]:
    """The `--help` of each program."""
    programs = ("services", *(f"services.{service}" for service in SERVICES))
    outcomes = await asyncio.gather(*(run_python(program, "--help") for program in programs))
    return dict(zip(programs, outcomes, strict=True))


@pytest.mark.parametrize("service", SERVICES)
def test_help_names_every_setting(help_texts: Mapping[str, Outcome], service: str) -> None:
    """`--help` works without any setting, and lists all of them."""
    outcome = help_texts[f"services.{service}"]
    assert (outcome.status, outcome.complaints) == (0, "")
    assert outcome.out.startswith(f"usage: python -m services.{service} ")
    for name in settings_class(service).model_fields:
        assert f"  TOKENWIRE_{name.upper()} " in outcome.out


def test_help_of_all_in_one_names_its_options(help_texts: Mapping[str, Outcome]) -> None:
    """`--help` of all-in-one lists the options that `make run` passes on."""
    outcome = help_texts["services"]
    assert (outcome.status, outcome.complaints) == (0, "")
    assert outcome.out.startswith("usage: python -m services ")
    for option in ("--host", "--port", "--data"):
        assert option in outcome.out


# Settings

KEY = base64.b64encode(bytes(range(32))).decode()
NEEDED = {
    "TOKENWIRE_PORT": "0",
    "TOKENWIRE_MONGODB_URL": "mongodb://127.0.0.1:9/?replicaSet=rs0",
    "TOKENWIRE_AMQP_URL": "amqp://127.0.0.1:9/",
    "TOKENWIRE_KEYS": f"1:{KEY}",
    "TOKENWIRE_NOTIFIER_PUBLIC_KEY": KEY,
    "TOKENWIRE_NOTIFIER_PRIVATE_KEYS": KEY,
}
MISSING = "\0"
PASSWORD = "hush-hush"

WRONG = [
    ("token", "MONGODB_URL", MISSING),
    ("token", "KEYS_FILE", "/nowhere/keys"),
    ("token", "MONGODB_URL", f"mongodb://user:{PASSWORD}/w@127.0.0.1/"),
    ("authorization", "KEYS", f"1:{PASSWORD}"),
    ("revocation", "OAUTH_ERROR_STATUS", "200"),
    ("notifier", "NOTIFIER_PRIVATE_KEYS", f"{KEY},{PASSWORD}"),
    ("management", "BOOTSTRAP_OPERATOR_KEY", PASSWORD),
    ("gateway", "AMQP_URL", f"http://user:{PASSWORD}@127.0.0.1/"),
    ("gateway", "HOST", "203.0.113.1"),
]
"""One of each kind and each service; tests/unit/test_settings.py has the rest."""


@pytest.fixture(scope="module")
async def refusals() -> Mapping[tuple[str, str, str], Outcome]:
    """Exit status and output of each wrong start, a few at a time."""
    places = asyncio.Semaphore(3)

    async def refusal(service: str, name: str, value: str) -> Outcome:
        settings = {**NEEDED, f"TOKENWIRE_{name.removesuffix('_FILE')}": MISSING, f"TOKENWIRE_{name}": value}
        given = {name: value for name, value in settings.items() if value != MISSING}
        async with places:
            return await run_python(f"services.{service}", settings=given)

    outcomes = await asyncio.gather(*(refusal(*wrong) for wrong in WRONG))
    return dict(zip(WRONG, outcomes, strict=True))


@pytest.mark.parametrize("wrong", [pytest.param(wrong, id="-".join(wrong[:2])) for wrong in WRONG])
def test_a_wrong_setting_stops_the_start_with_one_line(
    refusals: Mapping[tuple[str, str, str], Outcome], wrong: tuple[str, str, str]
) -> None:
    """A wrong setting stops the start with one line that names program and setting, and shows no value."""
    service, name, _ = wrong
    outcome = refusals[wrong]
    assert outcome.status == 1
    line = outcome.complaint
    assert line.startswith(f"python -m services.{service}: TOKENWIRE_")
    assert f"TOKENWIRE_{name}" in line
    assert PASSWORD not in line
    assert PASSWORD not in outcome.out


async def test_a_file_may_hold_a_setting_and_must_be_text(tmp_path: Path) -> None:
    """A `_FILE` setting whose file is not text is refused in one line that names variable and file."""
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    given = {**NEEDED, "TOKENWIRE_KEYS_FILE": str(tmp_path / "keys")}
    del given["TOKENWIRE_KEYS"]
    outcome = await run_python("services.gateway", settings=given)
    assert outcome.status == 1
    assert outcome.complaints == (
        f"python -m services.gateway: TOKENWIRE_KEYS_FILE: {tmp_path}/keys: UTF-8 text is expected\n"
    )


async def test_a_port_in_use_is_reported_in_one_line() -> None:
    """A used port is reported in one line with the address and the settings that change it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = await run_python("services.gateway", settings={**NEEDED, "TOKENWIRE_PORT": str(port)})
    assert outcome.status == 1
    assert f"TOKENWIRE_PORT: cannot listen on 127.0.0.1:{port}: Address already in use" in outcome.complaint


async def test_b10_a_url_that_is_none_is_named_with_all_that_is_missing() -> None:
    """A malformed URL is reported together with all missing settings. All-in-one needs none, but refuses wrong ones."""
    wrong = {"TOKENWIRE_MONGODB_URL": "x", "TOKENWIRE_AMQP_URL": "localhost", "TOKENWIRE_LINGER": "long"}
    for program, named in {"services.token": ["KEYS", "NOTIFIER_PUBLIC_KEY"], "services": []}.items():
        outcome = await run_python(program, settings=wrong)
        assert outcome.status == 1
        settings = sorted(["AMQP_URL", "LINGER", "MONGODB_URL", *named])
        lines = sorted(outcome.complaints.splitlines())
        assert [line.split(":")[:2] for line in lines] == [
            [f"python -m {program}", f" TOKENWIRE_{name}"] for name in settings
        ], outcome.complaints
