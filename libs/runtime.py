"""Builds, starts and stops a process: its dependencies (`Deps`), its application, and its command line."""

import argparse
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from pydantic import SecretStr

from contracts.events import PendingEvent
from libs import logging
from libs.bus.outbox import Outbox, Source
from libs.bus.port import Bus
from libs.bus.queue_depth import QueueDepthMetrics
from libs.bus.rabbit import RabbitBus, parse_amqp_urls
from libs.bus.traced_bus import TracedBus
from libs.catalog import Catalog
from libs.client_address import TrustedProxies
from libs.encryption import KeyRing
from libs.event_encoding import EventContext
from libs.http.context import DRAIN, Drain, current, request_middleware
from libs.http.error_responses import ErrorRenderer
from libs.http.health_endpoints import LOOK_EVERY, Health
from libs.http.open_connections import OPEN_CONNECTIONS, OpenConnections
from libs.http.operations import add_operations
from libs.http.routing import routed_application
from libs.http.security_headers import SECURITY_HEADERS, security_headers
from libs.oauth.login_limits import Limit, Limits
from libs.oauth.token_formats import OpaqueTokens, TokenFormat
from libs.process_metrics import EventLoopLag
from libs.serving import address_text, listening, listening_for_workers, serve
from libs.settings import Checks, LogFormat, ServerSettings, Settings, WrongSetting, load, misspelled, read_as
from libs.store.clock import SharedClock
from libs.store.mongo import Mongo, require_url
from libs.store.store import Store
from libs.supervision import Supervisor
from libs.throttle import LoginThrottle
from libs.tracing.new_tracer import new_tracer
from libs.tracing.spans import Tracer
from libs.tracing.trace_settings import trace_settings
from libs.version import VERSION
from libs.workers.launch import become_parent, require_workers
from libs.workers.membership import Membership
from libs.workers.worker_process import Worker

log = structlog.get_logger("process")

_STARTED = time.monotonic()
_EMBEDDED = "embedded"


def utc_now() -> datetime:
    """The current time in UTC, in whole milliseconds (the precision of MongoDB)."""
    return datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Deps:
    """The dependencies that the services of one process share. Built closed; the application opens them."""

    store: Store
    bus: Bus
    outbox: Outbox
    catalog: Catalog
    throttle: LoginThrottle
    keys: KeyRing
    token_format: TokenFormat
    changes: list[Callable[[str, str], None]]
    """Called with the routing key and subject of every event that this process commits, before it is published.

    Caches of this process are invalidated this way: a client never sees a state from before its own request.
    """
    now: Callable[[], datetime]
    clock: SharedClock
    """The clock behind `now`, unless tests pass another one."""
    health: Health = field(default_factory=Health)
    supervisor: Supervisor = field(default_factory=Supervisor)
    """Runs all background tasks of the process."""
    tracer: Tracer | None = None
    """None where tracing is off."""

    def event_context(self, service: str) -> EventContext:
        """The context for events of this service: the current time, trace and operator (None outside of a request)."""
        context = current()
        return EventContext(f"urn:tokenwire:{service}", self.now(), context.traceparent, context.actor)


def new_deps(
    settings: Settings, service: str, bus: Bus | None = None, now: Callable[[], datetime] | None = None
) -> Deps:
    """Create the dependencies, not yet opened: RabbitMQ as the bus and the shared clock, unless others are given.

    Raises WrongSetting.
    """
    keys = KeyRing.parse(settings.keys.get_secret_value())
    mongo, bus = _connections(settings, service, bus)
    tracer = new_tracer(trace_settings(os.environ), service)
    if tracer is not None:
        bus = TracedBus(bus, tracer)
    clock = SharedClock(mongo, utc_now)
    now = now or clock
    outbox = Outbox(bus, now)

    changes: list[Callable[[str, str], None]] = []

    def announce(source: Source, event: PendingEvent) -> None:
        for changed in changes:
            changed(event.key, event.owner)
        outbox.announce(source, event)

    store = Store.over(mongo, keys, announce)
    catalog = Catalog(store, settings.cache_ttl)
    changes.append(catalog.changed)
    return Deps(
        store=store,
        bus=bus,
        outbox=outbox,
        catalog=catalog,
        changes=changes,
        throttle=LoginThrottle(store.attempts, _limits(settings), now),
        keys=keys,
        token_format=OpaqueTokens(keys.subkeys("token tag"), keys.current, os.urandom),
        now=now,
        clock=clock,
        tracer=tracer,
    )


def _connections(settings: Settings, service: str, bus: Bus | None) -> tuple[Mongo, Bus]:
    """Raises WrongSetting with a line for each setting that is wrong."""
    faults: list[str] = []
    mongo: Mongo | None = None
    try:
        with read_as("mongodb_url"):
            mongo = Mongo(settings.mongodb_url.get_secret_value(), settings.mongodb_database)
    except WrongSetting as wrong:
        faults.append(str(wrong))
    try:
        with read_as("amqp_url"):
            bus = bus or RabbitBus(
                settings.amqp_url.get_secret_value(),
                instance_name=f"{service}@{socket.gethostname()}:{os.getpid()}",
                declare=settings.declare_topology,
            )
    except WrongSetting as wrong:
        faults.append(str(wrong))
    if mongo is None or bus is None:
        raise WrongSetting("\n".join(faults))
    return mongo, bus


def _limits(settings: Settings) -> Limits:
    return Limits(
        client=Limit.parse(settings.throttle_client),
        user=Limit.parse(settings.throttle_user),
        user_anywhere=Limit.parse(settings.throttle_user_anywhere),
        address=Limit.parse(settings.throttle_address),
    )


def new_application(settings: Settings, deps: Deps, oauth_error_status: int | None = None) -> web.Application:
    """Create an application with middleware, health endpoints and the lifecycle of `deps`, but without a service."""
    app = server_application(settings, deps.health, deps.supervisor, deps.tracer, oauth_error_status)
    deps.health.register("mongodb", deps.store.mongo.ping)
    # Not needed for readiness: the outbox keeps events while the bus is down, and caches expire after `cache_ttl`.
    deps.health.register("bus", deps.bus.ping, needed=False)
    deps.bus.subscribe(deps.catalog.subscription())
    # Before what is already there: what runs in the background is stopped first, and closed here last.
    app.cleanup_ctx.insert(0, lambda _: _opened(deps))
    QueueDepthMetrics(deps.bus).add_to(app, deps.supervisor)
    return app


def application_without_records(settings: ServerSettings, service: str) -> tuple[web.Application, Health]:
    """An application as by `new_application`, for a service that has neither MongoDB nor RabbitMQ, and its health."""
    health, tracer = Health(), new_tracer(trace_settings(os.environ), service)
    app = server_application(settings, health, Supervisor(), tracer)
    if tracer is not None:
        app.cleanup_ctx.insert(0, lambda _: _tracing(tracer))
    return app, health


async def _tracing(tracer: Tracer) -> AsyncIterator[None]:
    tracer.open()
    yield
    await tracer.close()


def server_application(
    settings: ServerSettings,
    health: Health,
    supervisor: Supervisor,
    tracer: Tracer | None = None,
    oauth_error_status: int | None = None,
) -> web.Application:
    """Create an application with middleware, health endpoints and background tasks, without records and events."""
    renderer = ErrorRenderer(oauth_error_status)
    drain, constant = Drain(), security_headers(settings.public_url)
    proxies = TrustedProxies.parse(settings.trusted_proxies)
    surround = request_middleware(renderer, settings.access_log_sample, drain, proxies, constant, tracer)
    app = routed_application(middlewares=[surround], client_max_size=2 * 1024 * 1024)
    health.register("background_tasks", partial(supervisor.ping, essential=True))
    health.register("auxiliary_tasks", partial(supervisor.ping, essential=False), needed=False)
    add_operations(app, health)
    app[DRAIN] = drain
    app[SECURITY_HEADERS] = constant
    app[OPEN_CONNECTIONS] = OpenConnections(settings.max_connections, settings.max_unfinished_heads)
    EventLoopLag().add_to(app, supervisor)
    supervisor.start_with(app, lambda: supervisor.every("dependencies", LOOK_EVERY, health.watch, essential=False))
    return app


async def _opened(deps: Deps) -> AsyncIterator[None]:
    if deps.tracer is not None:
        deps.tracer.open()
    await deps.store.mongo.open(supervisor=deps.supervisor)
    await deps.clock.open(deps.supervisor)
    await deps.bus.open(deps.supervisor)
    await deps.outbox.open(deps.supervisor)
    yield
    await deps.bus.stop_consuming()
    await deps.outbox.close()
    await deps.store.grants.close()
    await deps.bus.close()
    await deps.throttle.close()
    await deps.clock.close()
    await deps.store.mongo.close()
    if deps.tracer is not None:
        await deps.tracer.close()


class Parser(argparse.ArgumentParser):
    """An argument parser that reports unknown options first, before their values are taken for positional arguments."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse; exits for an unknown option, with the most similar one as a hint."""
        given = list(sys.argv[1:] if args is None else args)
        self._require_known(given)
        return super().parse_known_args(given, namespace)

    def _require_known(self, given: list[str]) -> None:
        options = self._option_string_actions
        rest = iter(given)
        for word in rest:
            if word == "--" or (not word.startswith("-") and self._subparsers is not None):
                return  # what follows is for the command
            name, _, value = word.partition("=")
            if not name.startswith("-") or name == "-":
                continue
            known = [name] if name in options else [each for each in options if each.startswith(name) and len(name) > 2]
            if not known:
                short = [each for each in options if len(name) == 2 and each.startswith(f"-{name}")]
                similar = short or get_close_matches(name, [each for each in options if len(each) > 2], 1, 0.5)
                hint = f"; {similar[0]} was probably meant" if similar else f"; there are {', '.join(sorted(options))}"
                self.error(f"unknown option {name}{hint}")
            if not value and options[known[0]].nargs != 0:
                next(rest, None)


S = TypeVar("S", bound=ServerSettings)
URLS: Checks = {"mongodb_url": require_url, "amqp_url": parse_amqp_urls}
"""URL checks that run with those of the other settings, so that all errors are reported together."""


def main(service: str, purpose: str, settings: type[S], create_app: Callable[[S], web.Application]) -> None:
    """Run one service with settings from the command line and the environment.

    Wrong settings end the process, with one line for each of them.
    """
    parser = Parser(
        prog=f"python -m services.{service}",
        description=purpose,
        epilog="Settings come from TOKENWIRE_… environment variables or the files that TOKENWIRE_…_FILE name:\n"
        + "".join(
            f"  TOKENWIRE_{name.upper():<32} {field.description or ''}\n"
            for name, field in settings.model_fields.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on")
    parser.add_argument("--version", action="version", version=f"tokenwire {VERSION}")
    add_worker_option(parser)
    arguments = parser.parse_args()
    worker: Membership | None = arguments.worker
    overrides = {name: value for name, value in vars(arguments).items() if value is not None and name != "worker"}
    sources = {
        "host_from": "--host" if "host" in overrides else "TOKENWIRE_HOST",
        "port_from": "--port" if "port" in overrides else "TOKENWIRE_PORT",
    }
    try:
        loaded = load(settings, URLS if issubclass(settings, Settings) else None, **overrides)
        logging.configure(
            loaded.log_level, loaded.log_format is LogFormat.JSON, service, worker.number if worker else None
        )
        if worker is not None:
            serve_as(Worker(worker), loaded, create_app(loaded))
            return
        warn_of_misspellings(settings)
        if loaded.workers > 1:
            require_workers()
            create_app(loaded)  # what is wrong with the settings is said here once, and not by every worker
            sockets = listening_for_workers(loaded.host, loaded.port, loaded.workers, **sources)
            become_parent(parser.prog, service, loaded, sockets)
        with listening(loaded.host, loaded.port, **sources) as listener:
            serve(create_app(loaded), listener, linger=loaded.linger, announce=lambda: say_listening(loaded, listener))
        say_stopped()
    except WrongSetting as wrong:
        sys.exit("\n".join(f"{parser.prog}: {line}" for line in str(wrong).splitlines()))


def add_worker_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that only a parent process gives to its workers."""
    parser.add_argument("--worker", type=Membership.parse, default=None, help=argparse.SUPPRESS)


def serve_as(worker: Worker, settings: ServerSettings, app: web.Application) -> None:
    """Serve as one of several workers, until the parent stops this one."""
    serve(app, worker, linger=settings.linger, announce=lambda: say_listening(settings, worker.listeners[0]))
    say_stopped()


def say_listening(settings: ServerSettings, listener: socket.socket) -> None:
    """Log the address, the version and a summary of the configuration, without secrets."""
    host, port, *_ = listener.getsockname()
    log.info("listening", address=address_text(host, port), version=VERSION, **_summary(settings))


def say_stopped() -> None:
    """Log the version, and for how long the process ran."""
    log.info("stopped", version=VERSION, seconds=round(time.monotonic() - _STARTED, 1))


def _summary(settings: ServerSettings) -> dict[str, object]:
    """Where the process belongs, and the settings that differ from their defaults."""
    traces = trace_settings(os.environ)
    shown = {"host", "port", "environment", "public_url", "mongodb_database"}
    changed = {
        name: value
        for name, value in settings
        if name not in shown and not isinstance(value, SecretStr) and value != type(settings).model_fields[name].default
    }
    return {
        "environment": str(settings.environment),
        "public_url": settings.public_url,
        **(_places(settings) if isinstance(settings, Settings) else {}),
        "traces": traces.address if traces else "off",
        "settings": changed,
    }


def _places(settings: Settings) -> dict[str, object]:
    """The MongoDB and the RabbitMQ, without credentials."""
    broker = settings.amqp_url.get_secret_value()
    brokers = parse_amqp_urls(broker) if broker else ()
    return {
        "mongodb": urlsplit(settings.mongodb_url.get_secret_value()).netloc.rpartition("@")[2] or _EMBEDDED,
        "database": settings.mongodb_database,
        "rabbitmq": ",".join(url.host_port_subcomponent or "" for url in brokers) or _EMBEDDED,
    }


def warn_of_misspellings(settings: type[ServerSettings]) -> None:
    """Log a warning for each environment variable that looks like a misspelled setting; it has no effect."""
    for variable, meant in misspelled(settings, os.environ):
        log.warning("setting_unknown", variable=variable, did_you_mean=meant)
