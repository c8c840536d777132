"""`python -m services`: every service in one process on one port. Also the commands, such as `config-lint`."""

import argparse
import asyncio
import base64
import os
import secrets
import shlex
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import orjson
from aiohttp import web
from pydantic import Field, SecretStr

from libs import logging
from libs.bus.local import LocalBus
from libs.bus.port import Bus
from libs.bus.worker_relay import bus_of
from libs.demo_credentials import CLIENT_ID, CLIENT_SECRET, PASSWORD, USERNAME
from libs.encryption import KeyRing, public_key_of
from libs.http.health_endpoints import Health
from libs.runtime import (
    URLS,
    Deps,
    Parser,
    add_worker_option,
    new_application,
    new_deps,
    say_listening,
    say_stopped,
    serve_as,
    warn_of_misspellings,
)
from libs.serving import listening, listening_for_workers, serve
from libs.settings import Environment, LogFormat, Settings, WrongSetting, load, read_as
from libs.store.backup import BackupFailed
from libs.store.mongo import Conflict
from libs.version import VERSION
from libs.workers.launch import require_workers, worker_command
from libs.workers.membership import Membership
from libs.workers.parent import Workers
from libs.workers.worker_process import Worker
from services import backup_command, dead_letters_command, reencrypt
from services.authorization import app as authorization
from services.authorization.settings import AuthorizationSettings
from services.command_store import StoreUnreadable
from services.config_lint import command as config_lint
from services.console import app as console
from services.console.session_cookies import PATH as CONSOLE
from services.console.settings import ConsoleSettings
from services.demo_data import PER, RATE, load_demo_data
from services.doctor import doctor_command as doctor
from services.embedded import DELETE_IT, EmbeddedMongo, EmbeddedMongoFailed, EmbeddedMongoMissing
from services.gateway import app as gateway
from services.gateway.settings import GatewaySettings
from services.health import ask
from services.local_secrets import Damaged, kept, read, replaced
from services.management import app as management
from services.management.settings import ManagementSettings, require_operator_key
from services.notifier import app as notifier
from services.notifier.settings import NotifierSettings, private_keys
from services.reconciliation import app as reconciliation
from services.revocation import app as revocation
from services.revocation.settings import RevocationSettings
from services.token import app as token
from services.token.settings import TokenSettings

RESTORE_IT = "restore it from a backup, or delete the whole directory to start over"
CONNECTED_WITHIN = 3.0
"""Seconds that the start waits for MongoDB and RabbitMQ before it prints the banner without them."""


class AllInOneSettings(Settings):
    """The common settings, with defaults for a developer's machine instead of required ones."""

    environment: Environment = Field(
        Environment.DEVELOPMENT, description="development allows what is only safe on your own machine."
    )
    mongodb_url: SecretStr = Field(SecretStr(""), description="URL of an existing MongoDB; default: an embedded one.")
    amqp_url: SecretStr = Field(SecretStr(""), description="URL of an existing RabbitMQ; default: an in-process bus.")
    keys: SecretStr = Field(SecretStr(""), description="Key ring; default: generated and kept in the data directory.")
    notifier_private_keys: SecretStr = Field(
        SecretStr(""), description="Keys that decrypt webhooks; default: generated and kept."
    )
    bootstrap_operator_key: SecretStr = Field(SecretStr(""), description="Operator key; default: generated and kept.")
    allow_private_destinations: bool | None = Field(
        None, description="Allow webhooks to private addresses; default: only in development."
    )
    linger: float = Field(0.0, ge=0, le=30, description="Seconds for which a stopping process still responds.")
    log_level: str = Field(
        "warning", pattern=r"^(debug|info|warning|error)$", description="Lowest level that is logged."
    )
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="json for machines, console for people.")


def _kept_operator_key(path: Path) -> str:
    """The stored operator key, or a new one, which is not stored yet. Raises Damaged."""
    return read(path, require_operator_key, DELETE_IT) if path.exists() else f"tw_ok_{secrets.token_urlsafe(32)}"


def _random_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _completed(settings: AllInOneSettings, data: Path) -> dict[str, object]:
    """The settings, completed with generated values for those that are not set."""
    keys = settings.keys.get_secret_value() or kept(
        data / "keys", lambda: f"1:{_random_key()}", KeyRing.parse, RESTORE_IT
    )
    private = settings.notifier_private_keys.get_secret_value() or kept(
        data / "notifier-key", _random_key, lambda text: private_keys(SecretStr(text)), RESTORE_IT
    )
    operator = settings.bootstrap_operator_key.get_secret_value() or _kept_operator_key(data / "operator-key")
    allow_private = settings.allow_private_destinations
    if allow_private is None:
        allow_private = settings.environment is Environment.DEVELOPMENT
    with read_as("notifier_private_keys"):
        newest = private_keys(SecretStr(private))[0]
    return {
        **settings.model_dump(exclude={"notifier_private_keys", "bootstrap_operator_key", "keys"}),
        "keys": keys,
        "notifier_private_keys": private,
        "notifier_public_key": base64.b64encode(public_key_of(newest)).decode(),
        "bootstrap_operator_key": operator,
        "allow_private_destinations": allow_private,
    }


def _installed(settings: AllInOneSettings, values: dict[str, object], bus: Bus | None) -> tuple[web.Application, Deps]:
    """One application with all services."""
    common, of_token = load(Settings, **values), load(TokenSettings, **values)
    deps = new_deps(common, "all", bus)
    app = new_application(common, deps, of_token.oauth_error_status)
    # Before management: its /api/apis/oauth/{api_id}/{client_id} would otherwise match …/{client_id}/tokens.
    revocation.install(app, load(RevocationSettings, **values), deps)
    authorization.install(app, load(AuthorizationSettings, **values), deps)
    token.install(app, of_token, deps)
    notifier.install(app, load(NotifierSettings, **values), deps)
    management.install(app, load(ManagementSettings, **values), deps)
    reconciliation.install(app, deps)
    gateway.install(app, load(GatewaySettings, **values), deps)
    # The key ring's keys are never used themselves, only those that are derived for one purpose.
    console.install(app, load(ConsoleSettings, **{"console_keys": common.keys, **values}), deps.health, deps.now)
    return app, deps


def _with_demo_data(deps: Deps, marker: Path, port: int) -> Callable[[web.Application], AsyncIterator[None]]:
    first_start = not marker.exists()

    async def loaded(_: web.Application) -> AsyncIterator[None]:
        if first_start:
            await deps.store.mongo.prepared()
            with suppress(Conflict):  # left by a first start that was interrupted
                await load_demo_data(deps, port)
            await asyncio.to_thread(marker.touch)
        yield

    return loaded


def _base(host: str, port: int) -> str:
    """The URL for a browser on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _banner(
    base: str, operator: str, kept_in: Path, data: Path, *, demo: bool, problems: Sequence[str], workers: int = 1
) -> str:
    """The text printed at the start; `operator` is the operator key, or where to find it."""
    state = "listens" if any("MONGODB" in line for line in problems) else "is ready"
    headline = "\n\n".join([f"Tokenwire {state} on {base}", *problems])
    lines = [f"\n{headline}\n\n  console        {base}{CONSOLE}/\n  operator key   {operator}"]
    if workers > 1:
        lines.append(f"  workers        {workers}")
    if demo:
        lines.append(
            f"""  demo client    {CLIENT_ID} / {CLIENT_SECRET}
  demo user      {USERNAME} / {PASSWORD}

Get a first token:

  curl {base}/demo-api/oauth/token -u {CLIENT_ID}:{CLIENT_SECRET} -d grant_type=client_credentials

Call the API with it, through the gateway; its policy allows {RATE} calls in {PER} seconds:

  curl {base}/demo-api/ -H "Authorization: Bearer <access_token>\""""
        )
    lines.append(
        f"""
See what is registered:

  curl {base}/api/apis -H "Authorization: $(cat {shlex.quote(str(kept_in))})"

Stop with Ctrl-C; the data stays in {data}
"""
    )
    return "\n".join(lines)


def _operator_line(key: str, path: Path, *, given: bool) -> str:
    """The key if it was just generated, otherwise where it is stored: not every terminal log should have it."""
    first = not path.exists()
    _with_operator_key(path, key)
    if given:
        return f"TOKENWIRE_BOOTSTRAP_OPERATOR_KEY, also in {path}"
    return f"{key}\n                 (shown this once; kept in {path})" if first else f"kept in {path}"


def _with_operator_key(path: Path, key: str) -> None:
    """Store the key in the file, also if it was set in the environment."""
    if not path.exists() or path.read_bytes().strip() != key.encode():
        replaced(path, key)


def _arguments() -> argparse.Namespace:
    parser = Parser(
        prog="python -m services", description="Run every service in one process on one port, or one of the commands."
    )
    parser.add_argument("--version", action="version", version=f"tokenwire {VERSION}")
    parser.set_defaults(host=None, port=None, data=Path(".data"), embedded=False)
    _add_options(parser)
    commands = parser.add_subparsers(
        dest="command",
        title="commands",
        metavar="{run,doctor,config-lint,dead-letters,redrive,reencrypt,backup,restore}",
    )
    _add_options(commands.add_parser("run", help="run every service; the same as no command"))
    for each in (doctor, config_lint, dead_letters_command, reencrypt, backup_command):
        each.add_to(commands)
    return parser.parse_args()


def _add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `run`, allowed before and after the command."""
    # Without SUPPRESS the defaults of the command's parser would overwrite what stands before the command.
    absent = argparse.SUPPRESS
    parser.add_argument("--host", default=absent, help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=absent, help="port to listen on (8080)")
    parser.add_argument("--data", type=_path, default=absent, help="directory for keys and data (.data)")
    # Only the parent process gives these, to its workers.
    parser.add_argument("--embedded", action="store_true", default=absent, help=argparse.SUPPRESS)
    add_worker_option(parser)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "doctor": doctor.run,
    "config-lint": config_lint.run,
    "dead-letters": dead_letters_command.run,
    "redrive": dead_letters_command.run,
    "reencrypt": reencrypt.run,
    "backup": backup_command.run_backup,
    "restore": backup_command.run_restore,
}
"""The function of each command; returns the exit status."""
REPORTING = frozenset({"config-lint", "reencrypt"})
"""Commands whose exit status 1 reports findings; a failure to run must have another status."""


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("the path of a directory is expected")
    return Path(text)


def _make_usable(data: Path) -> None:
    """Create the data directory if needed. Raises WrongSetting if it cannot be written to."""
    reason = ""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
            reason = "it is not writable"
    except (FileExistsError, NotADirectoryError):
        reason = "it or one of its parents is not a directory"
    except OSError as error:
        reason = f"it cannot be created: {error.strerror}"
    if reason:
        raise WrongSetting(
            f"--data (DATA= of make run): {data} cannot be used for the data: {reason}; name another directory"
        )


_NOT_SETTINGS = frozenset({"data", "command", "embedded", "worker"})


def _run(arguments: argparse.Namespace) -> None:
    given = {name: value for name, value in vars(arguments).items() if value is not None and name not in _NOT_SETTINGS}
    settings = load(AllInOneSettings, URLS, **given)
    worker: Membership | None = arguments.worker
    is_json = settings.log_format is LogFormat.JSON
    logging.configure(settings.log_level, is_json, "tokenwire", worker.number if worker else None)
    data: Path = arguments.data
    if worker is not None:
        _run_worker(Worker(worker), settings, data, has_embedded_mongo=arguments.embedded)
        return
    warn_of_misspellings(AllInOneSettings)
    _make_usable(data)
    values = _completed(settings, data)
    mongo = None if settings.mongodb_url.get_secret_value() else EmbeddedMongo(data)
    if settings.workers > 1:
        _run_workers(settings, values, data, mongo, given)
    else:
        _run_alone(settings, values, data, mongo, given)
    say_stopped()
    print("Tokenwire has stopped", flush=True)  # noqa: T201 - for the person at the terminal


def _run_alone(
    settings: AllInOneSettings,
    values: dict[str, object],
    data: Path,
    mongo: EmbeddedMongo | None,
    given: Mapping[str, object],
) -> None:
    bus = None if settings.amqp_url.get_secret_value() else LocalBus()
    demo = _has_demo_data(settings, is_embedded=mongo is not None)
    try:
        with _listener(settings, given) as listener:
            port = listener.getsockname()[1]
            base = _base(settings.host, port)
            values |= _urls(settings, base)
            if mongo:
                values["mongodb_url"] = _started(mongo)
            app, deps = _installed(settings, {"amqp_url": "local", **values}, bus)
            if mongo:
                _keep_running(app, deps, mongo)
            if demo:
                app.cleanup_ctx.append(_with_demo_data(deps, data / "demo-loaded", port))
            problems = _StartupProblems(deps.health)
            app.on_startup.append(problems.look)
            path = data / "operator-key"
            operator = _given_or_kept_operator_key(settings, values, path)

            def announce() -> None:
                say_listening(settings, listener)
                print(_banner(base, operator, path, data, demo=demo, problems=problems.lines), flush=True)  # noqa: T201 - as above

            serve(app, listener, linger=settings.linger, announce=announce)
    finally:
        if mongo:
            asyncio.run(mongo.stop())


def _run_workers(
    settings: AllInOneSettings,
    values: dict[str, object],
    data: Path,
    mongo: EmbeddedMongo | None,
    given: Mapping[str, object],
) -> None:
    """Run the embedded MongoDB in this process, and the services in several others."""
    require_workers()
    sockets = listening_for_workers(settings.host, settings.port, settings.workers, **_sources(given))
    base = _base(settings.host, sockets[0].getsockname()[1])
    # What is wrong with the settings is said here once, and not by every worker.
    _installed(settings, {"amqp_url": "local", **values, **_urls(settings, base), **_unused(mongo)}, LocalBus())
    path = data / "operator-key"
    operator = _given_or_kept_operator_key(settings, values, path)
    demo = _has_demo_data(settings, is_embedded=mongo is not None)

    def announce() -> None:
        problems = _problem_lines(_states_at(f"{base}/readyz"))
        banner = _banner(base, operator, path, data, demo=demo, problems=problems, workers=settings.workers)
        print(banner, flush=True)  # noqa: T201 - for the person at the terminal

    async def run(workers: Workers) -> int:
        keeping = asyncio.create_task(mongo.keep_running()) if mongo else None
        status = await workers.run()
        if keeping:
            keeping.cancel()
        return status

    try:
        environment = {"TOKENWIRE_MONGODB_URL": _started(mongo)} if mongo else {}
        command = [*worker_command(), *(["--embedded"] if mongo else [])]
        workers = Workers(
            command,
            sockets,
            linger=settings.linger,
            ready=lambda: _in_thread(announce),
            environment=environment,
        )
        status = asyncio.run(run(workers))
    finally:
        if mongo:
            asyncio.run(mongo.stop())
    if workers.complaint:
        _end(f"python -m services: {workers.complaint}", status)
    if status:
        sys.exit(status)


def _run_worker(worker: Worker, settings: AllInOneSettings, data: Path, *, has_embedded_mongo: bool) -> None:
    """Run every service as one of several processes."""
    port = worker.listeners[0].getsockname()[1]
    values = _completed(settings, data) | _urls(settings, _base(settings.host, port))
    bus = None if settings.amqp_url.get_secret_value() else bus_of(worker)
    app, deps = _installed(settings, {"amqp_url": "local", **values}, bus)
    if worker.number == 1 and _has_demo_data(settings, is_embedded=has_embedded_mongo):
        app.cleanup_ctx.append(_with_demo_data(deps, data / "demo-loaded", port))
    app.on_startup.append(_StartupProblems(deps.health).look)
    serve_as(worker, settings, app)


def _in_thread(work: Callable[[], None]) -> None:
    """Run this in a thread, because it blocks."""
    threading.Thread(target=work, daemon=True).start()


def _states_at(url: str) -> Mapping[str, str]:
    """The state of each dependency by name, as `/readyz` says; nothing if it does not respond."""
    _, line = ask(url)
    _, _, body = line.partition("{")
    try:
        states: Mapping[str, str] = orjson.loads("{" + body)
    except orjson.JSONDecodeError:
        return {}
    return states


def _has_demo_data(settings: AllInOneSettings, *, is_embedded: bool) -> bool:
    # The demo client's secret is public, so it must never exist outside a developer's machine.
    return is_embedded and settings.environment is Environment.DEVELOPMENT


def _urls(settings: AllInOneSettings, base: str) -> dict[str, object]:
    """The URLs that follow the address and the port."""
    own = {} if "public_url" in settings.model_fields_set else {"public_url": base}
    return {**own, "services_url": base}


def _unused(mongo: EmbeddedMongo | None) -> dict[str, object]:
    """A URL in place of that of an embedded MongoDB that has not been started."""
    return {"mongodb_url": "mongodb://127.0.0.1/?replicaSet=rs0"} if mongo else {}


def _started(mongo: EmbeddedMongo) -> str:
    """Start the embedded MongoDB; its URL."""
    print("starting MongoDB …", flush=True)  # noqa: T201 - for the person at the terminal
    asyncio.run(mongo.start())
    return mongo.url


def _given_or_kept_operator_key(settings: AllInOneSettings, values: Mapping[str, object], path: Path) -> str:
    """The banner's line about the operator key, which is stored."""
    given = bool(settings.bootstrap_operator_key.get_secret_value())
    return _operator_line(str(values["bootstrap_operator_key"]), path, given=given)


def _listener(settings: AllInOneSettings, given: Mapping[str, object]) -> socket.socket:
    """Bind the port before anything is started, so that a taken port has no side effects. Raises WrongSetting."""
    return listening(settings.host, settings.port, **_sources(given))


def _sources(given: Mapping[str, object]) -> Mapping[str, str]:
    """Where the address and the port come from, for the message that one of them is wrong."""
    return {
        "host_from": "--host" if "host" in given else "TOKENWIRE_HOST",
        "port_from": "--port (PORT= of make run)" if "port" in given else "TOKENWIRE_PORT",
    }


def _keep_running(app: web.Application, deps: Deps, mongo: EmbeddedMongo) -> None:
    supervisor = deps.supervisor
    supervisor.start_with(app, lambda: supervisor.start("embedded-mongodb", mongo.keep_running))


class _StartupProblems:
    """Problems with MongoDB or RabbitMQ at the start, for the banner."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self.lines: list[str] = []

    async def look(self, _: web.Application) -> None:
        """Wait up to CONNECTED_WITHIN seconds for all dependencies; keep a line for each that is missing."""
        deadline = asyncio.get_running_loop().time() + CONNECTED_WITHIN
        while True:
            states = await self._health.look()
            self.lines = _problem_lines(states)
            if all(state == "ok" for state in states.values()) or asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(0.05)


def _problem_lines(states: Mapping[str, str]) -> list[str]:
    """A line for each of MongoDB and RabbitMQ that is missing."""
    return [say.format(states[name]) for name, say in _PROBLEM_TEXTS.items() if states.get(name, "ok") != "ok"]


_PROBLEM_TEXTS = {
    "mongodb": "but without MongoDB: TOKENWIRE_MONGODB_URL: {}.\nMost requests return 503 until then.",
    "bus": "but without RabbitMQ: TOKENWIRE_AMQP_URL: {}.\nEvents wait until then.",
}


def main() -> None:
    """Run until Ctrl-C or SIGTERM, or run a command. Errors at the start are printed in one line each."""
    arguments = _arguments()
    try:
        if arguments.command not in {None, "run"}:
            sys.exit(COMMANDS[arguments.command](arguments))
        _run(arguments)
    except (dead_letters_command.DeadLettersUnavailable, BackupFailed) as reason:
        sys.exit(f"python -m services {arguments.command}: {reason}")
    except StoreUnreadable as reason:
        _end(f"python -m services {arguments.command}: {reason}", StoreUnreadable.status)
    except WrongSetting as reason:
        lines = "\n".join(f"python -m services: {line}" for line in str(reason).splitlines())
        _end(lines, StoreUnreadable.status if arguments.command in REPORTING else 1)
    except (Damaged, EmbeddedMongoMissing, EmbeddedMongoFailed) as reason:
        sys.exit(f"python -m services: {reason}")
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        sys.exit(f"python -m services: {about}{error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)  # Ctrl-C while MongoDB was starting; later it is an orderly stop


def _end(line: str, status: int) -> None:
    sys.stderr.write(f"{line}\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
