"""Endpoints: concurrency limits and a circuit breaker, so that no endpoint slows the webhooks of another one.

An endpoint is one URL. Its state is kept in memory, per process.
"""

import resource
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from contracts.webhooks import Circuit, CircuitState
from libs.catalog import Catalog
from libs.outbound.signing import WebhookSecrets
from libs.telemetry import WEBHOOKS_IN_FLIGHT

FAILURE_THRESHOLD = 5
"""Consecutive failures that open the circuit breaker."""
MIN_OPEN_TIME = timedelta(seconds=2)
MAX_OPEN_TIME = timedelta(seconds=30)
FAST_RESPONSE_MS = 250
"""An endpoint whose latest attempt took less than this many milliseconds counts as fast."""


class WebhookTarget(NamedTuple):
    """Where the webhooks of an API go, and what proves that they come from here."""

    on_key_change_url: str
    secrets: WebhookSecrets


async def webhook_settings(catalog: Catalog, api_id: str) -> WebhookTarget | None:
    """Current webhook URL and secrets of an API; None if the API is deleted or has no webhook URL."""
    api = await catalog.api(api_id)
    if api is None or api.oauth is None or api.oauth.notifications is None:
        return None
    notifications = api.oauth.notifications
    if not notifications.on_key_change_url:
        return None
    shared = notifications.shared_secret if notifications.shared_secret_header else None
    return WebhookTarget(notifications.on_key_change_url, WebhookSecrets(shared, api.signing_secrets))


def affordable_concurrency(wanted: int) -> int:
    """`wanted`, but at most half of the files that this process may open, since each attempt needs a socket."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(2, min(wanted, soft // 2))


@dataclass(slots=True)
class CircuitBreaker:
    """Stops attempts to an endpoint that fails, and probes it until it is back.

    Closed: up to `max_concurrency` attempts at once. Open: no attempt for `open_time`, then one probe (half-open). A
    failed probe doubles `open_time`, up to MAX_OPEN_TIME. After a successful probe the limit starts at one and doubles
    with each success, because an endpoint that has just come back must not get all waiting webhooks at once.
    """

    max_concurrency: int
    failures: int = 0
    """Consecutive failures."""
    recovery_limit: int = 0
    """Attempts at once during recovery; 0: not recovering, `max_concurrency` applies."""
    open_until: datetime | None = None
    open_time: timedelta = timedelta()
    """How long the breaker was opened the last time; zero after a success."""

    def limit(self, now: datetime) -> int:
        """How many attempts may be in flight at once."""
        if self.open_until is not None:
            return 1 if now >= self.open_until else 0
        return self.recovery_limit or self.max_concurrency

    def state(self, now: datetime) -> CircuitState:
        """Open, half-open (probing, or recovering after a successful probe), or closed."""
        if self.open_until is not None:
            return CircuitState.HALF_OPEN if now >= self.open_until else CircuitState.OPEN
        return CircuitState.HALF_OPEN if self.recovery_limit else CircuitState.CLOSED

    @property
    def is_pristine(self) -> bool:
        """True if nothing is lost when this breaker is replaced by a new one."""
        return not self.failures and not self.recovery_limit and self.open_until is None

    def record_success(self) -> None:
        """Close the breaker, or raise the limit during recovery."""
        if self.open_until is not None:
            self.open_until, self.recovery_limit = None, 1
        elif self.recovery_limit:
            doubled = self.recovery_limit * 2
            self.recovery_limit = doubled if doubled < self.max_concurrency else 0
        self.failures, self.open_time = 0, timedelta()

    def record_failure(self, now: datetime) -> None:
        """Count a failure; open the breaker at the threshold, after a failed probe, and during recovery."""
        self.failures += 1
        if self.open_until is not None and now < self.open_until:
            return  # this attempt began before the breaker opened: it is no probe
        if self.failures >= FAILURE_THRESHOLD or self.open_until is not None or self.recovery_limit:
            self.open_time = min(self.open_time * 2, MAX_OPEN_TIME) or MIN_OPEN_TIME
            self._open(now + self.open_time)

    def record_retry_after(self, now: datetime, wait: timedelta) -> None:
        """Open the breaker for as long as the endpoint asked for by `Retry-After`, at most MAX_OPEN_TIME."""
        self._open(now + min(wait, MAX_OPEN_TIME))

    def _open(self, until: datetime) -> None:
        self.open_until = max(until, self.open_until) if self.open_until else until
        self.recovery_limit = 0


class Endpoint:
    """What this process knows about one URL."""

    def __init__(self, url: str, breaker: CircuitBreaker) -> None:
        self.url = url
        self.breaker = breaker
        self.in_flight = 0
        """Attempts."""
        self.recording = 0
        """Attempts that have ended and whose results are not recorded yet."""
        self.waiting_apis: set[str] = set()
        """APIs that are known to have deliveries for this endpoint due in MongoDB."""
        self.is_fast = True
        """Whether its latest attempt took less than FAST_RESPONSE_MS; True before the first one."""

    @property
    def can_be_forgotten(self) -> bool:
        """True if a new Endpoint would behave the same."""
        return not self.in_flight and not self.recording and not self.waiting_apis and self.breaker.is_pristine


class EndpointLimiter:
    """Divides the attempts that may be in flight at once in this process among the endpoints.

    An attempt takes a slot of its endpoint until the endpoint has responded, and one of the total until its result is
    recorded. If the first lasted as long as the second, a fast endpoint would have its slots taken by recording, and
    its next deliveries would have to be stored, found and leased one by one. The total keeps a slow MongoDB from
    filling the memory with results.

    An endpoint gets at most `per_endpoint` slots, and no more than a third of the number of slots that stay free. So
    endpoints that hang leave slots to the others, even if dozens of them hang. An endpoint with nothing in flight may
    always start one attempt; the total can therefore be exceeded by one slot per endpoint.
    """

    def __init__(self, total: int, per_endpoint: int, now: Callable[[], datetime]) -> None:
        self._total = total
        self._per_endpoint = per_endpoint
        self._now = now
        self._endpoints: dict[str, Endpoint] = {}
        self.in_flight = 0
        """Attempts, and results that are not recorded yet."""
        WEBHOOKS_IN_FLIGHT.set_function(lambda: self.in_flight)
        self.on_slot_free: Callable[[Endpoint], None] = lambda _: None
        """Called with an endpoint that has deliveries waiting, when it may have a free slot."""

    def endpoint(self, url: str) -> Endpoint:
        """The endpoint of this URL."""
        endpoint = self._endpoints.get(url)
        if endpoint is None:
            endpoint = self._endpoints[url] = Endpoint(url, CircuitBreaker(self._per_endpoint))
        return endpoint

    def circuit(self, url: str | None) -> Circuit:
        """The circuit breaker of this URL as it is now; closed if nothing is known about the URL."""
        endpoint, now = self._endpoints.get(url or ""), self._now()
        if endpoint is None:
            return Circuit(state=CircuitState.CLOSED, failures=0, in_flight=0)
        breaker = endpoint.breaker
        state = breaker.state(now)
        return Circuit(
            state=state,
            failures=breaker.failures,
            open_until=breaker.open_until if state is CircuitState.OPEN else None,
            in_flight=endpoint.in_flight,
        )

    def free_slots(self, endpoint: Endpoint) -> int:
        """How many more attempts to this endpoint may start now."""
        allowed = endpoint.breaker.limit(self._now()) - endpoint.in_flight
        # Solved for n, the number of new slots: own + n <= (total - in flight - n) / 3.
        fair = (self._total - self.in_flight - 3 * endpoint.in_flight) // 4
        return max(0, min(allowed, fair if endpoint.in_flight or endpoint.recording else max(1, fair)))

    def acquire(self, endpoint: Endpoint, wanted: int = 1) -> int:
        """Take up to `wanted` slots; returns how many. Each must be given back by `release`."""
        acquired = min(wanted, self.free_slots(endpoint))
        endpoint.in_flight += acquired
        self.in_flight += acquired
        return acquired

    def release(self, endpoint: Endpoint, slots: int = 1) -> None:
        """Give slots back that no attempt was made with."""
        endpoint.in_flight -= slots
        self.in_flight -= slots
        self._slot_freed(endpoint)

    def attempt_ended(self, endpoint: Endpoint) -> None:
        """Give the endpoint's slot back; that of the total is kept until `recorded`."""
        endpoint.in_flight -= 1
        endpoint.recording += 1
        self._slot_freed(endpoint)

    def recorded(self, endpoint: Endpoint) -> None:
        """Give the slot of the total back, after `attempt_ended`."""
        endpoint.recording -= 1
        self.in_flight -= 1
        self._slot_freed(endpoint)

    def _slot_freed(self, endpoint: Endpoint) -> None:
        if endpoint.waiting_apis:
            self.on_slot_free(endpoint)
        elif endpoint.can_be_forgotten:
            self._endpoints.pop(endpoint.url, None)

    def record(
        self, endpoint: Endpoint, latency_ms: int, *, failed: bool, retry_after: timedelta | None = None
    ) -> None:
        """Note the result of an attempt. `retry_after` counts only for a failed one."""
        endpoint.is_fast = latency_ms < FAST_RESPONSE_MS
        if not failed:
            endpoint.breaker.record_success()
            return
        now = self._now()
        endpoint.breaker.record_failure(now)
        if retry_after is not None:
            endpoint.breaker.record_retry_after(now, retry_after)
