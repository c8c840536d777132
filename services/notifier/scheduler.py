"""Finds deliveries that are due in MongoDB and leases as many as their endpoints have free slots for.

Any number of notifiers do this side by side: a lease makes sure that only one of them sends a delivery.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta

import structlog

from libs.catalog import Catalog
from libs.encryption import CannotDecrypt
from libs.event_encoding import EventContext
from libs.oauth.errors import TemporarilyUnavailable
from libs.outbound.signing import WebhookSecrets
from libs.store.deliveries import Deliveries
from libs.supervision import BackgroundTask, Supervisor
from libs.telemetry import WEBHOOK_ATTEMPTS
from services.notifier.endpoints import Endpoint, EndpointLimiter, webhook_settings
from services.notifier.worker import SOURCE, DeliveryWorker

POLL_INTERVAL = timedelta(seconds=1)
"""The longest time between two polls: another process may have stored a delivery, or let its lease expire."""
MIN_POLL_INTERVAL = timedelta(milliseconds=20)
EXPIRY_INTERVAL = timedelta(minutes=1)
"""Time between two searches for deliveries that have reached their maximum age."""
BATCH = 256
MAX_CONCURRENT_CLAIMS = 8
"""Claims at once; the driver's threads are needed for other work, too."""
MAX_RESTART_DELAY_SECONDS = 2.0
"""Backoff after a failed round: a fault in one endpoint's records must not hold back the webhooks of the others."""
STOP_SECONDS = 3.0
"""Time that a round gets to end."""

log = structlog.get_logger("notifier")


class DeliveryScheduler:
    """One loop: poll for APIs with due deliveries, claim them for endpoints with free slots, start the worker."""

    def __init__(
        self,
        deliveries: Deliveries,
        catalog: Catalog,
        limiter: EndpointLimiter,
        worker: DeliveryWorker,
        lease: timedelta,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._deliveries = deliveries
        self._catalog = catalog
        self._limiter = limiter
        self._worker = worker
        self._lease = lease
        self._now = now
        self._sleep = sleep
        self._ready: set[str] = set()
        """URLs of endpoints that have deliveries waiting and may have a free slot."""
        self._wake = asyncio.Event()
        self._claims = asyncio.Semaphore(MAX_CONCURRENT_CLAIMS)
        self._next_poll = self._next_expiry = now()
        self._loop: BackgroundTask | None = None
        self.stopping = False
        limiter.on_slot_free = self._slot_free

    def start(self, supervisor: Supervisor) -> None:
        """Start the loop."""
        self._loop = supervisor.start("delivery-scheduler", self._run, longest_delay=MAX_RESTART_DELAY_SECONDS)

    def stop(self) -> None:
        """Claim nothing more; returns at once."""
        self.stopping = True
        self._wake.set()

    async def close(self) -> None:
        """Return when the loop has ended: nothing more is claimed or started. Idempotent."""
        self.stop()
        if self._loop is not None:
            await self._loop.stop(within=STOP_SECONDS)
            self._loop = None

    def add_waiting(self, api_id: str, url: str) -> None:
        """Note that a delivery of this API to this URL is due in MongoDB and not leased."""
        endpoint = self._limiter.endpoint(url)
        endpoint.waiting_apis.add(api_id)
        # Without a free slot nothing is to be done here: `on_slot_free` is called when one is released, and the next
        # poll notices a circuit breaker that has become half-open.
        if self._limiter.free_slots(endpoint):
            self._ready.add(url)
            self._wake.set()

    def poll_now(self) -> None:
        """Poll at once: an operator has made deliveries due."""
        self._next_poll = self._now()
        self._wake.set()

    def _slot_free(self, endpoint: Endpoint) -> None:
        self._ready.add(endpoint.url)
        self._wake.set()

    async def _run(self) -> None:
        await self._deliveries.prepared()
        while not self.stopping:
            # Cleared before the round: what is noted during the round causes another one.
            self._wake.clear()
            try:
                await self._round()
            except TemporarilyUnavailable as error:
                log.warning("deliveries_not_claimed", error=error.detail)
                await self._sleep(POLL_INTERVAL.total_seconds())
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Return when an endpoint is ready, or when the next poll is due."""
        delay = max(0.0, (self._next_poll - self._now()).total_seconds())
        tasks = [asyncio.ensure_future(self._sleep(delay)), asyncio.ensure_future(self._wake.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _round(self) -> None:
        # An error about one API or one endpoint is raised at the end, so that it holds back none of the others.
        outcomes: list[BaseException | None] = []
        if self._now() >= self._next_poll:
            outcomes.append(await _error_of(self._poll()))
        if self._now() >= self._next_expiry:
            outcomes.append(await _error_of(self._expire()))
        ready, self._ready = self._ready, set()
        outcomes += await asyncio.gather(*(self._fill(url) for url in ready), return_exceptions=True)
        _raise_first(outcomes)

    async def _poll(self) -> None:
        now = self._now()
        agenda = await self._deliveries.agenda()
        coming = min((first for first in agenda.values() if first > now), default=now + POLL_INTERVAL)
        self._next_poll = max(now + MIN_POLL_INTERVAL, min(coming, now + POLL_INTERVAL))
        due = [api_id for api_id, first in agenda.items() if first <= now]
        _raise_first([await _error_of(self._poll_api(api_id)) for api_id in due])

    async def _poll_api(self, api_id: str) -> None:
        """Route the due deliveries of this API to its endpoint, or discard them if it has none any more."""
        try:
            target = await webhook_settings(self._catalog, api_id)
        except CannotDecrypt as error:
            # The API's settings are encrypted under a key that is not configured: only its own webhooks wait.
            log.error("webhook_settings_not_decryptable", api_id=api_id, error=str(error))
            return
        if target is None:
            await self._discard(api_id)
        else:
            self.add_waiting(api_id, target.on_key_change_url)

    async def _fill(self, url: str) -> None:
        """Claim and start as many deliveries to this endpoint as it has free slots."""
        async with self._claims:
            endpoint = self._limiter.endpoint(url)
            # In random order, so that no API that shares the endpoint with others always comes last.
            for api_id in random.sample(sorted(endpoint.waiting_apis), len(endpoint.waiting_apis)):
                target = await webhook_settings(self._catalog, api_id)
                if target is None or target.on_key_change_url != url:
                    endpoint.waiting_apis.discard(api_id)  # the URL was changed; the next poll finds the new one
                elif slots := self._limiter.acquire(endpoint, BATCH):
                    await self._claim(api_id, endpoint, slots, target.secrets)

    async def _claim(self, api_id: str, endpoint: Endpoint, slots: int, secrets: WebhookSecrets) -> None:
        free = slots
        try:
            now = self._now()
            claimed = await self._deliveries.claim(api_id, slots, now + self._lease, now)
            if not claimed.more:
                endpoint.waiting_apis.discard(api_id)
            if self.stopping:
                # The worker may be waiting for its last tasks already; another notifier takes these over at once.
                await self._deliveries.release(claimed.deliveries, now)
                return
            for delivery in claimed.deliveries:
                self._worker.start(delivery, endpoint, secrets)
                free -= 1
        finally:
            self._limiter.release(endpoint, free)

    async def _discard(self, api_id: str) -> None:
        """Discard the due deliveries of an API that is deleted or has no webhook URL any more."""
        more = True
        while more and not self.stopping:
            now = self._now()
            claimed = await self._deliveries.claim(api_id, BATCH, now + self._lease, now)
            discarded = await self._deliveries.discarded(claimed.deliveries, now)
            WEBHOOK_ATTEMPTS.labels("discarded").inc(len(discarded))
            log.info("webhooks_discarded", api_id=api_id, deliveries=len(discarded))
            more = claimed.more

    async def _expire(self) -> None:
        """Mark deliveries past their maximum age as exhausted: their endpoint was down too long to attempt them.

        And drop the bodies of webhooks that were delivered long enough ago.
        """
        more = True
        while more and not self.stopping:
            now = self._now()
            claimed = await self._deliveries.claim_overdue(BATCH, now + self._lease, now)
            for delivery in claimed.deliveries:
                await self._deliveries.exhausted(delivery, None, EventContext(SOURCE, now, delivery.traceparent))
                WEBHOOK_ATTEMPTS.labels("exhausted").inc()
                log.warning("webhook_expired", delivery_id=delivery.delivery_id, api_id=delivery.api_id)
            more = claimed.more
        await self._deliveries.drop_bodies(self._now())
        self._next_expiry = self._now() + EXPIRY_INTERVAL


async def _error_of(work: Awaitable[None]) -> Exception | None:
    """What the work raised, or None. Raises TemporarilyUnavailable: without MongoDB the rest would fail as well."""
    try:
        await work
    except TemporarilyUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - raised by `_raise_first` after the others had their turn
        return error
    return None


def _raise_first(outcomes: Iterable[BaseException | None]) -> None:
    for failure in filter(None, outcomes):
        raise failure
