"""The rate limiter: rates and quotas that hold over any number of gateways, without a database call for each request.

Each gateway leases calls from shared counters (`libs.store.counters`), admits calls from its leases (`leases`), and
gives back what it does not use. See ADR 9.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import takewhile
from uuid import uuid4

import structlog
from aiohttp import web

from contracts.limits import Limits, LimitStatus
from libs.cancellation import cancel_and_wait
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.counters import GRACE, HOLD, WANTED_FOR, Counters, Exchange, Uncountable, has_quota, has_rate
from libs.supervision import BackgroundTask, Supervisor, spawn
from libs.telemetry import LIMIT_REFUSALS, LIMIT_RESERVATIONS, LIMIT_UNCOUNTED, LIMIT_WAITING
from services.gateway.leases import QUOTA_ONLY, ScopeLeases
from services.gateway.rate_limit_result import UNLIMITED, Exceeded, LimitKind, RateLimitResult
from services.gateway.settings import OnFailure

CHECK_EVERY = 0.2
"""Seconds between two checks for expired leases, and for calls that other gateways ask back."""
TIMEOUT = 2.0
"""Seconds that a call waits for the counters before they are considered unreachable."""
RETRY_AFTER = 2
"""Seconds after which to try again a call that was refused because the counters are unreachable."""
MAX_SCOPES = 20_000
STOP_TIMEOUT = 3.0
"""Seconds for giving back all leases when the gateway stops."""

log = structlog.get_logger("limits")


class RateLimiter:
    """Admits calls: from a lease if there is one (no I/O), otherwise after one exchange with the shared counter.

    A scope is the name of what is counted together: a client or a client's user, on all APIs, on one or on an endpoint.
    With QUOTA_ONLY at its end, calls count against the quota of the scope, and not against its rate.
    """

    def __init__(
        self,
        counters: Counters,
        on_failure: OnFailure,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        timeout: float = TIMEOUT,
        max_scopes: int = MAX_SCOPES,
    ) -> None:
        self._counters = counters
        self._on_failure = on_failure
        self._clock = clock
        self._sleep = sleep
        self._timeout = timeout
        self._max_scopes = max_scopes
        self._scopes: dict[str, ScopeLeases] = {}
        """By the time of their last request for a lease, the oldest first."""
        self._serving: set[asyncio.Task[None]] = set()
        self._loops: list[BackgroundTask] = []
        self._unreachable = False
        self._server_time = (0, 0.0)
        """A time of the server (Unix milliseconds), and a reading of this clock no earlier than it."""

    def add_to(self, app: web.Application, supervisor: Supervisor) -> None:
        """Run with the application."""

        async def running(_: web.Application) -> AsyncIterator[None]:
            self.open(supervisor)
            yield
            await self.close()

        app.cleanup_ctx.append(running)

    def open(self, supervisor: Supervisor | None = None) -> None:
        """Start the background tasks."""
        supervisor = supervisor or Supervisor()
        self._loops = [
            supervisor.every("limits-sweep", CHECK_EVERY, self.sweep, sleep=self._sleep),
            supervisor.every("limits-watch", CHECK_EVERY, self.watch, sleep=self._sleep),
        ]

    async def close(self) -> None:
        """Give back all leases within STOP_TIMEOUT; calls that could not be given back count as used."""
        await asyncio.gather(*(loop.stop() for loop in self._loops))
        self._loops = []
        for leases in self._scopes.values():
            self._give_back(leases)
        self._scopes.clear()
        if self._serving:
            _, late = await asyncio.wait(self._serving, timeout=STOP_TIMEOUT)
            await cancel_and_wait(*late)

    # The hot path

    def take(self, scope: str, limits: Limits) -> RateLimitResult | None:
        """Admit or refuse the call without I/O; None if only `reserve` can tell."""
        leases = self._scopes.get(scope)
        if leases is None:
            return None if has_rate(limits) or has_quota(limits) else UNLIMITED
        now = self._clock()
        if limits is not leases.limits and not leases.is_for(limits, now):
            return None if has_rate(limits) or has_quota(limits) else UNLIMITED
        quota = leases.take(now)
        if quota is not None:
            if leases.prefetch and leases.serving is None:
                self._serve(leases)
            return quota
        # A recent refusal is repeated without asking, so that callers over their limit cost no database calls.
        if leases.refusal is None or now >= leases.refused_until:
            return None
        return leases.refusal

    async def reserve(self, scope: str, limits: Limits) -> RateLimitResult:
        """Admit or refuse the call, after asking the shared counter for a lease if needed."""
        outcome = self.take(scope, limits)
        if outcome is not None:
            return outcome
        if self._unreachable:
            return self._without_counter()
        leases = self._leases_of(scope, limits)
        waiter: asyncio.Future[RateLimitResult] = asyncio.get_running_loop().create_future()
        leases.waiters.append(waiter)
        self._serve(leases)
        LIMIT_WAITING.inc()
        try:
            async with asyncio.timeout(self._timeout):
                outcome = await waiter
        except TimeoutError:
            self._on_outage("no response in time")
            outcome = self._without_counter()
        finally:
            LIMIT_WAITING.dec()
        return outcome

    async def limit_status(self, scope: str, limits: Limits) -> LimitStatus:
        """What is left of the limits; nothing is counted. Raises TemporarilyUnavailable."""
        while True:
            found = self._leases_from(scope)
            if serving := {leases.serving for leases in found if leases.serving is not None}:
                await asyncio.wait(serving)
            before = [leases.exchanges for leases in found]
            (status,) = await self._counters.limit_statuses([(scope, limits)])
            if not found or (limits.quota_renewal_rate and not status.quota_renews):
                return status
            # The counter counts leased calls as used, so those not used yet are added. That is only correct if no
            # exchange took place during the read; otherwise read again.
            if not any(leases.serving for leases in found) and [leases.exchanges for leases in found] == before:
                unused = sum(leases.unused for leases in found)
                remaining = min(status.quota_max, status.quota_remaining + unused)
                return status.model_copy(update={"quota_remaining": remaining})

    # Exchanges with the counters

    def _leases_from(self, counter: str) -> list[ScopeLeases]:
        """All leases from this counter."""
        found = (self._scopes.get(scope) for scope in (counter, counter + QUOTA_ONLY))
        return [leases for leases in found if leases is not None]

    def _leases_of(self, scope: str, limits: Limits) -> ScopeLeases:
        leases = self._scopes.get(scope)
        if leases is None:
            self._make_room()
            leases = self._scopes[scope] = ScopeLeases(scope, limits, self._clock())
        return leases

    def _make_room(self) -> None:
        """If there are too many scopes, give back the leases of those that requested none for the longest time."""
        while len(self._scopes) >= self._max_scopes:
            oldest = next((leases for leases in self._scopes.values() if not leases.waiters), None)
            if oldest is None:
                return  # every scope has a waiting call, so the number of connections bounds them
            del self._scopes[oldest.scope]
            self._give_back(oldest)

    def _give_back(self, leases: ScopeLeases) -> None:
        leases.end(self._clock())
        leases.urgent = True
        self._serve(leases)

    def _serve(self, leases: ScopeLeases) -> None:
        if leases.serving is None and leases.is_busy:
            leases.serving = spawn("limits-exchange", self._exchanges(leases))
            self._serving.add(leases.serving)
            leases.serving.add_done_callback(self._serving.discard)

    async def _exchanges(self, leases: ScopeLeases) -> None:
        try:
            while leases.is_busy:
                await self._exchange(leases)
        finally:
            leases.serving = None

    async def _exchange(self, leases: ScopeLeases) -> None:
        """Settle the leases that are over and reserve the next one, in one round trip; one at a time for a scope."""
        sent = self._clock()  # before the server's time is read: see Lease
        reservation = leases.demand(uuid4().hex, sent)
        settlements, leases.returns, leases.urgent = leases.returns, [], False
        leases.exchanges += 1
        if reservation is not None and self._scopes.get(leases.scope) is leases:
            self._scopes[leases.scope] = self._scopes.pop(leases.scope)  # to the end of the order
        if reservation is None and not settlements:
            return
        try:
            count = await self._counters.exchange(Exchange(leases.counter, settlements, reservation))
        except (TemporarilyUnavailable, Uncountable) as fault:
            if isinstance(fault, TemporarilyUnavailable):
                self._on_outage(fault.detail)
            LIMIT_RESERVATIONS.labels("failed").inc()
            leases.fail(self._without_counter, reservation.lease_id if reservation else None, settlements)
            return
        self._on_recovery()
        if reservation is not None and count is not None:
            now = self._clock()
            self._server_time = (count.now, now)
            leases.receive(reservation, count, sent, now)
            LIMIT_RESERVATIONS.labels("granted" if count.given else "refused").inc()

    # In the background

    async def sweep(self) -> None:
        """Give back expired leases, and forget scopes without any."""
        now = self._clock()
        for leases in list(takewhile(lambda leases: leases.requested_at + HOLD <= now, self._scopes.values())):
            leases.end(now)
            # After GRACE the server counts the lease as used anyway: there is nothing left to give back.
            if leases.is_idle or leases.requested_at + HOLD + GRACE <= now:
                del self._scopes[leases.scope]
            elif not self._unreachable:
                self._give_back(leases)

    async def watch(self) -> None:
        """Give back leases that another gateway asks for; probe the counters while they are unreachable."""
        try:
            if self._unreachable:
                await self._counters.probe()
                self._on_recovery()
            elif self._scopes:
                moment, then = self._server_time
                since = moment + int((self._clock() - then - WANTED_FOR) * 1000)
                for scope, at in (await self._counters.wanted(since)).items():
                    for leases in self._leases_from(scope):
                        # Leases younger than the request for them are this gateway's fair share of what was given back.
                        if leases.held_before(at):
                            self._give_back(leases)
        except TemporarilyUnavailable as outage:
            self._on_outage(outage.detail)

    # Counters unreachable

    def _on_outage(self, reason: str) -> None:
        if not self._unreachable:
            self._unreachable = True
            log.warning("limit_counters_unreachable", reason=reason[:200], on_failure=self._on_failure)

    def _on_recovery(self) -> None:
        if self._unreachable:
            self._unreachable = False
            log.info("limit_counters_recovered")

    def _without_counter(self) -> RateLimitResult:
        """What the setting `limits_on_failure` demands for a call that cannot be counted."""
        if self._on_failure is OnFailure.DENY:
            return Exceeded(LimitKind.UNAVAILABLE, RETRY_AFTER)
        LIMIT_UNCOUNTED.inc()
        return UNLIMITED


def note_refusal(kind: LimitKind) -> None:
    """Count a refused call in the metrics."""
    _REFUSALS[kind].inc()


_REFUSALS = {kind: LIMIT_REFUSALS.labels(kind) for kind in LimitKind}
