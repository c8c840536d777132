"""Rates and quotas over several gateways: never exceeded, and free calls are found soon."""

import asyncio
import random
import secrets
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from contracts.limits import Limits
from libs.store.counters import GRACE, HOLD, Counters
from libs.store.mongo import Mongo
from services.embedded import EmbeddedMongo
from services.gateway.leases import ScopeLeases
from services.gateway.rate_limit_result import UNLIMITED, Exceeded, LimitKind, QuotaState, RateLimitResult
from services.gateway.rate_limiter import RateLimiter
from services.gateway.settings import OnFailure
from tests.eventually import eventually

QUOTA = Limits(quota_max=100, quota_renewal_rate=1000)
RATE = Limits(rate=100, per=1000)


@dataclass
class Admissions:
    """Every admission of every gateway, by time and scope."""

    moments: dict[str, list[float]] = field(default_factory=dict)

    def of(self, scope: str) -> list[float]:
        """In order of time."""
        return sorted(self.moments.get(scope, []))


@pytest.fixture(name="admissions")
def _admissions(monkeypatch: pytest.MonkeyPatch) -> Admissions:
    """Record admissions where a call is taken from a lease."""
    admissions, take = Admissions(), ScopeLeases.take

    def noting(leases: ScopeLeases, now: float) -> QuotaState | None:
        ticket = take(leases, now)
        if ticket is not None:
            admissions.moments.setdefault(leases.scope, []).append(now)
        return ticket

    monkeypatch.setattr(ScopeLeases, "take", noting)
    return admissions


@asynccontextmanager
async def counters_at(url: str, now: Callable[[], object] = lambda: "$$NOW") -> AsyncIterator[Counters]:
    mongo = Mongo(url, f"tokenwire_test_{secrets.token_hex(6)}")
    counters = Counters(mongo, now)
    await mongo.open()
    await mongo.prepared()
    yield counters
    await mongo.close()


@pytest.fixture(scope="module", name="counters")
async def _counters(mongodb_url: str) -> AsyncIterator[Counters]:
    async with counters_at(mongodb_url) as counters:
        yield counters


@pytest.fixture(name="scope")
def _scope() -> str:
    return secrets.token_hex(8)


def limiter(counters: Counters, on_failure: OnFailure = OnFailure.DENY, **given: Any) -> RateLimiter:
    """A gateway's limiter with long time-outs, for busy machines."""
    return RateLimiter(counters, on_failure, **{"timeout": 30.0, **given})


@pytest.fixture(name="pair")
async def _pair(counters: Counters) -> AsyncIterator[tuple[RateLimiter, RateLimiter]]:
    """Two gateways on one database."""
    pair = limiter(counters), limiter(counters)
    for one in pair:
        one.open()
    yield pair
    for one in pair:
        await one.close()


async def call(one: RateLimiter, scope: str, limits: Limits) -> RateLimitResult:
    """Ask for a call as the gateway does."""
    outcome = one.take(scope, limits)
    return await one.reserve(scope, limits) if outcome is None else outcome


async def calls(one: RateLimiter, scope: str, limits: Limits, number: int) -> list[RateLimitResult]:
    return list(await asyncio.gather(*(call(one, scope, limits) for _ in range(number))))


def admitted(outcomes: list[RateLimitResult]) -> int:
    return sum(isinstance(outcome, QuotaState) for outcome in outcomes)


def most_in(moments: list[float], per: float) -> int:
    """The largest number of admissions in any interval of this many seconds."""
    return max((bisect_right(moments, moment + per) - n for n, moment in enumerate(moments)), default=0)


async def holding(one: RateLimiter, scope: str) -> int:
    """A limiter that holds a reservation, after 49 of a hundred calls."""
    for _ in range(3):
        await calls(one, scope, QUOTA, 16)
    await call(one, scope, QUOTA)
    leases = one._scopes[scope]
    await eventually(lambda: leases.serving is None)
    assert leases.unused > 0
    return leases.unused


async def hammer(pair: tuple[RateLimiter, ...], scope: str, limits: Limits, seconds: float) -> list[RateLimitResult]:
    """Call all gateways over and over, 16 at a time."""
    until = time.monotonic() + seconds
    outcomes: list[RateLimitResult] = []

    async def caller(one: RateLimiter) -> None:
        while time.monotonic() < until:
            outcomes.append(await call(one, scope, limits))
            await asyncio.sleep(0.002)

    await asyncio.gather(*(caller(one) for one in pair for _ in range(16)))
    return outcomes


# Exactly the limit


async def test_two_gateways_admit_exactly_the_quota(pair: tuple[RateLimiter, RateLimiter], scope: str) -> None:
    """Two gateways together admit exactly the quota; refusals name the start of the next window."""
    limits = Limits(quota_max=500, quota_renewal_rate=1000)
    outcomes = await hammer(pair, scope, limits, 3)
    assert admitted(outcomes) == 500
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Exceeded)]
    assert {refusal.kind for refusal in refusals} == {LimitKind.QUOTA}
    assert 900 < (refusals[-1].retry_after or 0) <= 1000
    left = refusals[-1].quota
    assert left is not None
    assert left[:2] == (500, 0)


async def test_two_gateways_admit_exactly_the_rate(pair: tuple[RateLimiter, RateLimiter], scope: str) -> None:
    """No more than the rate is admitted while the first call is within `per`."""
    outcomes = await hammer(pair, scope, Limits(rate=300, per=1000), 3)
    assert admitted(outcomes) == 300
    assert {outcome.kind for outcome in outcomes if isinstance(outcome, Exceeded)} == {LimitKind.RATE}


async def test_no_interval_has_more_than_the_rate(
    pair: tuple[RateLimiter, RateLimiter], scope: str, admissions: Admissions
) -> None:
    """No interval of any start has more calls than the rate (no double burst at window ends), and the rate is used
    fully.
    """
    limits = Limits(rate=50, per=0.5)
    await hammer(pair, scope, limits, 4)
    moments = admissions.of(scope)
    assert most_in(moments, limits.per) <= limits.rate
    assert len(moments) > 4 * 2 * limits.rate / 4


async def test_a_call_counts_for_rate_and_quota(pair: tuple[RateLimiter, RateLimiter], scope: str) -> None:
    """A call counts for rate and quota; a call refused by the rate does not use quota."""
    limits = Limits(rate=20, per=1, quota_max=50, quota_renewal_rate=1000)
    outcomes = await hammer(pair, scope, limits, 6)
    kinds = [outcome.kind for outcome in outcomes if isinstance(outcome, Exceeded)]
    assert admitted(outcomes) == 50
    assert (kinds[0], kinds[-1]) == (LimitKind.RATE, LimitKind.QUOTA)


async def test_a_quota_window_ends(pair: tuple[RateLimiter, RateLimiter], scope: str) -> None:
    """A new quota window starts with the first call after the old one, for both gateways."""
    limits = Limits(quota_max=10, quota_renewal_rate=2)
    assert admitted(await calls(pair[0], scope, limits, 20)) == 10
    assert admitted(await calls(pair[1], scope, limits, 20)) == 0

    async def renewed() -> bool:
        return isinstance(await call(pair[1], scope, limits), QuotaState)

    await eventually(renewed)
    assert admitted(await calls(pair[0], scope, limits, 20) + await calls(pair[1], scope, limits, 20)) == 9


# Unused reservations


async def test_an_idle_reservation_elsewhere_is_freed_long_before_it_expires(
    pair: tuple[RateLimiter, RateLimiter], scope: str
) -> None:
    """If one gateway is refused, another that holds unused calls returns them, long before its lease expires."""
    held = await holding(pair[0], scope)
    await calls(pair[1], scope, QUOTA, 100 - 49 - held)
    assert admitted(await calls(pair[1], scope, QUOTA, 1)) == 0

    async def found() -> bool:
        return isinstance(await call(pair[1], scope, QUOTA), QuotaState)

    await eventually(found, within=HOLD - 0.5, every=0.01)
    assert admitted(await calls(pair[1], scope, QUOTA, 100)) == held - 1


async def test_an_unused_lease_is_returned(pair: tuple[RateLimiter, RateLimiter], scope: str) -> None:
    """An unused reservation is returned when it expires, and the scope is forgotten."""
    await holding(pair[0], scope)

    async def forgotten() -> bool:
        return scope not in pair[0]._scopes

    await eventually(forgotten)
    status = await pair[1].limit_status(scope, QUOTA)
    assert status.quota_remaining == 51


async def test_closing_gives_everything_back(counters: Counters, scope: str) -> None:
    """A graceful stop returns all reservations."""
    one, other = limiter(counters), limiter(counters)
    one.open()
    await holding(one, scope)
    await one.close()
    assert admitted(await calls(other, scope, QUOTA, 100)) == 51
    await other.close()


async def test_a_lease_of_a_dead_gateway_counts_as_used(counters: Counters, scope: str) -> None:
    """The reservation of a killed gateway counts as used, because it may have been."""
    dead, other = limiter(counters), limiter(counters)
    held = await holding(dead, scope)
    outcomes = await hammer((other,), scope, QUOTA, 1)
    assert admitted(outcomes) == 100 - 49 - held
    await other.close()


# Virtual time: any actions of the gateways, any delay of messages


@dataclass
class Time:
    """A shared clock that advances only when told."""

    seconds: float = 0.0
    start: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def server(self) -> datetime:
        """The time as MongoDB has it."""
        return self.start + timedelta(seconds=self.seconds)


@pytest.mark.parametrize("seed", range(8))
async def test_no_schedule_exceeds_a_limit(mongodb_url: str, admissions: Admissions, seed: int) -> None:
    """Three gateways with skewed clocks, one of which is killed, never exceed a limit."""
    chance, now, scope = random.Random(seed), Time(), "g"
    limits = Limits(
        rate=chance.choice([1, 3, 20, 300]),
        per=chance.choice([0.5, 2.0, 10.0]),
        quota_max=chance.choice([-1, 30, 200]),
        quota_renewal_rate=chance.choice([0, 7, 20]),
    )
    async with counters_at(mongodb_url, now.server) as counters:
        gateways = [limiter(counters, clock=lambda: now.seconds) for _ in range(3)]
        under_way: list[asyncio.Task[RateLimitResult]] = []
        for step in range(600):
            one = chance.choice(gateways)
            match chance.choices(["calls", "time", "idle", "upkeep", "messages"], [5, 3, 0.2, 2, 5])[0]:
                case "calls":
                    number = chance.choice([1, 1, 2, 10])
                    under_way += [asyncio.create_task(call(one, scope, limits)) for _ in range(number)]
                case "time":
                    now.seconds += chance.choice([0.001, 0.02, 0.2])
                case "idle":
                    now.seconds += chance.choice([limits.per, HOLD, limits.quota_renewal_rate])
                case "upkeep":
                    await one.sweep()
                    await one.watch()
                case "messages":
                    await asyncio.sleep(chance.choice([0, 0, 0.002]))
            if step == 400:
                gateways.pop()
        await asyncio.gather(*under_way)
        for one in gateways:
            await one.close()
        moments = admissions.of(scope)
        assert most_in(moments, limits.per) <= limits.rate
        assert most_in_a_window(moments, limits) <= (limits.quota_max if limits.quota_max > 0 else len(moments))
        assert len(moments) >= min(limits.rate, 20)


@pytest.mark.parametrize(
    ("limits", "usable"),
    [
        pytest.param(Limits(rate=100, per=1), HOLD, id="its-hold"),
        pytest.param(Limits(quota_max=100, quota_renewal_rate=2), 2.0, id="its-window"),
    ],
)
async def test_a_lease_is_not_used_after_its_time(mongodb_url: str, limits: Limits, usable: float) -> None:
    """A reservation's lifetime counts from before it was requested, because others may get the calls afterwards."""
    now = Time()
    async with counters_at(mongodb_url, now.server) as counters:
        one = limiter(counters, clock=lambda: now.seconds)
        await calls(one, "g", limits, 8)
        await calls(one, "g", limits, 4)
        asked = asyncio.create_task(calls(one, "g", limits, 4))
        await asyncio.sleep(0)
        now.seconds += 0.5
        await asked
        assert isinstance(one.take("g", limits), QuotaState)
        now.seconds += usable - 0.51
        assert isinstance(one.take("g", limits), QuotaState)
        now.seconds += 0.01
        assert one.take("g", limits) is None
        await one.close()


def most_in_a_window(moments: list[float], limits: Limits) -> int:
    """The most admissions in any window that starts with an admission."""
    most, rest = 0, moments
    while rest:
        end = rest[0] + limits.quota_renewal_rate if limits.quota_renewal_rate else float("inf")
        inside = [moment for moment in rest if moment < end - 0.01]
        most, rest = max(most, len(inside)), rest[len(inside) :]
        rest = [moment for moment in rest if moment >= end + 0.01]
    return most


# The fast path


async def test_a_call_within_the_budget_waits_for_nothing(counters: Counters, scope: str) -> None:
    """A call within the reservation does not wait: it is decided without an event loop, and reserves more ahead of
    need.
    """
    one = limiter(counters)
    for _ in range(4):
        await calls(one, scope, QUOTA, 8)
    leases = one._scopes[scope]
    await eventually(lambda: leases.serving is None and leases.unused >= 2)
    before = REGISTRY.get_sample_value("tokenwire_limit_reservations_total", {"outcome": "granted"})
    assert isinstance(await asyncio.to_thread(one.take, scope, QUOTA), QuotaState)
    assert REGISTRY.get_sample_value("tokenwire_limit_reservations_total", {"outcome": "granted"}) == before
    await one.close()


async def test_a_busy_scope_seldom_waits(counters: Counters, scope: str) -> None:
    """Reservations grow with the rate of calls and are renewed early."""
    one, limits = limiter(counters), Limits(rate=10**6, per=10)
    one.open()
    waited = 0
    for _ in range(1000):
        if one.take(scope, limits) is None:
            waited += 1
            await one.reserve(scope, limits)
        await asyncio.sleep(0.001)
    assert waited < 30
    await one.close()


async def test_the_remaining_calls_are_exact_on_one_gateway(counters: Counters, scope: str) -> None:
    """On one gateway the remaining calls are exact, in results and in the limit status, which counts nothing."""
    one = limiter(counters)
    tickets = [await call(one, scope, QUOTA) for _ in range(100)]
    assert [ticket.quota_remaining for ticket in tickets if isinstance(ticket, QuotaState)] == list(range(99, -1, -1))
    assert (await one.limit_status(scope, QUOTA)).quota_remaining == 0
    await one.close()


async def test_the_limit_status_includes_reservations(counters: Counters, scope: str) -> None:
    """A gateway's limit status includes its own reservation, which the counter shows as used."""
    one = limiter(counters)
    for made in range(1, 40):
        await call(one, scope, QUOTA)
        assert (await one.limit_status(scope, QUOTA)).quota_remaining == 100 - made
    await one.close()


async def test_refusals_do_not_ask_again_at_once(counters: Counters, scope: str) -> None:
    """A refusal is remembered for a while, so repeated calls cost no round trip."""
    one, limits = limiter(counters), Limits(quota_max=1, quota_renewal_rate=1000)
    assert isinstance(await call(one, scope, limits), QuotaState)
    assert isinstance(await call(one, scope, limits), Exceeded)
    assert isinstance(one.take(scope, limits), Exceeded)
    await one.close()


async def test_without_a_limit_nothing_is_counted(counters: Counters, scope: str) -> None:
    """As in Tyk, 0 and -1 mean no limit."""
    one = limiter(counters)
    unlimited = [Limits(), Limits(rate=5), Limits(per=5), Limits(quota_max=0, quota_renewal_rate=5)]
    assert [one.take(scope, limits) for limits in unlimited] == [UNLIMITED] * 4
    assert not one._scopes


async def test_changed_limits_hold_at_once(counters: Counters, scope: str) -> None:
    """A changed limit applies to the next call."""
    one = limiter(counters)
    assert admitted(await calls(one, scope, QUOTA, 40)) == 40
    narrow = QUOTA.model_copy(update={"quota_max": 30})
    assert isinstance(await call(one, scope, narrow), Exceeded)
    assert isinstance(await call(one, scope, QUOTA.model_copy(update={"quota_max": 50})), QuotaState)
    assert admitted(await calls(one, scope, QUOTA.model_copy(), 60)) == 59
    assert one.take(scope, Limits()) == UNLIMITED
    await one.close()


async def test_scopes_kept_here_are_bounded(counters: Counters) -> None:
    """Above a bound, the scope unused the longest returns its reservation and is forgotten; its count stays."""
    one, first = limiter(counters, max_scopes=20), secrets.token_hex(8)
    assert admitted(await calls(one, first, QUOTA, 30)) == 30
    for _ in range(100):
        await call(one, secrets.token_hex(8), QUOTA)
    assert len(one._scopes) <= 20
    assert first not in one._scopes
    await eventually(lambda: not one._serving)
    assert admitted(await calls(one, first, QUOTA, 100)) == 70
    await one.close()


async def test_a_disconnected_caller_affects_no_other(counters: Counters, scope: str) -> None:
    """If a caller disconnects, others waiting for the same reservation get theirs."""
    one = limiter(counters)
    tasks = [asyncio.create_task(call(one, scope, QUOTA)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[:5]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 5 + [QuotaState] * 5
    await one.close()


# Without the counters


@pytest.mark.parametrize("on_failure", list(OnFailure))
async def test_without_counters_the_setting_decides(tmp_path: Path, on_failure: OnFailure) -> None:
    """After one short wait the setting decides whether calls pass. Reservations are used up first; recovery is
    automatic.
    """
    async with EmbeddedMongo(tmp_path) as mongo, counters_at(mongo.url) as counters:
        one, scope = limiter(counters, on_failure, timeout=2.0), secrets.token_hex(8)
        one.open()
        assert admitted(await calls(one, scope, QUOTA, 10)) == 10
        mongo.kill()
        await calls(one, secrets.token_hex(8), QUOTA, 3)
        since = time.monotonic()
        outcomes = [await call(one, secrets.token_hex(8), QUOTA) for _ in range(20)]
        assert time.monotonic() - since < 10, "each call waited for the counters"
        expected = UNLIMITED if on_failure is OnFailure.ALLOW else Exceeded(LimitKind.UNAVAILABLE, 2)
        assert outcomes == [expected] * 20
        await mongo.restart()

        async def counted() -> bool:
            outcome = await call(one, scope, QUOTA)
            return isinstance(outcome, QuotaState) and outcome != UNLIMITED

        await eventually(counted)
        left = admitted(await calls(one, scope, QUOTA, 200))
        assert 80 <= left < 90
        await one.close()


async def test_an_outage_grants_no_lease_twice(tmp_path: Path) -> None:
    """Interrupted reservations count as used until they are returned; then exactly the rest is left."""
    async with EmbeddedMongo(tmp_path) as mongo, counters_at(mongo.url) as counters:
        one, scope = limiter(counters), secrets.token_hex(8)
        one.open()
        outcomes = await calls(one, scope, QUOTA, 20)
        waiting = [asyncio.create_task(call(one, scope, QUOTA)) for _ in range(20)]
        await asyncio.sleep(0)
        mongo.kill()
        await asyncio.sleep(1)
        await mongo.restart()
        outcomes += await asyncio.gather(*waiting)
        await eventually(lambda: not one._unreachable)
        outcomes += await hammer((one,), scope, QUOTA, 2)
        assert admitted(outcomes) == 100
        await one.close()


async def test_a_reservation_that_cannot_be_returned_is_dropped(tmp_path: Path) -> None:
    """What cannot be returned for GRACE counts as used, and is forgotten here."""
    now = Time()
    async with EmbeddedMongo(tmp_path) as mongo, counters_at(mongo.url, now.server) as counters:
        one = limiter(counters, clock=lambda: now.seconds, timeout=0.2)
        await calls(one, "g", Limits(rate=100, per=10), 4)
        mongo.kill()
        await calls(one, "h", QUOTA, 1)
        now.seconds += HOLD + 1
        await one.sweep()
        assert "g" in one._scopes
        now.seconds += GRACE
        await one.sweep()
        assert not one._scopes
        await one.close()
        await mongo.restart()
