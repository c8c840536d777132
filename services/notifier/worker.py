"""Sends leased deliveries to their endpoints and records each result: delivered, to be retried, or exhausted."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from contracts.webhooks import Attempt, Delivery
from libs.cancellation import cancel_and_wait
from libs.encryption import CannotDecrypt, Opener
from libs.event_encoding import EventContext
from libs.oauth.errors import TemporarilyUnavailable
from libs.outbound.signing import WebhookSecrets
from libs.store.deliveries import Deliveries
from libs.supervision import spawn
from libs.telemetry import WEBHOOK_ATTEMPTS
from services.notifier.client import Outcome, WebhookClient, WebhookTrace
from services.notifier.endpoints import Endpoint, EndpointLimiter
from services.notifier.retry import RetrySchedule

SOURCE = "urn:tokenwire:notifier"
RECORD_RETRY_SECONDS = 0.5
"""Seconds between attempts to record a result while MongoDB is unavailable."""

_COUNTERS = {result: WEBHOOK_ATTEMPTS.labels(result) for result in ("delivered", "exhausted", "failed")}

log = structlog.get_logger("notifier")


@dataclass(slots=True, eq=False)
class InFlight:
    """A delivery that is being sent, or whose result is being recorded."""

    endpoint: Endpoint
    task: asyncio.Task[None] = field(init=False)
    """Ends when the result is recorded."""
    attempt_ended: bool = False
    """Whether only the recording is left."""


@dataclass(frozen=True, slots=True)
class DeliveryWorker:
    """Runs one task for each delivery that is in flight in this process."""

    deliveries: Deliveries
    opener: Opener
    client: WebhookClient
    limiter: EndpointLimiter
    schedule: RetrySchedule
    now: Callable[[], datetime]
    chance: Callable[[], float] = random.random
    in_flight: dict[asyncio.Task[None], Delivery] = field(default_factory=dict)

    def start(self, delivery: Delivery, endpoint: Endpoint, secrets: WebhookSecrets) -> InFlight:
        """Send a delivery that is leased to this process. Takes over its slot and gives it back."""
        in_flight = InFlight(endpoint)
        task = in_flight.task = spawn("webhook", self._deliver(delivery, in_flight, secrets))
        self.in_flight[task] = delivery
        task.add_done_callback(lambda done: self._done(done, endpoint))
        return in_flight

    def _done(self, task: asyncio.Task[None], endpoint: Endpoint) -> None:
        del self.in_flight[task]
        self.limiter.recorded(endpoint)

    async def stop(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for what is in flight; cancel the rest and release its leases."""
        if self.in_flight:
            await asyncio.wait(list(self.in_flight), timeout=timeout)
        if not self.in_flight:
            return
        cancelled = dict(self.in_flight)
        await cancel_and_wait(*cancelled)
        try:
            await self.deliveries.release(list(cancelled.values()), self.now())
        except TemporarilyUnavailable:
            log.warning("leases_not_released", deliveries=len(cancelled))

    async def _deliver(self, delivery: Delivery, in_flight: InFlight, secrets: WebhookSecrets) -> None:
        try:
            outcome = await self._attempt(delivery, in_flight.endpoint, secrets)
        finally:
            in_flight.attempt_ended = True
            self.limiter.attempt_ended(in_flight.endpoint)
        while True:
            try:
                return await self._record(delivery, outcome)
            except TemporarilyUnavailable:
                # A slot of the total stays in use: without MongoDB no other delivery could be leased or recorded.
                await asyncio.sleep(RECORD_RETRY_SECONDS)

    async def _attempt(self, delivery: Delivery, endpoint: Endpoint, secrets: WebhookSecrets) -> Outcome:
        try:
            body = self.opener.open(delivery.sealed or b"")
        except CannotDecrypt as error:
            return Outcome(Attempt(at=self.now(), latency_ms=0, error=str(error)))
        outcome = await self.client.send(endpoint.url, secrets, delivery.delivery_id, body, _trace_of(delivery))
        self.limiter.record(
            endpoint,
            outcome.attempt.latency_ms,
            failed=outcome.endpoint_failed,
            retry_after=outcome.retry_after,
        )
        return outcome

    async def _record(self, delivery: Delivery, outcome: Outcome) -> None:
        attempt = outcome.attempt
        ctx = EventContext(SOURCE, self.now(), attempt.traceparent or delivery.traceparent)
        if outcome.delivered:
            result, after = "delivered", await self.deliveries.delivered(delivery, attempt, ctx)
        elif (next_attempt_at := self._next_attempt_at(delivery, outcome, ctx.now)) is None:
            result, after = "exhausted", await self.deliveries.exhausted(delivery, attempt, ctx)
        else:
            result, after = "failed", await self.deliveries.failed(delivery, attempt, next_attempt_at, ctx)
        _COUNTERS[result].inc()
        if after is None:
            # The lease expired during the attempt, and another notifier has sent the webhook as well. The receiver
            # recognizes the second one by its webhook-id.
            log.warning("webhook_lease_expired", delivery_id=delivery.delivery_id, status=attempt.status)
        elif not outcome.delivered:
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
        """When to retry; None: never."""
        if outcome.gone:
            return None
        delay = self.schedule.delay(delivery.retries, self.chance(), outcome.retry_after)
        return None if delay is None else now + delay


def _trace_of(delivery: Delivery) -> WebhookTrace:
    previous = delivery.attempts[-1].traceparent if delivery.attempts else None
    return WebhookTrace(delivery.traceparent, previous, delivery.attempt_count)
