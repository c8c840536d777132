"""Rates and quotas over any number of gateways: each takes from slices of shared counters, and gives back the rest."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import takewhile
from uuid import uuid4

import structlog
from aiohttp import web

from contracts.limits import Limits, Standing
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.counters import GRACE, HOLD, WANTED_FOR, Counters, Exchange, Uncountable, has_quota, has_rate
from libs.telemetry import LIMIT_REFUSALS, LIMIT_RESERVATIONS, LIMIT_UNCOUNTED, LIMIT_WAITING
from services.gateway.budgets import Budget
from services.gateway.outcomes import UNLIMITED, Exceeded, Kind, Ticket
from services.gateway.settings import OnFailure

LOOK_EVERY = 0.2
"""Seconds between looks at what is over, and at who wants what is held here."""
PATIENCE = 2.0
"""Seconds that a call waits for the counters before they count as away."""
RETRY_AFTER = 2
MOST_SCOPES = 20_000
STOP_WITHIN = 3.0
"""Seconds for giving everything back at the end."""

log = structlog.get_logger("limits")


class Limiter:
    """Admits calls: at once from what is reserved, else after a look at the shared counter.

    A scope is whatever is counted together: a grant, or a grant on one API.
    """

    def __init__(
        self,
        counters: Counters,
        on_failure: OnFailure,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        patience: float = PATIENCE,
        most_scopes: int = MOST_SCOPES,
    ) -> None:
        self._counters = counters
        self._on_failure = on_failure
        self._clock = clock
        self._sleep = sleep
        self._patience = patience
        self._most_scopes = most_scopes
        self._budgets: dict[str, Budget] = {}
        """In the order in which they last asked for a slice."""
        self._serving: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._away = False
        self._server_time = (0, 0.0)
        """A moment of the server's (Unix milliseconds), and what this clock showed no earlier."""

    def add_to(self, app: web.Application) -> None:
        """Begin and end with the application."""
        app.cleanup_ctx.append(self._run)

    async def _run(self, _: web.Application) -> AsyncIterator[None]:
        self.open()
        yield
        await self.close()

    def open(self) -> None:
        """Begin to give back what is not used."""
        self._loops = [
            asyncio.create_task(self._forever(self.sweep), name="limits-sweep"),
            asyncio.create_task(self._forever(self.watch), name="limits-watch"),
        ]

    async def close(self) -> None:
        """Give back everything, within STOP_WITHIN; what could not be given back counts as used."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        for budget in self._budgets.values():
            self._give_back(budget)
        self._budgets.clear()
        if self._serving:
            _, late = await asyncio.wait(self._serving, timeout=STOP_WITHIN)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # The hot path

    def take(self, scope: str, limits: Limits) -> Ticket | Exceeded | None:
        """Admitted, or refused, from what is known here; None: only `reserve` can tell."""
        budget = self._budgets.get(scope)
        if budget is None:
            return None if has_rate(limits) or has_quota(limits) else UNLIMITED
        now = self._clock()
        if limits is not budget.limits and not budget.is_for(limits, now):
            return None if has_rate(limits) or has_quota(limits) else UNLIMITED
        ticket = budget.take(now)
        if ticket is not None:
            if budget.ahead and budget.serving is None:
                self._serve(budget)
            return ticket
        if budget.refusal is None or now >= budget.refused_until:
            return None
        return _told(budget.refusal)

    async def reserve(self, scope: str, limits: Limits) -> Ticket | Exceeded:
        """Admitted, or refused, after a slice of the shared counter was asked for where that is needed."""
        outcome = self.take(scope, limits)
        if outcome is not None:
            return outcome
        if self._away:
            return _told(self._without_counter())
        budget = self._budget(scope, limits)
        waiter: asyncio.Future[Ticket | Exceeded] = asyncio.get_running_loop().create_future()
        budget.waiters.append(waiter)
        self._serve(budget)
        LIMIT_WAITING.inc()
        try:
            async with asyncio.timeout(self._patience):
                outcome = await waiter
        except TimeoutError:
            self._lost("no answer in time")
            outcome = self._without_counter()
        finally:
            LIMIT_WAITING.dec()
        return _told(outcome)

    async def standing(self, scope: str, limits: Limits) -> Standing:
        """What is left of the limits; nothing is counted. Raises TemporarilyUnavailable."""
        while True:
            budget = self._budgets.get(scope)
            if budget is not None and budget.serving is not None:
                await asyncio.wait({budget.serving})
            before = budget.exchanges if budget is not None else 0
            standing = (await self._counters.standings({scope: limits}))[scope]
            if budget is None or (limits.quota_renewal_rate and not standing.quota_renews):
                return standing
            if budget.serving is None and budget.exchanges == before:
                remaining = min(standing.quota_max, standing.quota_remaining + budget.unused)
                return standing.model_copy(update={"quota_remaining": remaining})

    # Slices

    def _budget(self, scope: str, limits: Limits) -> Budget:
        budget = self._budgets.get(scope)
        if budget is None:
            self._make_room()
            budget = self._budgets[scope] = Budget(scope, limits, self._clock())
        return budget

    def _make_room(self) -> None:
        """The scopes that asked for a slice the longest ago give theirs back, where there are too many."""
        while len(self._budgets) >= self._most_scopes:
            oldest = next((budget for budget in self._budgets.values() if not budget.waiters), None)
            if oldest is None:
                return  # as many as there are calls
            del self._budgets[oldest.scope]
            self._give_back(oldest)

    def _give_back(self, budget: Budget) -> None:
        budget.end(self._clock())
        budget.urgent = True
        self._serve(budget)

    def _serve(self, budget: Budget) -> None:
        if budget.serving is None and budget.is_busy:
            budget.serving = asyncio.create_task(self._exchanges(budget), name="limits-exchange")
            self._serving.add(budget.serving)
            budget.serving.add_done_callback(self._serving.discard)

    async def _exchanges(self, budget: Budget) -> None:
        try:
            while budget.is_busy:
                await self._exchange(budget)
        finally:
            budget.serving = None

    async def _exchange(self, budget: Budget) -> None:
        """Slices that are over are settled, and one is reserved if it is needed; one exchange a scope is under way."""
        sent = self._clock()  # before the counter's own clock is read
        reservation = budget.demand(uuid4().hex, sent)
        settlements, budget.returns, budget.urgent = budget.returns, [], False
        budget.exchanges += 1
        if reservation is not None and self._budgets.get(budget.scope) is budget:
            self._budgets[budget.scope] = self._budgets.pop(budget.scope)
        if reservation is None and not settlements:
            return
        try:
            count = await self._counters.exchange(Exchange(budget.scope, settlements, reservation))
        except (TemporarilyUnavailable, Uncountable) as fault:
            if isinstance(fault, TemporarilyUnavailable):
                self._lost(fault.detail)
            LIMIT_RESERVATIONS.labels("failed").inc()
            budget.fail(self._without_counter, reservation.slice_id if reservation else None, settlements)
            return
        self._found()
        if reservation is not None and count is not None:
            now = self._clock()
            self._server_time = (count.now, now)
            budget.receive(reservation, count, sent, now)
            LIMIT_RESERVATIONS.labels("granted" if count.given else "refused").inc()

    # In the background

    async def _forever(self, deed: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._sleep(LOOK_EVERY)
            try:
                await deed()
            except Exception as error:
                log.error("limits_upkeep_failed", error=type(error).__name__, exc_info=error)

    async def sweep(self) -> None:
        """Slices whose time is over are given back; scopes that nothing is held of are forgotten."""
        now = self._clock()
        for budget in list(takewhile(lambda budget: budget.asked_at + HOLD <= now, self._budgets.values())):
            budget.end(now)
            if budget.is_idle or budget.asked_at + HOLD + GRACE <= now:
                del self._budgets[budget.scope]
            elif not self._away:
                self._give_back(budget)

    async def watch(self) -> None:
        """What is held here and wanted elsewhere is given back; while the counters are away, they are probed."""
        try:
            if self._away:
                await self._counters.probe()
                self._found()
            elif self._budgets:
                moment, then = self._server_time
                since = moment + int((self._clock() - then - WANTED_FOR) * 1000)
                for scope, at in (await self._counters.wanted(since)).items():
                    budget = self._budgets.get(scope)
                    if budget is not None and budget.held_before(at):
                        self._give_back(budget)
        except TemporarilyUnavailable as outage:
            self._lost(outage.detail)

    # The counters away

    def _lost(self, reason: str) -> None:
        if not self._away:
            self._away = True
            log.warning("limit_counters_away", reason=reason[:200], on_failure=self._on_failure)

    def _found(self) -> None:
        if self._away:
            self._away = False
            log.info("limit_counters_back")

    def _without_counter(self) -> Ticket | Exceeded:
        """What the setting says of a call that cannot be counted."""
        if self._on_failure is OnFailure.DENY:
            return Exceeded(Kind.UNAVAILABLE, RETRY_AFTER)
        LIMIT_UNCOUNTED.inc()
        return UNLIMITED


def _told(outcome: Ticket | Exceeded) -> Ticket | Exceeded:
    """The outcome, which is in the metrics now."""
    if isinstance(outcome, Exceeded):
        _REFUSALS[outcome.kind].inc()
    return outcome


_REFUSALS = {kind: LIMIT_REFUSALS.labels(kind) for kind in Kind}
