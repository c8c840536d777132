"""The wiring of the notifier."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from aiohttp import web

from libs.access import Access
from libs.events import Origin
from libs.runtime import Deps, both_slashes, new_application, new_deps
from libs.sealing import Opener
from services.notifier.claims import Claims
from services.notifier.collector import Collector
from services.notifier.courier import Courier
from services.notifier.deliveries import DeliveriesApi
from services.notifier.intake import Intake
from services.notifier.lanes import Lanes, affordable
from services.notifier.lifespan import Lifespan
from services.notifier.schedule import LADDER, Ladder
from services.notifier.sender import Sender
from services.notifier.settings import NotifierSettings, private_keys

RECORDED_WITHIN = timedelta(seconds=20)
"""What a lease lasts beyond the attempt."""


def install(
    app: web.Application,
    settings: NotifierSettings,
    deps: Deps,
    ladder: Ladder = LADDER,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Put webhook delivery and the deliveries API on the application; `sleep` is how it waits for what is due later."""
    deliveries, access = deps.store.deliveries, Access(deps.catalog, deps.throttle)
    lease = timedelta(seconds=settings.webhook_timeout) + RECORDED_WITHIN
    lanes = Lanes(affordable(settings.total_concurrency), settings.per_endpoint_concurrency, deps.now)
    sender = Sender(settings.webhook_timeout, deps.now, allow_private=settings.allow_private_destinations)
    opener = Opener(private_keys(settings.notifier_private_keys))
    courier = Courier(deliveries, opener, sender, lanes, ladder, deps.now)
    claims = Claims(deliveries, deps.catalog, lanes, courier, lease, deps.now, sleep)
    intake = Intake(deliveries, deps.catalog, lanes, courier, claims, lease, ladder.patience, deps.now)

    def origin() -> Origin:
        return deps.origin("notifier")

    api = DeliveriesApi(access, deps.catalog, deliveries, claims, sender, ladder.patience, origin)
    both_slashes(app, "GET", "/api/notifications/deliveries", api.list)
    both_slashes(app, "GET", "/api/notifications/deliveries/{delivery_id}", api.show)
    both_slashes(app, "POST", "/api/notifications/deliveries/{delivery_id}/redeliver", api.redeliver)
    both_slashes(app, "POST", "/api/notifications/redeliver", api.redeliver_all)
    both_slashes(app, "POST", "/api/apis/{api_id}/notifications/test", api.test)
    deps.bus.subscribe(intake.subscription())
    Collector(deps.store.grants, deliveries, intake, deps.now, asyncio.sleep).add_to(app)
    deps.outbox.watch(deliveries)
    Lifespan(claims, courier, sender).add_to(app)


def create_app(settings: NotifierSettings, deps: Deps | None = None) -> web.Application:
    """The notifier alone."""
    deps = deps or new_deps(settings, "notifier")
    app = new_application(settings, deps)
    install(app, settings, deps)
    return app
