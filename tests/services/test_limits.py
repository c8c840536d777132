"""Rates and quotas over several gateways: never one call more than the limit, and what is free is found soon."""

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
from services.gateway.budgets import Budget
from services.gateway.limits import Limiter
from services.gateway.outcomes import UNLIMITED, Exceeded, Kind, Ticket
from services.gateway.settings import OnFailure
from tests.eventually import eventually

Outcome = Ticket | Exceeded
QUOTA = Limits(quota_max=100, quota_renewal_rate=1000)
RATE = Limits(rate=100, per=1000)


@dataclass
class Admissions:
    """Every admission of every gateway: by which clock reading it was admitted, in which scope."""

    moments: dict[str, list[float]] = field(default_factory=dict)

    def of(self, scope: str) -> list[float]:
        """In order of time."""
        return sorted(self.moments.get(scope, []))


@pytest.fixture(name="admissions")
def _admissions(monkeypatch: pytest.MonkeyPatch) -> Admissions:
    """Written down where a call is taken from a slice, which is where it is admitted."""
    admissions, take = Admissions(), Budget.take

    def noting(budget: Budget, now: float) -> Ticket | None:
        ticket = take(budget, now)
        if ticket is not None:
            admissions.moments.setdefault(budget.scope, []).append(now)
        return ticket

    monkeypatch.setattr(Budget, "take", noting)
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


def limiter(counters: Counters, on_failure: OnFailure = OnFailure.DENY, **given: Any) -> Limiter:
    """A gateway's, patient with a busy machine."""
    return Limiter(counters, on_failure, **{"patience": 30.0, **given})


@pytest.fixture(name="pair")
async def _pair(counters: Counters) -> AsyncIterator[tuple[Limiter, Limiter]]:
    """Two gateways on one database."""
    pair = limiter(counters), limiter(counters)
    for one in pair:
        one.open()
    yield pair
    for one in pair:
        await one.close()


async def call(one: Limiter, scope: str, limits: Limits) -> Outcome:
    """As the gateway's decision does it."""
    outcome = one.take(scope, limits)
    return await one.reserve(scope, limits) if outcome is None else outcome


async def calls(one: Limiter, scope: str, limits: Limits, number: int) -> list[Outcome]:
    return list(await asyncio.gather(*(call(one, scope, limits) for _ in range(number))))


def admitted(outcomes: list[Outcome]) -> int:
    return sum(isinstance(outcome, Ticket) for outcome in outcomes)


def most_in(moments: list[float], per: float) -> int:
    """The most admissions in any interval of so many seconds."""
    return max((bisect_right(moments, moment + per) - n for n, moment in enumerate(moments)), default=0)


async def holding(one: Limiter, scope: str) -> int:
    """What it has in reserve, after 49 calls of a hundred."""
    for _ in range(3):
        await calls(one, scope, QUOTA, 16)
    await call(one, scope, QUOTA)
    budget = one._budgets[scope]
    await eventually(lambda: budget.serving is None)
    assert budget.unused > 0
    return budget.unused


async def hammer(pair: tuple[Limiter, ...], scope: str, limits: Limits, seconds: float) -> list[Outcome]:
    """Calls of every gateway, 16 at a time, again and again."""
    until = time.monotonic() + seconds
    outcomes: list[Outcome] = []

    async def caller(one: Limiter) -> None:
        while time.monotonic() < until:
            outcomes.append(await call(one, scope, limits))
            await asyncio.sleep(0.002)

    await asyncio.gather(*(caller(one) for one in pair for _ in range(16)))
    return outcomes


# Exactly the limit


async def test_two_gateways_admit_exactly_the_quota(pair: tuple[Limiter, Limiter], scope: str) -> None:
    """Every call of it is found by somebody, and not one more; the refusals say when the next window begins."""
    limits = Limits(quota_max=500, quota_renewal_rate=1000)
    outcomes = await hammer(pair, scope, limits, 3)
    assert admitted(outcomes) == 500
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Exceeded)]
    assert {refusal.kind for refusal in refusals} == {Kind.QUOTA}
    assert 900 < (refusals[-1].retry_after or 0) <= 1000
    assert refusals[-1].figures[:2] == (500, 0)


async def test_two_gateways_admit_exactly_the_rate(pair: tuple[Limiter, Limiter], scope: str) -> None:
    """While the first call is still within `per`."""
    outcomes = await hammer(pair, scope, Limits(rate=300, per=1000), 3)
    assert admitted(outcomes) == 300
    assert {outcome.kind for outcome in outcomes if isinstance(outcome, Exceeded)} == {Kind.RATE}


async def test_no_interval_has_more_than_the_rate(
    pair: tuple[Limiter, Limiter], scope: str, admissions: Admissions
) -> None:
    """Wherever it begins: there is no double burst where one fixed window would end; and the rate is made use of."""
    limits = Limits(rate=50, per=0.5)
    await hammer(pair, scope, limits, 4)
    moments = admissions.of(scope)
    assert most_in(moments, limits.per) <= limits.rate
    assert len(moments) > 4 * 2 * limits.rate / 4


async def test_a_call_counts_for_rate_and_quota(pair: tuple[Limiter, Limiter], scope: str) -> None:
    """Whichever is over first refuses; what the rate refused costs no quota."""
    limits = Limits(rate=20, per=1, quota_max=50, quota_renewal_rate=1000)
    outcomes = await hammer(pair, scope, limits, 6)
    kinds = [outcome.kind for outcome in outcomes if isinstance(outcome, Exceeded)]
    assert admitted(outcomes) == 50
    assert (kinds[0], kinds[-1]) == (Kind.RATE, Kind.QUOTA)


async def test_a_quota_begins_anew(pair: tuple[Limiter, Limiter], scope: str) -> None:
    """With the first call after its window, for both."""
    limits = Limits(quota_max=10, quota_renewal_rate=2)
    assert admitted(await calls(pair[0], scope, limits, 20)) == 10
    assert admitted(await calls(pair[1], scope, limits, 20)) == 0

    async def renewed() -> bool:
        return isinstance(await call(pair[1], scope, limits), Ticket)

    await eventually(renewed)
    assert admitted(await calls(pair[0], scope, limits, 20) + await calls(pair[1], scope, limits, 20)) == 9


# Free is free


async def test_what_another_gateway_holds_idle_is_found_within_a_second(
    pair: tuple[Limiter, Limiter], scope: str
) -> None:
    """The refusal asks for it, and the holder gives it back although nobody calls there."""
    held = await holding(pair[0], scope)
    await calls(pair[1], scope, QUOTA, 100 - 49 - held)
    since = time.monotonic()
    assert admitted(await calls(pair[1], scope, QUOTA, 1)) == 0

    async def found() -> bool:
        return isinstance(await call(pair[1], scope, QUOTA), Ticket)

    await eventually(found, within=3, every=0.01)
    assert time.monotonic() - since < 1
    assert admitted(await calls(pair[1], scope, QUOTA, 100)) == held - 1


async def test_a_slice_that_is_not_used_goes_back_by_itself(pair: tuple[Limiter, Limiter], scope: str) -> None:
    """When its time is over, and the scope is forgotten with it."""
    await holding(pair[0], scope)

    async def forgotten() -> bool:
        return scope not in pair[0]._budgets

    await eventually(forgotten)
    standing = await pair[1].standing(scope, QUOTA)
    assert standing.quota_remaining == 51


async def test_closing_gives_everything_back(counters: Counters, scope: str) -> None:
    """Nothing is lost with a gateway that stops in order."""
    one, other = limiter(counters), limiter(counters)
    one.open()
    await holding(one, scope)
    await one.close()
    assert admitted(await calls(other, scope, QUOTA, 100)) == 51
    await other.close()


async def test_a_gateway_that_died_takes_its_slice_with_it(counters: Counters, scope: str) -> None:
    """What it held counts as used, since it may have been; no more than the limit is admitted in all."""
    dead, other = limiter(counters), limiter(counters)
    held = await holding(dead, scope)
    outcomes = await hammer((other,), scope, QUOTA, 1)
    assert admitted(outcomes) == 100 - 49 - held
    await other.close()


# Virtual time: whatever the gateways do, and however late their messages are


@dataclass
class Time:
    """One time for all, that passes only when it is told to."""

    seconds: float = 0.0
    start: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def server(self) -> datetime:
        """As MongoDB shows it."""
        return self.start + timedelta(seconds=self.seconds)


@pytest.mark.parametrize("seed", range(8))
async def test_no_schedule_exceeds_a_limit(mongodb_url: str, admissions: Admissions, seed: int) -> None:
    """Three gateways with clocks of their own, of which one dies; time passes while messages are under way."""
    chance, now, scope = random.Random(seed), Time(), "g"
    limits = Limits(
        rate=chance.choice([1, 3, 20, 300]),
        per=chance.choice([0.5, 2.0, 10.0]),
        quota_max=chance.choice([-1, 30, 200]),
        quota_renewal_rate=chance.choice([0, 7, 20]),
    )
    async with counters_at(mongodb_url, now.server) as counters:
        gateways = [limiter(counters, clock=lambda: now.seconds) for _ in range(3)]
        under_way: list[asyncio.Task[Outcome]] = []
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
async def test_a_slice_is_not_used_after_its_time(mongodb_url: str, limits: Limits, usable: float) -> None:
    """Counted from before it was asked for, however long the answer takes: others may have it then."""
    now = Time()
    async with counters_at(mongodb_url, now.server) as counters:
        one = limiter(counters, clock=lambda: now.seconds)
        await calls(one, "g", limits, 8)
        await calls(one, "g", limits, 4)
        asked = asyncio.create_task(calls(one, "g", limits, 4))
        await asyncio.sleep(0)
        now.seconds += 0.5
        await asked
        assert isinstance(one.take("g", limits), Ticket)
        now.seconds += usable - 0.51
        assert isinstance(one.take("g", limits), Ticket)
        now.seconds += 0.01
        assert one.take("g", limits) is None
        await one.close()


def most_in_a_window(moments: list[float], limits: Limits) -> int:
    """The most admissions in a window that begins with the first admission after the last one."""
    most, rest = 0, moments
    while rest:
        end = rest[0] + limits.quota_renewal_rate if limits.quota_renewal_rate else float("inf")
        inside = [moment for moment in rest if moment < end - 0.01]
        most, rest = max(most, len(inside)), rest[len(inside) :]
        rest = [moment for moment in rest if moment >= end + 0.01]
    return most


# The hot path


async def test_a_call_within_the_budget_waits_for_nothing(counters: Counters, scope: str) -> None:
    """Without a running event loop there is nobody to wait for; a slice is replaced before it is used up."""
    one = limiter(counters)
    for _ in range(4):
        await calls(one, scope, QUOTA, 8)
    budget = one._budgets[scope]
    await eventually(lambda: budget.serving is None and budget.unused >= 2)
    before = REGISTRY.get_sample_value("tokenwire_limit_reservations_total", {"outcome": "granted"})
    assert isinstance(await asyncio.to_thread(one.take, scope, QUOTA), Ticket)
    assert REGISTRY.get_sample_value("tokenwire_limit_reservations_total", {"outcome": "granted"}) == before
    await one.close()


async def test_a_busy_scope_seldom_waits(counters: Counters, scope: str) -> None:
    """Slices grow with the pace and are replaced ahead of need."""
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
    """Each ticket says one less; so does the standing, which counts nothing."""
    one = limiter(counters)
    tickets = [await call(one, scope, QUOTA) for _ in range(100)]
    assert [ticket.quota_remaining for ticket in tickets if isinstance(ticket, Ticket)] == list(range(99, -1, -1))
    assert (await one.standing(scope, QUOTA)).quota_remaining == 0
    await one.close()


async def test_the_standing_knows_what_is_only_reserved(counters: Counters, scope: str) -> None:
    """On the gateway that reserved it; the counter itself is behind until it is given back."""
    one = limiter(counters)
    for made in range(1, 40):
        await call(one, scope, QUOTA)
        assert (await one.standing(scope, QUOTA)).quota_remaining == 100 - made
    await one.close()


async def test_refusals_do_not_ask_again_at_once(counters: Counters, scope: str) -> None:
    """They are known here for a while: a caller who does not listen costs no round trip each time."""
    one, limits = limiter(counters), Limits(quota_max=1, quota_renewal_rate=1000)
    assert isinstance(await call(one, scope, limits), Ticket)
    assert isinstance(await call(one, scope, limits), Exceeded)
    assert isinstance(one.take(scope, limits), Exceeded)
    await one.close()


async def test_without_a_limit_nothing_is_counted(counters: Counters, scope: str) -> None:
    """As in Tyk, 0 and -1 are no limit."""
    one = limiter(counters)
    unlimited = [Limits(), Limits(rate=5), Limits(per=5), Limits(quota_max=0, quota_renewal_rate=5)]
    assert [one.take(scope, limits) for limits in unlimited] == [UNLIMITED] * 4
    assert not one._budgets


async def test_changed_limits_hold_at_once(counters: Counters, scope: str) -> None:
    """For the next call: narrower ones refuse, wider ones admit, equal ones change nothing."""
    one = limiter(counters)
    assert admitted(await calls(one, scope, QUOTA, 40)) == 40
    narrow = QUOTA.model_copy(update={"quota_max": 30})
    assert isinstance(await call(one, scope, narrow), Exceeded)
    assert isinstance(await call(one, scope, QUOTA.model_copy(update={"quota_max": 50})), Ticket)
    assert admitted(await calls(one, scope, QUOTA.model_copy(), 60)) == 59
    assert one.take(scope, Limits()) == UNLIMITED
    await one.close()


async def test_scopes_kept_here_are_bounded(counters: Counters) -> None:
    """The one that asked the longest ago gives its slice back and is forgotten; its count is not."""
    one, first = limiter(counters, most_scopes=20), secrets.token_hex(8)
    assert admitted(await calls(one, first, QUOTA, 30)) == 30
    for _ in range(100):
        await call(one, secrets.token_hex(8), QUOTA)
    assert len(one._budgets) <= 20
    assert first not in one._budgets
    await eventually(lambda: not one._serving)
    assert admitted(await calls(one, first, QUOTA, 100)) == 70
    await one.close()


async def test_a_caller_who_goes_away_takes_nobody_with_it(counters: Counters, scope: str) -> None:
    """Others who wait for the same slice get theirs."""
    one = limiter(counters)
    tasks = [asyncio.create_task(call(one, scope, QUOTA)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[:5]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 5 + [Ticket] * 5
    await one.close()


# The counters away


@pytest.mark.parametrize("on_failure", list(OnFailure))
async def test_without_counters_the_setting_decides(tmp_path: Path, on_failure: OnFailure) -> None:
    """After a short wait, once; then at once. Whatever is still reserved is used, and all goes on by itself."""
    async with EmbeddedMongo(tmp_path) as mongo, counters_at(mongo.url) as counters:
        one, scope = limiter(counters, on_failure, patience=2.0), secrets.token_hex(8)
        one.open()
        assert admitted(await calls(one, scope, QUOTA, 10)) == 10
        mongo.kill()
        await calls(one, secrets.token_hex(8), QUOTA, 3)
        since = time.monotonic()
        outcomes = [await call(one, secrets.token_hex(8), QUOTA) for _ in range(20)]
        assert time.monotonic() - since < 0.5
        expected = UNLIMITED if on_failure is OnFailure.ALLOW else Exceeded(Kind.UNAVAILABLE, 2)
        assert outcomes == [expected] * 20
        await mongo.restart()

        async def counted() -> bool:
            outcome = await call(one, scope, QUOTA)
            return isinstance(outcome, Ticket) and outcome != UNLIMITED

        await eventually(counted, within=20)
        left = admitted(await calls(one, scope, QUOTA, 200))
        assert 80 <= left < 90
        await one.close()


async def test_an_outage_gives_no_slice_twice(tmp_path: Path) -> None:
    """Reservations that it cut short count as taken, until they are given back; then exactly the rest is left."""
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
        await eventually(lambda: not one._away, within=20)
        outcomes += await hammer((one,), scope, QUOTA, 2)
        assert admitted(outcomes) == 100
        await one.close()


async def test_what_cannot_be_given_back_is_forgotten_in_the_end(tmp_path: Path) -> None:
    """While the counters are away nothing piles up: after GRACE it counts as used there, and is not kept here."""
    now = Time()
    async with EmbeddedMongo(tmp_path) as mongo, counters_at(mongo.url, now.server) as counters:
        one = limiter(counters, clock=lambda: now.seconds, patience=0.2)
        await calls(one, "g", Limits(rate=100, per=10), 4)
        mongo.kill()
        await calls(one, "h", QUOTA, 1)
        now.seconds += HOLD + 1
        await one.sweep()
        assert "g" in one._budgets
        now.seconds += GRACE
        await one.sweep()
        assert not one._budgets
        await one.close()
        await mongo.restart()
