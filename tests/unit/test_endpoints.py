"""The circuit breaker and the endpoint limiter: how much may be in progress for which endpoint."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.notifier.endpoints import (
    FAILURE_THRESHOLD,
    FAST_RESPONSE_MS,
    MAX_OPEN_TIME,
    MIN_OPEN_TIME,
    CircuitBreaker,
    EndpointLimiter,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MAX_CONCURRENCY = 16


def opened() -> CircuitBreaker:
    """An endpoint whose circuit has just opened."""
    breaker = CircuitBreaker(MAX_CONCURRENCY)
    for _ in range(FAILURE_THRESHOLD):
        breaker.record_failure(NOW)
    return breaker


def test_a_few_failures_do_not_open_it() -> None:
    """Below the threshold the endpoint keeps its share; a success resets the count."""
    breaker = CircuitBreaker(MAX_CONCURRENCY)
    for _ in range(3):
        for _ in range(FAILURE_THRESHOLD - 1):
            breaker.record_failure(NOW)
        assert breaker.limit(NOW) == MAX_CONCURRENCY
        breaker.record_success()
    assert breaker.is_pristine


def test_an_endpoint_that_is_down_gets_one_probe_after_a_pause() -> None:
    """After the delay a dead endpoint gets one probe at a time."""
    breaker = opened()
    assert breaker.limit(NOW + MIN_OPEN_TIME - timedelta(milliseconds=1)) == 0
    assert breaker.limit(NOW + MIN_OPEN_TIME) == 1


def test_concurrent_failures_count_once() -> None:
    """Hundreds of attempts that time out together count as one failure."""
    breaker = opened()
    for _ in range(300):
        breaker.record_failure(NOW)
    assert breaker.limit(NOW + MIN_OPEN_TIME) == 1


def test_failed_probes_double_the_pause_up_to_a_bound() -> None:
    """Failed probes double the delay, up to half a minute."""
    breaker, now, pauses = opened(), NOW, []
    for _ in range(8):
        before = now
        while breaker.limit(now) == 0:
            now += timedelta(seconds=1)
        pauses.append((now - before).total_seconds())
        breaker.record_failure(now)
    assert pauses == [2, 4, 8, 16, 30, 30, 30, 30]
    assert timedelta(seconds=30) == MAX_OPEN_TIME


def test_after_a_good_probe_the_share_grows_again() -> None:
    """After a successful probe the share grows step by step, so that the endpoint is not overloaded."""
    breaker, later = opened(), NOW + MIN_OPEN_TIME
    limits = []
    for _ in range(6):
        breaker.record_success()
        limits.append(breaker.limit(later))
    assert limits == [1, 2, 4, 8, MAX_CONCURRENCY, MAX_CONCURRENCY]
    assert breaker.is_pristine


def test_a_relapse_opens_it_at_once() -> None:
    """While the share is growing, one failure opens the circuit again."""
    breaker, later = opened(), NOW + MIN_OPEN_TIME
    breaker.record_success()
    breaker.record_success()
    breaker.record_failure(later)
    assert breaker.limit(later) == 0


def test_retry_after_pauses_an_endpoint() -> None:
    """`Retry-After` applies to all deliveries of the endpoint, for half a minute at most."""
    breaker = CircuitBreaker(MAX_CONCURRENCY)
    breaker.record_retry_after(NOW, timedelta(seconds=7))
    assert breaker.limit(NOW + timedelta(seconds=6)) == 0
    assert breaker.limit(NOW + timedelta(seconds=7)) == 1
    breaker.record_retry_after(NOW, timedelta(days=400))
    assert breaker.limit(NOW + MAX_OPEN_TIME) == 1


@pytest.mark.parametrize(("hanging", "slots"), [(1, 192), (4, 81), (12, 8), (1000, 1)])
def test_however_many_endpoints_hang_the_next_one_finds_slots(hanging: int, slots: int) -> None:
    """No endpoint takes more than a fraction of the free slots, so there is always one left."""
    limiter = EndpointLimiter(total=1024, per_endpoint=256, now=lambda: NOW)
    for number in range(hanging):
        endpoint = limiter.endpoint(f"http://hanging-{number}.example/")
        assert limiter.acquire(endpoint, 1024) >= 1
    assert limiter.free_slots(limiter.endpoint("http://well.example/")) == slots


def test_a_single_endpoint_gets_its_whole_share() -> None:
    """A single endpoint gets its whole share."""
    limiter = EndpointLimiter(total=1024, per_endpoint=256, now=lambda: NOW)
    assert limiter.acquire(limiter.endpoint("http://well.example/"), 1024) == 256


def test_a_free_slot_wakes_an_endpoint_with_waiting_deliveries() -> None:
    """If deliveries wait in MongoDB for an endpoint, a freed place triggers a look-up, and only then."""
    limiter = EndpointLimiter(total=8, per_endpoint=2, now=lambda: NOW)
    told: list[str] = []
    limiter.on_slot_free = lambda endpoint: told.append(endpoint.url)
    endpoint, other = limiter.endpoint("http://a.example/"), limiter.endpoint("http://b.example/")
    for each in (endpoint, other):
        limiter.acquire(each, 1)
    endpoint.waiting_apis.add("api")
    limiter.release(other)
    assert told == []
    limiter.release(endpoint)
    assert told == [endpoint.url]


def test_an_attempt_that_ended_makes_room_before_its_result_is_recorded() -> None:
    """Recording takes no slot of the endpoint, only one of the total, which so bounds results in memory."""
    limiter = EndpointLimiter(total=32, per_endpoint=2, now=lambda: NOW)
    endpoint = limiter.endpoint("http://a.example/")
    recording = 0
    while limiter.acquire(endpoint):
        limiter.attempt_ended(endpoint)
        recording += 1
        assert recording <= 32
    assert recording > endpoint.breaker.max_concurrency
    for _ in range(recording):
        limiter.recorded(endpoint)
    assert limiter.in_flight == 0
    assert limiter.endpoint(endpoint.url) is not endpoint


def test_an_endpoint_is_as_fast_as_its_latest_response() -> None:
    """An endpoint's speed is that of its latest response; until then it counts as fast."""
    limiter = EndpointLimiter(total=8, per_endpoint=2, now=lambda: NOW)
    endpoint = limiter.endpoint("http://a.example/")
    assert endpoint.is_fast
    for latency_ms, fast in ((FAST_RESPONSE_MS, False), (FAST_RESPONSE_MS - 1, True)):
        limiter.record(endpoint, latency_ms, failed=False)
        assert endpoint.is_fast is fast


class Slots(RuleBasedStateMachine):
    """The endpoint limiter under any sequence of acquire, release, failure, success and time."""

    urls = st.sampled_from([f"http://{name}.example/" for name in "abcde"])

    @initialize(total=st.integers(2, 64), share=st.integers(1, 32))
    def begin(self, total: int, share: int) -> None:
        self.now = NOW
        self.total, self.share = total, share
        self.limiter = EndpointLimiter(total, share, lambda: self.now)
        self.held: dict[str, int] = {}

    @rule(url=urls, wanted=st.integers(1, 40))
    def acquire(self, url: str, wanted: int) -> None:
        endpoint = self.limiter.endpoint(url)
        taken = self.limiter.acquire(endpoint, wanted)
        assert 0 <= taken <= wanted
        self.held[url] = self.held.get(url, 0) + taken

    @rule(url=urls)
    def release(self, url: str) -> None:
        with contextlib.suppress(KeyError):
            self.limiter.release(self.limiter.endpoint(url), self.held.pop(url))

    @rule(url=urls)
    def end_and_record(self, url: str) -> None:
        if self.held.get(url):
            endpoint = self.limiter.endpoint(url)
            self.limiter.attempt_ended(endpoint)
            self.limiter.recorded(endpoint)
            self.held[url] -= 1

    @rule(url=urls, failed=st.booleans(), retry_after=st.none() | st.timedeltas(timedelta(), timedelta(days=9)))
    def record(self, url: str, failed: bool, retry_after: timedelta | None) -> None:
        self.limiter.record(self.limiter.endpoint(url), 7, failed=failed, retry_after=retry_after)

    @rule(seconds=st.floats(0, 100))
    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: not any(self.held.values()))
    @rule(url=urls)
    def an_idle_endpoint_is_asked_again_soon(self, url: str) -> None:
        self.now += MAX_OPEN_TIME
        assert self.limiter.free_slots(self.limiter.endpoint(url)) >= 1

    @invariant()
    def counts_agree(self) -> None:
        held = getattr(self, "held", {})
        if held:
            assert self.limiter.in_flight == sum(held.values())
            assert self.limiter.in_flight < self.total + len(held)
            assert max(held.values()) <= self.share


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=40)


@given(outcomes=st.lists(st.booleans(), max_size=60))
def test_no_history_closes_an_endpoint_for_good(outcomes: list[bool]) -> None:
    """After any history, an attempt is made once the longest delay is over."""
    breaker = CircuitBreaker(MAX_CONCURRENCY)
    for good in outcomes:
        breaker.record_success() if good else breaker.record_failure(NOW)
        assert breaker.limit(NOW + MAX_OPEN_TIME) >= 1
