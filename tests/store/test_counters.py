"""Shared counters: no more than the limit is ever reserved, and what is returned is free again exactly once."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.limits import Limits
from libs.store.counters import GRACE, HOLD, LONGEST_KEPT, Count, Counters, Exchange, Reservation, Settlement
from libs.store.mongo import Mongo
from tests.store.lossy import Lossy

TEN = Limits(rate=10, per=60)
QUOTA = Limits(quota_max=10, quota_renewal_rate=100)


@dataclass
class Bench:
    """Counters for which the test controls the server's clock."""

    mongo: Mongo
    now: datetime

    def __post_init__(self) -> None:
        self.counters = Counters(self.mongo, lambda: self.now)

    @property
    def moment(self) -> int:
        """The server's time in Unix milliseconds."""
        return round(self.now.timestamp() * 1000)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    async def reserve(
        self, scope: str, limits: Limits, waiting: int = 1, size: int = 1, lease_id: str = "", *after: Settlement
    ) -> Count:
        reservation = Reservation(lease_id or secrets.token_hex(8), limits, waiting, size)
        count = await self.counters.exchange(Exchange(scope, after, reservation))
        assert count is not None
        return count

    async def settle(self, scope: str, lease_id: str, used: int, unused: int, **uses: int) -> None:
        moments = {int(moment.removeprefix("at")): calls for moment, calls in uses.items()}
        await self.counters.exchange(Exchange(scope, [Settlement(lease_id, used, unused, moments)]))

    async def raw(self, scope: str) -> dict[str, Any]:
        found = await self.mongo["counters"].find_one({"_id": scope})
        assert found is not None
        return found


@pytest.fixture(scope="module", name="mongo")
async def _mongo(mongodb_url: str) -> AsyncIterator[Mongo]:
    mongo = Mongo(mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}")
    Counters(mongo)
    await mongo.open()
    await mongo.prepared()
    yield mongo
    await mongo.close()


@pytest.fixture(name="bench")
def _bench(mongo: Mongo) -> Bench:
    return Bench(mongo, datetime.now(UTC).replace(microsecond=0))


@pytest.fixture(name="scope")
def _scope() -> str:
    return secrets.token_hex(8)


async def test_slices_shrink_to_one_and_never_exceed_the_limit(bench: Bench, scope: str) -> None:
    """However much is requested: a quarter of what is left, then one for a waiting call, then none."""
    given = [(await bench.reserve(scope, Limits(rate=100, per=60), size=1000)).given for _ in range(30)]
    assert given[:6] == [25, 18, 14, 10, 8, 6]
    assert given[-2:] == [0, 0]
    assert sorted(given, reverse=True) == given
    assert sum(given) == 100


async def test_waiting_calls_may_reserve_all_that_is_left(bench: Bench, scope: str) -> None:
    """The bound of a quarter applies only to calls that do not wait."""
    assert [(await bench.reserve(scope, TEN, waiting)).given for waiting in (7, 7, 7)] == [7, 3, 0]


async def test_the_last_calls_are_not_reserved_ahead(bench: Bench, scope: str) -> None:
    """If fewer than four are left, they go to the first that wait."""
    await bench.reserve(scope, TEN, waiting=7)
    assert (await bench.reserve(scope, TEN, waiting=0, size=5)).given == 0
    assert (await bench.reserve(scope, TEN, waiting=1)).given == 1


async def test_a_lease_that_is_never_settled_counts_as_used(bench: Bench, scope: str) -> None:
    """Until its end, and `per` after that: its gateway may have died while using it."""
    await bench.reserve(scope, TEN, waiting=10)
    bench.later(HOLD + 60)
    assert (await bench.reserve(scope, TEN)).given == 0
    bench.later(0.003)
    assert (await bench.reserve(scope, TEN, waiting=20)).given == 10


async def test_a_settled_lease_counts_what_was_used_when_it_was(bench: Bench, scope: str) -> None:
    """The unused rest is free at once, and each call stops counting `per` after its time."""
    began = bench.moment
    await bench.reserve(scope, TEN, 10, 10, "a")
    bench.later(2)
    await bench.settle(scope, "a", 5, 5, **{f"at{began + 1000}": 2, f"at{began + 2000}": 3})
    assert (await bench.reserve(scope, TEN, 10, 10, "b")).given == 5
    await bench.settle(scope, "b", 0, 5)
    bench.later(59)
    assert (await bench.reserve(scope, TEN, 10, 10, "c")).given == 7
    await bench.settle(scope, "c", 0, 7)
    bench.later(1)
    assert (await bench.reserve(scope, TEN, 20)).given == 10


async def test_settling_twice_returns_calls_once(bench: Bench, scope: str) -> None:
    """A batch with an unknown outcome is repeated unchanged."""
    limits = Limits(rate=100, per=60, quota_max=100, quota_renewal_rate=100)
    await bench.reserve(scope, limits, 10, 10, "a")
    for _ in range(2):
        await bench.settle(scope, "a", 4, 6, **{f"at{bench.moment}": 4})
    count = await bench.reserve(scope, limits, waiting=1)
    assert (count.rate_left, count.quota_left) == (95, 95)


async def test_reserving_twice_under_one_id_gives_one_lease(bench: Bench, scope: str) -> None:
    """Repeating a reservation with the same id gives the same result."""
    counts = [await bench.reserve(scope, QUOTA, 3, 3, "a") for _ in range(3)]
    assert [(count.given, count.quota_left) for count in counts] == [(3, 7)] * 3


async def test_returned_calls_can_be_reserved_in_the_same_round_trip(bench: Bench, scope: str) -> None:
    """Returned calls can be reserved in the same round trip."""
    await bench.reserve(scope, QUOTA, 10, 10, "a")
    count = await bench.reserve(scope, QUOTA, 6, 6, "b", Settlement("a", 4, 6, {}))
    assert (count.given, count.quota_left) == (6, 0)


async def test_a_quota_is_for_a_window_that_begins_with_its_first_call(bench: Bench, scope: str) -> None:
    """Not at the end of the previous one, and not with a reservation in advance."""
    bench.later(5)
    first = await bench.reserve(scope, QUOTA, waiting=20)
    assert (first.given, first.renews_at) == (10, bench.moment + 100_000)
    bench.later(99.999)
    assert (await bench.reserve(scope, QUOTA)).given == 0
    bench.later(50)
    assert (await bench.reserve(scope, QUOTA, waiting=0, size=2)).given == 0
    bench.later(1)
    second = await bench.reserve(scope, QUOTA, waiting=20)
    assert (second.given, second.renews_at) == (10, bench.moment + 100_000)


async def test_a_lease_of_an_earlier_window_gives_nothing_to_this_one(bench: Bench, scope: str) -> None:
    """Otherwise more than the quota could be used in this window."""
    await bench.reserve(scope, QUOTA, 10, 10, "a")
    bench.later(100)
    await bench.reserve(scope, QUOTA, 4, 4, "b")
    await bench.settle(scope, "a", 0, 10)
    assert (await bench.reserve(scope, QUOTA, 10)).given == 6


async def test_a_quota_without_renewal_never_resets(bench: Bench, scope: str) -> None:
    """And it is kept for longer than any grant lives."""
    limits = Limits(quota_max=3)
    assert (await bench.reserve(scope, limits, waiting=5)).given == 3
    bench.later(LONGEST_KEPT / 2)
    count = await bench.reserve(scope, limits)
    assert (count.given, count.renews_at) == (0, None)
    assert (await bench.raw(scope))["purge_at"] > bench.now + timedelta(seconds=LONGEST_KEPT)


async def test_a_quota_that_a_dead_gateway_held_stays_used(bench: Bench, scope: str) -> None:
    """It may have been used; in the next window it is available again."""
    await bench.reserve(scope, QUOTA, 6, 6)
    bench.later(HOLD + GRACE + 1)
    assert (await bench.reserve(scope, QUOTA, 10)).given == 4
    bench.later(100)
    assert (await bench.reserve(scope, QUOTA, 10)).given == 10


async def test_rate_and_quota_are_both_kept(bench: Bench, scope: str) -> None:
    """A call counts against both."""
    limits = Limits(rate=5, per=1, quota_max=8, quota_renewal_rate=1000)
    assert (await bench.reserve(scope, limits, waiting=10)).given == 5
    bench.later(HOLD + 2)
    count = await bench.reserve(scope, limits, waiting=10)
    assert (count.given, count.rate_left, count.quota_left) == (3, 2, 0)


async def test_changed_limits_hold_from_the_next_reservation_on(bench: Bench, scope: str) -> None:
    """What was used under the old limits stays used."""
    await bench.reserve(scope, QUOTA, 6, 6)
    assert (await bench.reserve(scope, Limits(quota_max=5, quota_renewal_rate=100), 1)).given == 0
    assert (await bench.reserve(scope, Limits(quota_max=20, quota_renewal_rate=100), 20)).given == 14


async def test_holders_are_asked_to_return_reservations(bench: Bench, scope: str) -> None:
    """With the time, and only for a while; nobody is asked if no other gateway holds a lease."""
    began = bench.moment
    await bench.reserve(scope, QUOTA, 10, 10, "a")
    assert scope not in await bench.counters.wanted(began - 1)
    bench.later(1)
    assert (await bench.reserve(scope, QUOTA)).given == 0
    assert (await bench.counters.wanted(began))[scope] == began + 1000
    assert scope not in await bench.counters.wanted(began + 1000)
    bench.later(HOLD)
    await bench.reserve(scope, QUOTA)
    assert scope not in await bench.counters.wanted(0)


async def test_a_counter_is_purged_after_its_window(bench: Bench, scope: str) -> None:
    """Not before its window is over and every lease has expired; not every reservation moves `purge_at`."""
    await bench.reserve(scope, QUOTA)
    purge = (await bench.raw(scope))["purge_at"]
    assert purge >= bench.now + timedelta(seconds=100 + HOLD + GRACE)
    bench.later(1)
    await bench.reserve(scope, QUOTA)
    assert (await bench.raw(scope))["purge_at"] == purge
    bench.later(100)
    await bench.reserve(scope, QUOTA)
    assert (await bench.raw(scope))["purge_at"] > purge


async def test_a_counter_drops_expired_entries(bench: Bench, scope: str) -> None:
    """It contains neither old uses nor old leases."""
    limits = Limits(rate=1000, per=1)
    for number in range(100):
        await bench.reserve(scope, limits, 1, 1, f"s{number}")
        await bench.settle(scope, f"s{number}", 1, 0, **{f"at{bench.moment}": 1})
        bench.later(0.1)
    await bench.reserve(scope, limits)
    document = await bench.raw(scope)
    assert (len(document["used"]), len(document["held"])) == (9, 1)


async def test_one_counter_made_by_many_at_once(mongo: Mongo, scope: str) -> None:
    """Every reservation gets an answer, and no more than the limit is granted."""
    gateways = [Counters(mongo) for _ in range(8)]
    reservations = [Reservation(secrets.token_hex(8), TEN, 1, 1) for _ in range(24)]
    counts = await asyncio.gather(
        *(gateways[n % 8].exchange(Exchange(scope, (), asked)) for n, asked in enumerate(reservations))
    )
    assert sum(count.given for count in counts if count) == 10


async def test_many_scopes_share_a_round_trip_and_keep_their_own_count(bench: Bench) -> None:
    """Batched scopes are counted separately."""
    scopes = [secrets.token_hex(8) for _ in range(700)]
    counts = await asyncio.gather(*(bench.reserve(scope, TEN, n % 15) for n, scope in enumerate(scopes)))
    assert [count.given for count in counts] == [min(10, max(n % 15, n % 15 == 0)) for n in range(700)]


@pytest.mark.parametrize("what", ["question", "answer"])
async def test_a_repeated_reservation_takes_one_lease(mongodb_url: str, scope: str, what: str) -> None:
    """If a response is lost, the reservation is repeated with the same id, and counted once."""
    with Lossy(mongodb_url).running() as way:
        mongo = Mongo(way.url, f"tokenwire_test_{secrets.token_hex(6)}")
        counters = Counters(mongo)
        await mongo.open()
        await mongo.prepared()
        try:
            way.lose("update", what)
            count = await counters.exchange(Exchange(scope, (), Reservation("a", QUOTA, 4, 4)))
            assert way.lost.is_set()
            assert count is not None
            assert (count.given, count.quota_left) == (4, 6)
        finally:
            await mongo.close()


async def test_statuses_of_many_come_with_one_find(bench: Bench) -> None:
    """A scope that was never counted, and one whose window is over, have their whole quota."""
    scopes = [secrets.token_hex(8) for _ in range(3)]
    never, unlimited = secrets.token_hex(8), Limits(rate=5, per=1)
    for used, scope in enumerate(scopes, 1):
        await bench.reserve(scope, QUOTA, used)
    renews = round(bench.now.timestamp()) + 100
    asked = [*((scope, QUOTA) for scope in [*scopes, never]), ("free", unlimited)]
    statuses = {scope: at for (scope, _), at in zip(asked, await bench.counters.limit_statuses(asked), strict=True)}
    figures = {key: (found.quota_max, found.quota_remaining, found.quota_renews) for key, found in statuses.items()}
    assert figures == {
        scopes[0]: (10, 9, renews),
        scopes[1]: (10, 8, renews),
        scopes[2]: (10, 7, renews),
        never: (10, 10, 0),
        "free": (-1, -1, 0),
    }
    assert (statuses["free"].rate, statuses["free"].per) == (5, 1)
    bench.later(100)
    assert [at.quota_remaining for at in await bench.counters.limit_statuses([(scopes[0], QUOTA)])] == [10]


async def test_a5_one_counter_can_be_held_against_several_limits(bench: Bench) -> None:
    """Grants of one user share a counter with different limits, if key_rules narrow one."""
    scope = secrets.token_hex(8)
    await bench.reserve(scope, QUOTA, 3)
    narrow = QUOTA.model_copy(update={"quota_max": 5})
    statuses = await bench.counters.limit_statuses([(scope, QUOTA), (scope, narrow)])
    assert [at.quota_remaining for at in statuses] == [7, 2]


async def test_limits_beyond_all_measure_are_counted_too(bench: Bench, scope: str) -> None:
    """A policy may contain any numbers."""
    limits = Limits(rate=10**30, per=10**15, quota_max=10**30, quota_renewal_rate=10**20)
    assert (await bench.reserve(scope, limits, 3, 10**20)).given > 3
    assert (await bench.reserve(scope, limits, 3)).given > 0


async def test_the_servers_own_clock_counts(mongo: Mongo, scope: str) -> None:
    """Without a test's clock, MongoDB's time is used."""
    counters = Counters(mongo)
    count = await counters.exchange(Exchange(scope, (), Reservation("a", TEN, 1, 1)))
    assert count is not None
    assert abs(count.began / 1000 - datetime.now(UTC).timestamp()) < 30
    await counters.probe()


async def test_c1_calls_that_count_against_the_quota_alone(bench: Bench, scope: str) -> None:
    """They share the quota with those that count against the rate, and leave the rate and its leases as they are."""
    both, quota = Limits(rate=4, per=3600, quota_max=10), Limits(quota_max=10)
    await bench.reserve(scope, both, waiting=3, lease_id="a")  # never settled: counts against the rate for an hour
    assert (await bench.reserve(scope, quota, waiting=4)).quota_left == 3
    count = await bench.reserve(scope, both, waiting=2)
    assert (count.given, count.rate_left, count.quota_left) == (1, 0, 2)
    bench.later(HOLD + GRACE + 1800)
    assert (await bench.reserve(scope, quota, waiting=1)).given == 1
    count = await bench.reserve(scope, both, waiting=1)
    assert (count.given, count.rate_left, count.quota_left) == (0, 0, 1)
    bench.later(1800)
    assert (await bench.reserve(scope, both, waiting=2)).given == 1
