"""The retry schedule: when a failed delivery is attempted again, and when it is given up."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notifier.retry import DELAYS, RETRY_SCHEDULE, RetrySchedule, parse_retry_after

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHANCES = st.floats(0, 1, exclude_max=True)


def test_the_schedule_is_the_documented_one() -> None:
    """The documented delays: 5 s, 30 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h, then no more."""
    delays = [RETRY_SCHEDULE.delay(attempt, 0.5) for attempt in range(9)]
    assert [delay.total_seconds() if delay else None for delay in delays] == [
        5, 30, 300, 1800, 7200, 18000, 36000, 36000, None,
    ]  # fmt: skip


@given(attempt=st.integers(0, 7), chance=CHANCES)
def test_jitter_stays_within_a_fifth(attempt: int, chance: float) -> None:
    """Jitter spreads retries by a fifth at most."""
    delay = RETRY_SCHEDULE.delay(attempt, chance)
    assert delay is not None
    assert DELAYS[attempt] * 0.8 <= delay <= DELAYS[attempt] * 1.2


@given(attempt=st.integers(0, 7), chance=CHANCES, asked=st.timedeltas(timedelta(), timedelta(days=4000)))
def test_retry_after_lengthens_a_delay_within_bounds(attempt: int, chance: float, asked: timedelta) -> None:
    """Retry-After lengthens a delay up to the longest, and never shortens it."""
    planned, delay = RETRY_SCHEDULE.delay(attempt, chance), RETRY_SCHEDULE.delay(attempt, chance, asked)
    assert planned is not None
    assert delay is not None
    assert abs(delay - max(planned, min(asked, timedelta(hours=10)))) <= timedelta(milliseconds=1)


def test_retry_after_does_not_add_retries() -> None:
    """After the last attempt Retry-After has no effect."""
    assert RETRY_SCHEDULE.delay(8, 0.5, timedelta(seconds=1)) is None


@given(chances=st.lists(CHANCES, min_size=8, max_size=8), asked=st.lists(st.none() | st.timedeltas(), min_size=8))
def test_max_age_outlasts_every_schedule(chances: list[float], asked: list[timedelta | None]) -> None:
    """The maximum age is longer than the schedule with any jitter."""
    delays = [RETRY_SCHEDULE.delay(attempt, chance, asked[attempt]) for attempt, chance in enumerate(chances)]
    assert sum((delay for delay in delays if delay), timedelta()) < RETRY_SCHEDULE.max_age


def test_a_schedule_without_delays_allows_no_retry() -> None:
    """An empty schedule means a single attempt."""
    assert RetrySchedule(()).delay(0, 0.5) is None
    assert RetrySchedule(()).max_age > timedelta()


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        pytest.param("120", timedelta(minutes=2), id="seconds"),
        pytest.param(" 1.5 ", timedelta(seconds=1.5), id="fraction"),
        pytest.param("Sun, 01 Mar 2026 12:00:30 GMT", timedelta(seconds=30), id="date"),
        pytest.param("Sunday, 01-Mar-26 12:00:30 GMT", timedelta(seconds=30), id="date-of-rfc-850"),
        pytest.param("Sun, 01 Mar 2026 11:59:30 GMT", None, id="past"),
        pytest.param("0", None, id="zero"),
        pytest.param("-5", None, id="negative"),
        pytest.param("9" * 400, None, id="beyond-time"),
        pytest.param("soon", None, id="nonsense"),
        pytest.param("١٢", None, id="digits-of-another-script"),
        pytest.param("", None, id="empty"),
        pytest.param(None, None, id="absent"),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(value: str | None, wait: timedelta | None) -> None:
    """RFC 9110 §10.2.3: seconds or a date; anything else is ignored."""
    assert parse_retry_after(value, NOW) == wait


@given(value=st.text())
def test_retry_after_never_fails(value: str) -> None:
    """No header value raises."""
    wait = parse_retry_after(value, NOW)
    assert wait is None or wait > timedelta()
