"""Takes leased deliveries to their endpoints, and records what came of each before it gives its place back."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from pydantic import SecretStr

from contracts.webhooks import Attempt, Delivery
from libs.events import Origin
from libs.oauth.errors import TemporarilyUnavailable
from libs.sealing import CannotOpen, Opener
from libs.store.deliveries import Deliveries
from libs.telemetry import WEBHOOKS
from services.notifier.lanes import Lane, Lanes
from services.notifier.schedule import Ladder
from services.notifier.sender import Outcome, Sender

SOURCE = "urn:tokenwire:notifier"
RECORD_AGAIN_AFTER = 0.5
"""Seconds between attempts to record while MongoDB is away."""

_COUNTED = {ending: WEBHOOKS.labels(ending) for ending in ("delivered", "exhausted", "failed")}

log = structlog.get_logger("notifier")


@dataclass(frozen=True, slots=True)
class Sending:
    """A delivery on its way, until what came of it is recorded."""

    task: asyncio.Task[None]
    lane: Lane


@dataclass(frozen=True, slots=True)
class Courier:
    """Every delivery that is under way in this process."""

    deliveries: Deliveries
    opener: Opener
    sender: Sender
    lanes: Lanes
    ladder: Ladder
    now: Callable[[], datetime]
    chance: Callable[[], float] = random.random
    under_way: dict[asyncio.Task[None], Delivery] = field(default_factory=dict)

    def start(self, delivery: Delivery, lane: Lane, shared_secret: SecretStr) -> Sending:
        """Send a delivery that is leased to this process and has a place on its lane."""
        task = asyncio.create_task(self._carry(delivery, lane, shared_secret.get_secret_value()), name="webhook")
        self.under_way[task] = delivery
        task.add_done_callback(lambda done: self._ended(done, lane))
        return Sending(task, lane)

    def _ended(self, task: asyncio.Task[None], lane: Lane) -> None:
        del self.under_way[task]
        self.lanes.give_back(lane)
        if not task.cancelled() and (error := task.exception()):
            log.error("webhook_not_recorded", error=type(error).__name__, exc_info=error)

    async def stop(self, within: float) -> None:
        """What is under way has ended, or after so many seconds is cut off and free for other notifiers."""
        if self.under_way:
            await asyncio.wait(list(self.under_way), timeout=within)
        if not self.under_way:
            return
        cut_off = dict(self.under_way)
        for task in cut_off:
            task.cancel()
        await asyncio.gather(*cut_off, return_exceptions=True)
        try:
            await self.deliveries.release(list(cut_off.values()), self.now())
        except TemporarilyUnavailable:
            log.warning("leases_left_to_expire", deliveries=len(cut_off))

    async def _carry(self, delivery: Delivery, lane: Lane, shared_secret: str) -> None:
        outcome = await self._sent(delivery, lane, shared_secret)
        while True:
            try:
                return await self._record(delivery, outcome)
            except TemporarilyUnavailable:
                # Without MongoDB nothing else could be done, either: the place stays taken.
                await asyncio.sleep(RECORD_AGAIN_AFTER)

    async def _sent(self, delivery: Delivery, lane: Lane, shared_secret: str) -> Outcome:
        try:
            body = self.opener.open(delivery.sealed or b"")
        except CannotOpen as error:
            return Outcome(Attempt(at=self.now(), latency_ms=0, error=str(error)))
        outcome = await self.sender.send(lane.url, shared_secret, delivery.delivery_id, body)
        self.lanes.note(lane, outcome.attempt.latency_ms, troubled=outcome.troubled, wait=outcome.retry_after)
        return outcome

    async def _record(self, delivery: Delivery, outcome: Outcome) -> None:
        attempt = outcome.attempt
        at = Origin(SOURCE, self.now(), delivery.traceparent)
        if outcome.arrived:
            ending, after = "delivered", await self.deliveries.delivered(delivery, attempt, at)
        elif (next_attempt_at := self._next_attempt_at(delivery, outcome, at.now)) is None:
            ending, after = "exhausted", await self.deliveries.exhausted(delivery, attempt, at)
        else:
            ending, after = "failed", await self.deliveries.failed(delivery, attempt, next_attempt_at, at)
        _COUNTED[ending].inc()
        if after is None:
            # The lease ran out while this was under way, and another notifier has sent it, too.
            log.warning("webhook_result_too_late", delivery_id=delivery.delivery_id, status=attempt.status)
        elif not outcome.arrived:
            log.info(
                "webhook_not_delivered",
                state=after.state,
                delivery_id=delivery.delivery_id,
                api_id=delivery.api_id,
                attempts=after.attempt_count,
                status=attempt.status,
                error=attempt.error,
                next_attempt_at=after.next_attempt_at,
            )

    def _next_attempt_at(self, delivery: Delivery, outcome: Outcome, now: datetime) -> datetime | None:
        if outcome.unwanted:
            return None
        pause = self.ladder.pause(delivery.rung, self.chance(), outcome.retry_after)
        return None if pause is None else now + pause
