"""What a process is made of, how it starts, and how it stops."""

import argparse
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from aiohttp import web

from contracts.events import PendingEvent
from libs import logging
from libs.addresses import TrustedProxies
from libs.bus.levels import Levels
from libs.bus.outbox import Outbox, Source
from libs.bus.port import Bus
from libs.bus.rabbit import RabbitBus
from libs.catalog import Catalog
from libs.events import Origin
from libs.http.context import DRAIN, Drain, current, surroundings
from libs.http.errors import ErrorRenderer
from libs.http.headers import CONSTANT_HEADERS, constant_headers
from libs.http.health import Health
from libs.oauth.attempts import Limit, Limits
from libs.oauth.tokens import TokenCodec
from libs.sealing import KeyRing
from libs.serving import serve
from libs.settings import LogFormat, Settings, WrongSetting, load, read_as
from libs.store.clock import SharedClock
from libs.store.mongo import Mongo
from libs.store.store import Store
from libs.throttle import Throttle


def utc_now() -> datetime:
    """The time in UTC, to the millisecond (what MongoDB keeps)."""
    return datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Deps:
    """What the services of one process share; built unopened, opened by the application."""

    store: Store
    bus: Bus
    outbox: Outbox
    catalog: Catalog
    throttle: Throttle
    keys: KeyRing
    codec: TokenCodec
    changes: list[Callable[[str, str], None]]
    """Told the routing key and subject of every event that this process commits, before anybody hears of it."""
    now: Callable[[], datetime]
    clock: SharedClock
    """What `now` is, unless another time is given."""
    health: Health = field(default_factory=Health)

    def origin(self, service: str) -> Origin:
        """Here and now, in the trace of the current request, by the operator whose key opened it."""
        context = current()
        return Origin(f"urn:tokenwire:{service}", self.now(), context.traceparent, context.actor)


def new_deps(
    settings: Settings, service: str, bus: Bus | None = None, now: Callable[[], datetime] | None = None
) -> Deps:
    """The parts of a process, none of them open yet; the bus is RabbitMQ, and the time the one on which all processes
    agree, unless others are given. Raises WrongSetting.
    """
    keys = KeyRing.parse(settings.keys.get_secret_value())
    with read_as("mongodb_url"):
        mongo = Mongo(settings.mongodb_url.get_secret_value(), settings.mongodb_database)
    with read_as("amqp_url"):
        bus = bus or RabbitBus(
            settings.amqp_url.get_secret_value(),
            instance_name=f"{service}@{socket.gethostname()}:{os.getpid()}",
            declare=settings.declare_topology,
        )
    clock = SharedClock(mongo, utc_now)
    now = now or clock
    outbox = Outbox(bus, now)

    changes: list[Callable[[str, str], None]] = []

    def announce(ledger: Source, event: PendingEvent) -> None:
        for changed in changes:
            changed(event.key, event.owner)
        outbox.announce(ledger, event)

    store = Store.over(mongo, keys, announce)
    catalog = Catalog(store, settings.cache_ttl)
    changes.append(catalog.changed)
    return Deps(
        store=store,
        bus=bus,
        outbox=outbox,
        catalog=catalog,
        changes=changes,
        throttle=Throttle(store.attempts, _limits(settings), now),
        keys=keys,
        codec=TokenCodec(keys.subkeys("token tag"), keys.current, os.urandom),
        now=now,
        clock=clock,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        client=Limit.parse(settings.throttle_client),
        user=Limit.parse(settings.throttle_user),
        user_anywhere=Limit.parse(settings.throttle_user_anywhere),
        address=Limit.parse(settings.throttle_address),
    )


def new_application(settings: Settings, deps: Deps, oauth_error_status: int | None = None) -> web.Application:
    """An application with the middleware, the operations routes and the lifespan of its parts, and no service yet."""
    renderer = ErrorRenderer(oauth_error_status)
    drain, constant = Drain(), constant_headers(settings.public_url)
    proxies = TrustedProxies.parse(settings.trusted_proxies)
    surround = surroundings(renderer, settings.access_log_sample, drain, proxies, constant)
    app = web.Application(middlewares=[surround], client_max_size=2 * 1024 * 1024)
    deps.health.register("mongodb", deps.store.mongo.ping)
    deps.health.register("bus", deps.bus.ping)
    deps.bus.subscribe(deps.catalog.subscription())
    deps.health.add_to(app)
    app[DRAIN] = drain
    app[CONSTANT_HEADERS] = constant
    app.cleanup_ctx.append(lambda _: _opened(deps))
    Levels(deps.bus).add_to(app)
    return app


async def _opened(deps: Deps) -> AsyncIterator[None]:
    await deps.store.mongo.open()
    await deps.clock.open()
    await deps.bus.open()
    await deps.outbox.open()
    yield
    await deps.bus.stop_consuming()
    await deps.outbox.close()
    await deps.bus.close()
    await deps.throttle.close()
    await deps.clock.close()
    await deps.store.mongo.close()


PLACE = "{place:(?s:.+)}"
"""In a path of `both_slashes`: where an API is, its listen path or its id. Any text will do, a line break too, so that
whoever answers on the path also says that there is no such API.
"""


def both_slashes(app: web.Application, method: str, path: str, handler: Callable[..., object]) -> None:
    """Route a path with and without its trailing slash."""
    for spelling in (path, f"{path}/"):
        app.router.add_route(method, spelling, handler)  # type: ignore[arg-type]


S = TypeVar("S", bound=Settings)


def main(service: str, purpose: str, settings: type[S], create_app: Callable[[S], web.Application]) -> None:
    """Run one service from the command line and the environment; a wrong setting ends it with one line."""
    parser = argparse.ArgumentParser(
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
    arguments = parser.parse_args()
    overrides = {name: value for name, value in vars(arguments).items() if value is not None}
    try:
        loaded = load(settings, **overrides)
        logging.configure(loaded.log_level, loaded.log_format is LogFormat.JSON, service)
        serve(create_app(loaded), loaded.host, loaded.port, linger=loaded.linger)
    except WrongSetting as wrong:
        sys.exit(f"{parser.prog}: {wrong}")
