"""The circuit breaker and the lanes: how much may be under way to whom."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.notifier.breaker import FIRST_PAUSE, LONGEST_PAUSE, THRESHOLD, Breaker
from services.notifier.lanes import QUICK_MS, Lanes

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOST = 16


def opened() -> Breaker:
    """An endpoint that has just been found to be down."""
    breaker = Breaker(MOST)
    for _ in range(THRESHOLD):
        breaker.failed(NOW)
    return breaker


def test_a_few_failures_do_not_open_it() -> None:
    """Up to the threshold the endpoint keeps its share; a success starts the count anew."""
    breaker = Breaker(MOST)
    for _ in range(3):
        for _ in range(THRESHOLD - 1):
            breaker.failed(NOW)
        assert breaker.limit(NOW) == MOST
        breaker.succeeded()
    assert breaker.healthy


def test_an_endpoint_that_is_down_gets_one_probe_after_a_pause() -> None:
    """Nothing at all until the pause is over, then one attempt at a time."""
    breaker = opened()
    assert breaker.limit(NOW + FIRST_PAUSE - timedelta(milliseconds=1)) == 0
    assert breaker.limit(NOW + FIRST_PAUSE) == 1


def test_what_was_under_way_when_it_opened_does_not_lengthen_the_pause() -> None:
    """Hundreds of attempts that time out together are one finding."""
    breaker = opened()
    for _ in range(300):
        breaker.failed(NOW)
    assert breaker.limit(NOW + FIRST_PAUSE) == 1


def test_failed_probes_double_the_pause_up_to_a_bound() -> None:
    """An endpoint that stays down is asked less and less, and never less than every half minute."""
    breaker, now, pauses = opened(), NOW, []
    for _ in range(8):
        before = now
        while breaker.limit(now) == 0:
            now += timedelta(seconds=1)
        pauses.append((now - before).total_seconds())
        breaker.failed(now)
    assert pauses == [2, 4, 8, 16, 30, 30, 30, 30]
    assert timedelta(seconds=30) == LONGEST_PAUSE


def test_after_a_good_probe_the_share_grows_again() -> None:
    """An endpoint that has just come back is not run over."""
    breaker, later = opened(), NOW + FIRST_PAUSE
    limits = []
    for _ in range(6):
        breaker.succeeded()
        limits.append(breaker.limit(later))
    assert limits == [1, 2, 4, 8, MOST, MOST]
    assert breaker.healthy


def test_a_relapse_opens_it_at_once() -> None:
    """While the share is growing one failure is enough."""
    breaker, later = opened(), NOW + FIRST_PAUSE
    breaker.succeeded()
    breaker.succeeded()
    breaker.failed(later)
    assert breaker.limit(later) == 0


def test_an_endpoint_that_asks_for_quiet_gets_it_for_a_while() -> None:
    """`Retry-After` holds for all deliveries of the endpoint, half a minute at most."""
    breaker = Breaker(MOST)
    breaker.throttled(NOW, timedelta(seconds=7))
    assert breaker.limit(NOW + timedelta(seconds=6)) == 0
    assert breaker.limit(NOW + timedelta(seconds=7)) == 1
    breaker.throttled(NOW, timedelta(days=400))
    assert breaker.limit(NOW + LONGEST_PAUSE) == 1


@pytest.mark.parametrize(("hanging", "places"), [(1, 192), (4, 81), (12, 8), (1000, 1)])
def test_however_many_endpoints_hang_the_next_one_finds_places(hanging: int, places: int) -> None:
    """Nobody takes more than a part of what is free, so something always is."""
    lanes = Lanes(total=1024, per_endpoint=256, now=lambda: NOW)
    for number in range(hanging):
        lane = lanes.of(f"http://hanging-{number}.example/")
        assert lanes.take(lane, 1024) >= 1
    assert lanes.room(lanes.of("http://well.example/")) == places


def test_one_endpoint_alone_gets_its_whole_share() -> None:
    """The bound for the good of others does not slow down the only one."""
    lanes = Lanes(total=1024, per_endpoint=256, now=lambda: NOW)
    assert lanes.take(lanes.of("http://well.example/"), 1024) == 256


def test_a_lane_with_something_waiting_is_told_of_room() -> None:
    """What waits in MongoDB is looked for as soon as there is a place, and only then."""
    lanes = Lanes(total=8, per_endpoint=2, now=lambda: NOW)
    told: list[str] = []
    lanes.room_again = lambda lane: told.append(lane.url)
    lane, other = lanes.of("http://a.example/"), lanes.of("http://b.example/")
    for each in (lane, other):
        lanes.take(each, 1)
    lane.waiting.add("api")
    lanes.give_back(other)
    assert told == []
    lanes.give_back(lane)
    assert told == [lane.url]


def test_an_endpoint_is_as_quick_as_its_latest_answer() -> None:
    """And taken for quick until it has answered."""
    lanes = Lanes(total=8, per_endpoint=2, now=lambda: NOW)
    lane = lanes.of("http://a.example/")
    assert lane.quick
    for latency_ms, quick in ((QUICK_MS, False), (QUICK_MS - 1, True)):
        lanes.note(lane, latency_ms, troubled=False)
        assert lane.quick is quick


class Places(RuleBasedStateMachine):
    """Lanes under any sequence of taking, giving back, failing, succeeding and time passing."""

    urls = st.sampled_from([f"http://{name}.example/" for name in "abcde"])

    @initialize(total=st.integers(2, 64), share=st.integers(1, 32))
    def begin(self, total: int, share: int) -> None:
        self.now = NOW
        self.total, self.share = total, share
        self.lanes = Lanes(total, share, lambda: self.now)
        self.held: dict[str, int] = {}

    @rule(url=urls, wanted=st.integers(1, 40))
    def take(self, url: str, wanted: int) -> None:
        lane = self.lanes.of(url)
        taken = self.lanes.take(lane, wanted)
        assert 0 <= taken <= wanted
        self.held[url] = self.held.get(url, 0) + taken

    @rule(url=urls)
    def give_back(self, url: str) -> None:
        with contextlib.suppress(KeyError):
            self.lanes.give_back(self.lanes.of(url), self.held.pop(url))

    @rule(url=urls, troubled=st.booleans(), wait=st.none() | st.timedeltas(timedelta(), timedelta(days=9)))
    def note(self, url: str, troubled: bool, wait: timedelta | None) -> None:
        self.lanes.note(self.lanes.of(url), 7, troubled=troubled, wait=wait)

    @rule(seconds=st.floats(0, 100))
    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: not any(self.held.values()))
    @rule(url=urls)
    def an_idle_endpoint_is_asked_again_soon(self, url: str) -> None:
        self.now += LONGEST_PAUSE
        assert self.lanes.room(self.lanes.of(url)) >= 1

    @invariant()
    def counts_agree(self) -> None:
        held = getattr(self, "held", {})
        if held:
            assert self.lanes.under_way == sum(held.values())
            assert self.lanes.under_way < self.total + len(held)
            assert max(held.values()) <= self.share


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(outcomes=st.lists(st.booleans(), max_size=60))
def test_no_history_closes_an_endpoint_for_good(outcomes: list[bool]) -> None:
    """Whatever happened, after the longest pause there is an attempt."""
    breaker = Breaker(MOST)
    for good in outcomes:
        breaker.succeeded() if good else breaker.failed(NOW)
        assert breaker.limit(NOW + LONGEST_PAUSE) >= 1
