"""Finds what is due in MongoDB, and leases as much of it as there are places for. Any number of notifiers do."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog
from pydantic import SecretStr

from libs.catalog import Catalog
from libs.events import Origin
from libs.oauth.errors import TemporarilyUnavailable
from libs.sealing import CannotOpen
from libs.store.deliveries import Deliveries
from libs.telemetry import WEBHOOKS
from services.notifier.addresses import address_of
from services.notifier.courier import SOURCE, Courier
from services.notifier.lanes import Lane, Lanes

LOOK_EVERY = timedelta(seconds=1)
"""Something may become due that another process wrote."""
LOOK_AGAIN = timedelta(milliseconds=20)
GIVE_UP_EVERY = timedelta(minutes=1)
BATCH = 256
FEEDS = 8
"""Claims at once; the driver's threads are there for others, too."""
STOP_WITHIN = 3.0
"""Seconds that a round gets to end."""

log = structlog.get_logger("notifier")


class Claims:
    """One loop: who has something due, whose lane has room, lease, send."""

    def __init__(
        self,
        deliveries: Deliveries,
        catalog: Catalog,
        lanes: Lanes,
        courier: Courier,
        lease: timedelta,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._deliveries = deliveries
        self._catalog = catalog
        self._lanes = lanes
        self._courier = courier
        self._lease = lease
        self._now = now
        self._sleep = sleep
        self._ready: set[str] = set()
        """URLs of lanes that something waits for, and that may have room."""
        self._wake = asyncio.Event()
        self._feeding = asyncio.Semaphore(FEEDS)
        self._next_look = self._next_give_up = now()
        self._loop: asyncio.Task[None] | None = None
        self.stopping = False
        lanes.room_again = self._room_again

    def open(self) -> None:
        """Begin to claim."""
        self._loop = asyncio.create_task(self._run(), name="claims")

    def stop(self) -> None:
        """Claim nothing more."""
        self.stopping = True
        self._wake.set()

    async def close(self) -> None:
        """Nothing is claimed any more, and nothing is held that was. Idempotent."""
        self.stop()
        if self._loop is not None:
            await asyncio.wait((self._loop,), timeout=STOP_WITHIN)
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            self._loop = None

    def left(self, api_id: str, url: str) -> None:
        """A delivery of this API is due in MongoDB, and nobody has it."""
        lane = self._lanes.of(url)
        lane.waiting.add(api_id)
        # Without room whoever gives a place back says so; a breaker whose pause is over is found by the next look.
        if self._lanes.room(lane):
            self._ready.add(url)
            self._wake.set()

    def look_now(self) -> None:
        """Something has become due, whatever was planned."""
        self._next_look = self._now()
        self._wake.set()

    def _room_again(self, lane: Lane) -> None:
        self._ready.add(lane.url)
        self._wake.set()

    async def _run(self) -> None:
        await self._deliveries.prepared()
        while not self.stopping:
            self._wake.clear()
            try:
                await self._round()
            except TemporarilyUnavailable as error:
                log.warning("nothing_claimed", error=error.detail)
                await self._sleep(LOOK_EVERY.total_seconds())
            except Exception as error:  # whatever it was: the loop goes on, for what is due must be found
                log.error("claiming_failed", error=type(error).__name__, exc_info=error)
                await self._sleep(LOOK_EVERY.total_seconds())
            else:
                await self._rest()

    async def _rest(self) -> None:
        """Return when something is to be done, or at the next look."""
        pause = max(0.0, (self._next_look - self._now()).total_seconds())
        tasks = [asyncio.ensure_future(self._sleep(pause)), asyncio.ensure_future(self._wake.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _round(self) -> None:
        if self._now() >= self._next_look:
            await self._look()
        if self._now() >= self._next_give_up:
            await self._give_up()
        ready, self._ready = self._ready, set()
        await asyncio.gather(*(self._feed(url) for url in ready))

    async def _look(self) -> None:
        now = self._now()
        agenda = await self._deliveries.agenda()
        for api_id in [api_id for api_id, first in agenda.items() if first <= now]:
            try:
                address = await address_of(self._catalog, api_id)
            except CannotOpen as error:
                # Its key is not in the ring (any more): its webhooks wait, the others' go on.
                log.error("webhook_address_sealed", api_id=api_id, error=str(error))
                continue
            if address is None:
                await self._discard(api_id)
            else:
                self.left(api_id, address.on_key_change_url)
        coming = min((first for first in agenda.values() if first > now), default=now + LOOK_EVERY)
        self._next_look = max(now + LOOK_AGAIN, min(coming, now + LOOK_EVERY))

    async def _feed(self, url: str) -> None:
        """As many leased and on their way to this endpoint as there is room for."""
        async with self._feeding:
            lane = self._lanes.of(url)
            for api_id in random.sample(sorted(lane.waiting), len(lane.waiting)):
                address = await address_of(self._catalog, api_id)
                if address is None or address.on_key_change_url != url:
                    lane.waiting.discard(api_id)  # the next look finds where it belongs
                elif places := self._lanes.take(lane, BATCH):
                    await self._claim(api_id, lane, places, address.shared_secret)

    async def _claim(self, api_id: str, lane: Lane, places: int, shared_secret: SecretStr) -> None:
        free = places
        try:
            now = self._now()
            claimed = await self._deliveries.claim(api_id, places, now + self._lease, now)
            if not claimed.more:
                lane.waiting.discard(api_id)
            if self.stopping:
                await self._deliveries.release(claimed.deliveries, now)
                return
            for delivery in claimed.deliveries:
                self._courier.start(delivery, lane, shared_secret)
                free -= 1
        finally:
            self._lanes.give_back(lane, free)

    async def _discard(self, api_id: str) -> None:
        """Nobody wants the webhooks of this API any more."""
        more = True
        while more and not self.stopping:
            now = self._now()
            claimed = await self._deliveries.claim(api_id, BATCH, now + self._lease, now)
            discarded = await self._deliveries.discarded(claimed.deliveries, now)
            WEBHOOKS.labels("discarded").inc(len(discarded))
            log.info("webhooks_discarded", api_id=api_id, deliveries=len(discarded))
            more = claimed.more

    async def _give_up(self) -> None:
        """What an endpoint that is down has kept from its attempts for too long is exhausted."""
        more = True
        while more and not self.stopping:
            now = self._now()
            claimed = await self._deliveries.claim_overdue(BATCH, now + self._lease, now)
            for delivery in claimed.deliveries:
                await self._deliveries.exhausted(delivery, None, Origin(SOURCE, now, delivery.traceparent))
                WEBHOOKS.labels("exhausted").inc()
                log.warning("webhook_given_up", delivery_id=delivery.delivery_id, api_id=delivery.api_id)
            more = claimed.more
        self._next_give_up = self._now() + GIVE_UP_EVERY
