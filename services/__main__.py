"""Every service in one process on one port: `python -m services`. And the commands, such as `audit` and `parked`."""

import argparse
import asyncio
import base64
import os
import secrets
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from pydantic import Field, SecretStr

from libs import logging
from libs.bus.local import LocalBus
from libs.bus.port import Bus
from libs.runtime import Deps, new_application, new_deps
from libs.sealing import public_key_of
from libs.serving import serve
from libs.settings import Environment, LogFormat, Settings, WrongSetting, load, read_as
from libs.store.mongo import Conflict
from services import parking, reseal
from services.audit import command as audit
from services.authorization import app as authorization
from services.authorization.settings import AuthorizationSettings
from services.demo_data import CLIENT_ID, CLIENT_SECRET, PER, RATE, load_demo_data
from services.embedded import EmbeddedMongo, EmbeddedMongoFailed, EmbeddedMongoMissing
from services.gateway import app as gateway
from services.gateway.settings import GatewaySettings
from services.management import app as management
from services.management.settings import ManagementSettings
from services.notifier import app as notifier
from services.notifier.settings import NotifierSettings, private_keys
from services.records import CannotLook
from services.revocation import app as revocation
from services.revocation.settings import RevocationSettings
from services.token import app as token
from services.token.settings import TokenSettings


class AllInOneSettings(Settings):
    """The common settings, with something sensible on one's own machine for each that would be required."""

    environment: Environment = Environment.DEVELOPMENT
    mongodb_url: SecretStr = Field(SecretStr(""), description="A MongoDB of your own; unset: an embedded one.")
    amqp_url: SecretStr = Field(SecretStr(""), description="A RabbitMQ of your own; unset: a bus inside the process.")
    keys: SecretStr = Field(SecretStr(""), description="Key ring; unset: made on the first start, kept in the data.")
    notifier_private_keys: SecretStr = Field(SecretStr(""), description="Notifier keys; unset: made and kept, too.")
    bootstrap_operator_key: SecretStr = Field(SecretStr(""), description="Operator key; unset: made and kept, too.")
    allow_private_destinations: bool | None = Field(
        None, description="Webhooks to this machine; unset: in development."
    )
    linger: float = Field(0.0, ge=0, le=30, description="Seconds for which a stopping process still answers.")
    log_level: str = Field("warning", pattern=r"^(debug|info|warning|error)$", description="How much is logged.")
    log_format: LogFormat = LogFormat.CONSOLE


def _kept(path: Path, make: Callable[[], str]) -> str:
    """The text of this file, made on first use and readable by its owner only; there is never a part of it."""
    if not path.exists():
        draft = _drafted(path, make())
        with suppress(FileExistsError):  # another start on the same data was faster: its text counts
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text(encoding="utf-8").strip()


def _drafted(path: Path, text: str) -> Path:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    return draft


def _random_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _completed(settings: AllInOneSettings, data: Path) -> dict[str, object]:
    """Values for what the environment leaves open."""
    keys = settings.keys.get_secret_value() or _kept(data / "keys", lambda: f"1:{_random_key()}")
    private = settings.notifier_private_keys.get_secret_value() or _kept(data / "notifier-key", _random_key)
    operator = settings.bootstrap_operator_key.get_secret_value()
    if not operator:
        operator = _kept(data / "operator-key", lambda: f"tw_ok_{secrets.token_urlsafe(32)}")
    private_too = settings.allow_private_destinations
    if private_too is None:
        private_too = settings.environment is Environment.DEVELOPMENT
    with read_as("notifier_private_keys"):
        newest = private_keys(SecretStr(private))[0]
    return {
        **settings.model_dump(exclude={"notifier_private_keys", "bootstrap_operator_key", "keys"}),
        "keys": keys,
        "notifier_private_keys": private,
        "notifier_public_key": base64.b64encode(public_key_of(newest)).decode(),
        "bootstrap_operator_key": operator,
        "allow_private_destinations": private_too,
    }


def _installed(settings: AllInOneSettings, values: dict[str, object], bus: Bus | None) -> tuple[web.Application, Deps]:
    """One application with every service on it."""
    common = load(Settings, **values)
    deps = new_deps(common, "all", bus)
    app = new_application(common, deps)
    # Before management, whose /api/apis/oauth/{api_id}/{client_id} would take /api/apis/oauth/{client_id}/tokens.
    revocation.install(app, load(RevocationSettings, **values), deps)
    authorization.install(app, load(AuthorizationSettings, **values), deps)
    token.install(app, load(TokenSettings, **values), deps)
    notifier.install(app, load(NotifierSettings, **values), deps)
    management.install(app, load(ManagementSettings, **values), deps)
    gateway.install(app, load(GatewaySettings, **values), deps)
    return app, deps


def _with_demo_data(deps: Deps, marker: Path, port: int) -> Callable[[web.Application], AsyncIterator[None]]:
    first_start = not marker.exists()

    async def loaded(_: web.Application) -> AsyncIterator[None]:
        if first_start:
            await deps.store.mongo.prepared()
            with suppress(Conflict):  # a first start that was cut short has left it
                await load_demo_data(deps, port)
            await asyncio.to_thread(marker.touch)
        yield

    return loaded


def _base(settings: AllInOneSettings) -> str:
    """Where a browser on this machine finds it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _banner(base: str, operator_key: str, data: Path) -> str:
    kept = _with_operator_key(data / "operator-key", operator_key)
    return f"""
Tokenwire is ready on {base}

  operator key   {operator_key}
                 (also in {kept})
  demo client    {CLIENT_ID} / {CLIENT_SECRET}

Get a first token:

  curl {base}/demo-api/oauth/token -u {CLIENT_ID}:{CLIENT_SECRET} -d grant_type=client_credentials

Call the API with it, through the gateway; its policy allows {RATE} calls in {PER} seconds:

  curl {base}/demo-api/ -H "Authorization: Bearer <access_token>"

See what is registered:

  curl {base}/api/apis -H "Authorization: $(cat {shlex.quote(str(kept))})"

Stop with Ctrl-C; the data stays in {data}
"""


def _with_operator_key(path: Path, key: str) -> Path:
    """The file, holding this key also where the environment has set it."""
    if _kept(path, lambda: key) != key:
        _drafted(path, key).replace(path)
    return path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m services", description="Run every service in one process on one port, or one of the commands."
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (8080)")
    parser.add_argument("--data", type=Path, default=Path(".data"), help="where keys and data are kept (.data)")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="{audit,parked,redrive,reseal}")
    for each in (audit, parking, reseal):
        each.add_to(commands)
    return parser.parse_args()


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "audit": audit.run,
    "parked": parking.run,
    "redrive": parking.run,
    "reseal": reseal.run,
}
"""What each command does; it returns its exit status."""
LOOKING = frozenset({"audit", "reseal"})
"""Those whose exit status tells what they found, so that one which says that they could not look must be another."""


def _run(arguments: argparse.Namespace) -> None:
    given = {name: value for name, value in vars(arguments).items() if value is not None and name != "data"}
    settings = load(AllInOneSettings, **given)
    logging.configure(settings.log_level, settings.log_format is LogFormat.JSON, "tokenwire")
    data: Path = arguments.data
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    values = _completed(settings, data)
    base = _base(settings)
    if "public_url" not in settings.model_fields_set:
        values["public_url"] = base
    mongo = None if settings.mongodb_url.get_secret_value() else EmbeddedMongo(data)
    bus = None if settings.amqp_url.get_secret_value() else LocalBus()
    try:
        if mongo:
            print("starting MongoDB …", flush=True)  # noqa: T201 - for the person at the terminal
            asyncio.run(mongo.start())
            values["mongodb_url"] = mongo.url
        app, deps = _installed(settings, {"amqp_url": "local", **values}, bus)
        app.cleanup_ctx.append(_with_demo_data(deps, data / "demo-loaded", settings.port))
        ready = _banner(base, str(values["bootstrap_operator_key"]), data)
        serve(app, settings.host, settings.port, linger=settings.linger, announce=lambda: print(ready, flush=True))  # noqa: T201 - as above
    finally:
        if mongo:
            asyncio.run(mongo.stop())


def main() -> None:
    """Run until Ctrl-C or SIGTERM; what cannot start says why in one line."""
    arguments = _arguments()
    try:
        if arguments.command:
            sys.exit(COMMANDS[arguments.command](arguments))
        _run(arguments)
    except parking.NothingParked as reason:
        sys.exit(f"python -m services {arguments.command}: {reason}")
    except CannotLook as reason:
        _end(f"python -m services {arguments.command}: {reason}", CannotLook.status)
    except WrongSetting as reason:
        _end(f"python -m services: {reason}", CannotLook.status if arguments.command in LOOKING else 1)
    except (EmbeddedMongoMissing, EmbeddedMongoFailed) as reason:
        sys.exit(f"python -m services: {reason}")
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        sys.exit(f"python -m services: {about}{error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)  # while MongoDB was starting; afterwards Ctrl-C is an orderly stop


def _end(line: str, status: int) -> None:
    sys.stderr.write(f"{line}\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
