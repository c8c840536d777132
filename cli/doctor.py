"""`tokenwire doctor`: what is wrong, at the server of the profile and with the settings here, and how to mend it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from pydantic import ValidationError

from cli import profiles
from cli.api_client import ApiClient, Reply, tokenwire
from cli.failures import FAILED, Failure
from cli.options import JSON, PROFILE
from cli.output import console, show_json
from cli.profiles import DEFAULT_PROFILE, Profile
from contracts.diagnosis import Check, CheckState, Diagnosis, diagnosis, failed, passed, skipped

CLOCK_WITHIN = timedelta(seconds=5)
EXPIRES_SOON = timedelta(days=7)
SERVER_SETTINGS = ("TOKENWIRE_MONGODB_URL", "TOKENWIRE_AMQP_URL", "TOKENWIRE_KEYS")
"""If one of them is set, or its …_FILE, the server's parts can be checked from here."""
DATA = Path(".data")
_MARKS = {CheckState.OK: "[green]✓[/]", CheckState.WRONG: "[red]✗[/]", CheckState.SKIPPED: "[dim]–[/]"}
_LOCAL = {"127.0.0.1", "::1", "localhost"}


def doctor(
    data: Annotated[
        Path | None, typer.Option("--data", help="The data directory of `make run`, if it is not .data.")
    ] = None,
    env_file: Annotated[Path, typer.Option("--env-file", help="Settings that the environment lacks.")] = Path(".env"),
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Check what Tokenwire needs, and say how to mend what is wrong.

    With a profile: the management API, the key, the clock, and what the services say of their dependencies. Where the
    settings of the server are in the environment or in .env: MongoDB, RabbitMQ, keys, indexes, port and disk.
    Status 1: something is wrong.
    """
    settings = {**_settings_in(env_file), **os.environ}
    here = data is not None or DATA.is_dir() or _has_server_settings(settings)
    checks = asyncio.run(_of_the_api(profile, needed=not here))
    checks += _of_the_server(settings, data or DATA) if here else [_NOT_HERE]
    report = diagnosis(*checks)
    if as_json:
        show_json(report.model_dump(mode="json"))
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(FAILED)


_NOT_HERE = skipped(
    "server", f"none of {', '.join(SERVER_SETTINGS)} is set here; run it where the services run to check their parts"
)


def _show(report: Diagnosis) -> None:
    out = console()
    for check in report.checks:
        out.print(f"{_MARKS[check.state]} ", end="")
        out.print(f"{check.name}: {check.says}", markup=False)
        if check.remedy:
            out.print(f"    mend it: {check.remedy}", markup=False)
    wrong = sum(check.state is CheckState.WRONG for check in report.checks)
    out.print("all is well" if report.ok else f"{wrong} of {len(report.checks)} checks found something wrong")


# The management API


async def _of_the_api(name: str, *, needed: bool) -> list[Check]:
    try:
        profile = profiles.load(name)
    except Failure as failure:
        if needed:
            return [failed("profile", str(failure), "`tokenwire login` keeps a server and an operator key")]
        return [skipped("management API", "no server is known: `tokenwire login` keeps one")]
    async with tokenwire(profile) as client:
        return [check_transport(profile), *[check async for check in _asked(client)]]


def check_transport(profile: Profile) -> Check:
    """Whether the key is encrypted on its way."""
    parts = urlsplit(profile.url)
    if parts.scheme == "https" or parts.hostname in _LOCAL:
        return passed("profile", profile.url)
    return failed(
        "profile", f"{profile.url} is not encrypted: anyone on the way can read the key", "log in with an https:// URL"
    )


async def _asked(client: ApiClient) -> AsyncIterator[Check]:
    asked = datetime.now(UTC)
    try:
        reply = await client.once("GET", "/api/operators/self")
        yield check_key(reply, datetime.now(UTC))
        yield check_clock(reply.headers.get("Date", ""), asked, datetime.now(UTC))
        for check in check_readiness(await client.once("GET", "/readyz")):
            yield check
    except Failure as failure:
        yield failed("management API", str(failure), "start it, or log in with its URL: `tokenwire login --url URL`")


def check_key(reply: Reply, now: datetime) -> Check:
    """Whether the management API accepts the key."""
    if reply.status == 401:
        return failed("operator key", "it is not accepted", "`tokenwire login` again, with a key that is valid")
    if reply.status != 200 or not isinstance(reply.value, dict) or "operator_id" not in reply.value:
        says = f"it responds with {reply.status} instead of an operator"
        return failed("management API", says, "see whether the URL is right, and docs/runbook.md")
    name, rights = reply.value.get("name"), ", ".join(reply.value.get("permissions", ()))
    expires = reply.value.get("expires_at")
    if expires and datetime.fromisoformat(expires) - now < EXPIRES_SOON:
        return failed("operator key", f"{name} ({rights}) expires at {expires}", "`tokenwire operators rotate`")
    return passed("operator key", f"{name} ({rights})")


def check_clock(date: str, asked: datetime, answered: datetime) -> Check:
    """Whether the server's clock agrees with this machine's: between the request and its response, to the second."""
    try:
        there = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return skipped("clock", "the server does not say its time")
    ahead = there - answered if there > answered else min(there + timedelta(seconds=1) - asked, timedelta())
    if abs(ahead) <= CLOCK_WITHIN:
        return passed("clock", "it agrees with the server's")
    way = "ahead of" if ahead > timedelta() else "behind"
    return failed(
        "clock",
        f"the server's is {abs(ahead.total_seconds()):.0f} s {way} this machine's",
        "synchronise both with NTP (`timedatectl set-ntp true`)",
    )


def check_readiness(reply: Reply) -> Iterator[Check]:
    """What the services say of each thing that they need."""
    states = reply.value if isinstance(reply.value, dict) else {}
    if reply.status not in {200, 503} or states.get("status") not in {"ok", "degraded", "unavailable"}:
        yield skipped("readiness", "/readyz is not offered at this URL; the edge hides it")
        return
    wrong = {name: state for name, state in states.items() if name != "status" and state != "ok"}
    for name, state in wrong.items():
        yield failed("readiness", f"{name}: {state}", "see docs/runbook.md, NotReady")
    if not wrong:
        yield passed("readiness", ", ".join(name for name in states if name != "status"))


# The server's parts


def _settings_in(file: Path) -> dict[str, str]:
    """The settings in a file of lines `NAME=value`; none if there is no such file."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file} cannot be read: {error}; name another file with --env-file") from None
    pairs = (line.removeprefix("export ").partition("=") for line in map(str.strip, text.splitlines()))
    return {
        name.strip(): value.strip().strip("\"'")
        for name, sign, value in pairs
        if sign and name.startswith("TOKENWIRE_") and value.strip()
    }


def _has_server_settings(settings: Mapping[str, str]) -> bool:
    return any(settings.get(f"{name}{end}") for name in SERVER_SETTINGS for end in ("", "_FILE"))


def _of_the_server(settings: Mapping[str, str], data: Path) -> list[Check]:
    """The checks of `python -m services doctor`, which has what they need; the command line has only HTTP."""
    command = [sys.executable, "-m", "services", "doctor", "--json", "--data", str(data)]
    done = subprocess.run(command, env={**settings}, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    try:
        return list(Diagnosis.model_validate_json(done.stdout).checks)
    except ValidationError:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        return [failed("server", f"its checks ended with status {done.returncode}: {lines[-1]}", "see the line above")]
