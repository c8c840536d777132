"""Wiring of the notifier: collaborators, routes, subscription, and the order in which it stops."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

from aiohttp import web

from libs.access import OperatorAuthenticator
from libs.encryption import Opener
from libs.event_encoding import EventContext
from libs.http.operations import add_operations, operations_of
from libs.runtime import Deps, new_application, new_deps
from libs.store.recent_deliveries import RecentDeliveries
from services.notifier.api import DeliveriesApi, EndpointsApi
from services.notifier.client import WebhookClient
from services.notifier.consumer import NotificationConsumer
from services.notifier.endpoints import EndpointLimiter, affordable_concurrency
from services.notifier.retry import RETRY_SCHEDULE, RetrySchedule
from services.notifier.scheduler import DeliveryScheduler
from services.notifier.settings import NotifierSettings, private_keys
from services.notifier.sweeper import MissedNotificationSweeper
from services.notifier.worker import DeliveryWorker

LEASE_MARGIN = timedelta(seconds=20)
"""How much longer a lease lasts than an attempt may take: time to record the result."""
STOP_SECONDS = 7.0
"""Time that attempts in flight get to end when the notifier stops."""

OPERATIONS = operations_of(DeliveriesApi, EndpointsApi)


def install(
    app: web.Application,
    settings: NotifierSettings,
    deps: Deps,
    schedule: RetrySchedule = RETRY_SCHEDULE,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Add webhook delivery and the deliveries API to the application. `sleep` is replaced by tests."""
    deliveries, access = deps.store.deliveries, OperatorAuthenticator(deps.catalog, deps.throttle, deps.now)
    lease = timedelta(seconds=settings.webhook_timeout) + LEASE_MARGIN
    concurrency = affordable_concurrency(settings.total_concurrency)
    limiter = EndpointLimiter(concurrency, settings.per_endpoint_concurrency, deps.now)
    client = WebhookClient(
        settings.webhook_timeout,
        deps.now,
        allow_private=settings.allow_private_destinations,
        deny=settings.upstream_deny,
        max_kept=concurrency,
        tracer=deps.tracer,
    )
    opener = Opener(private_keys(settings.notifier_private_keys))
    worker = DeliveryWorker(deliveries, opener, client, limiter, schedule, deps.now)
    scheduler = DeliveryScheduler(deliveries, deps.catalog, limiter, worker, lease, deps.now, sleep)
    consumer = NotificationConsumer(
        deliveries, deps.catalog, limiter, worker, scheduler, lease, schedule.max_age, deps.now
    )
    sweeper = MissedNotificationSweeper(deps.store.grants, deliveries, consumer, deps.now, asyncio.sleep)

    def event_context() -> EventContext:
        return deps.event_context("notifier")

    api = DeliveriesApi(deps.catalog, deliveries, scheduler, client, schedule.max_age, event_context)
    instance = f"{socket.gethostname()}:{os.getpid()}"
    endpoints = EndpointsApi(deps.catalog, RecentDeliveries(deps.store.mongo), limiter, instance, deps.now)
    for each in (api, endpoints):
        add_operations(app, each, access.require)
    deps.bus.subscribe(consumer.subscription())
    sweeper.add_to(app, deps.supervisor)
    deps.outbox.watch(deliveries)

    async def stop_claiming(_: web.Application) -> None:
        scheduler.stop()

    async def running(_: web.Application) -> AsyncIterator[None]:
        scheduler.start(deps.supervisor)
        yield
        # In this order: nothing new is started while what is in flight ends, and connections are closed last.
        await scheduler.close()
        await worker.stop(STOP_SECONDS)
        await client.close()

    app.on_shutdown.append(stop_claiming)
    app.cleanup_ctx.append(running)


def create_app(settings: NotifierSettings, deps: Deps | None = None) -> web.Application:
    """An application with the notifier alone."""
    deps = deps or new_deps(settings, "notifier")
    app = new_application(settings, deps)
    install(app, settings, deps)
    return app
