"""The retry ladder: when a failed delivery is tried again, and when no more."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notifier.schedule import LADDER, RUNGS, Ladder, retry_after

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHANCES = st.floats(0, 1, exclude_max=True)


def test_the_ladder_is_the_documented_one() -> None:
    """5 s, 30 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h, and then no more."""
    pauses = [LADDER.pause(rung, 0.5) for rung in range(9)]
    assert [pause.total_seconds() if pause else None for pause in pauses] == [
        5, 30, 300, 1800, 7200, 18000, 36000, 36000, None,
    ]  # fmt: skip


@given(rung=st.integers(0, 7), chance=CHANCES)
def test_jitter_stays_within_a_fifth(rung: int, chance: float) -> None:
    """Deliveries that failed together do not come back together, and none comes back much earlier or later."""
    pause = LADDER.pause(rung, chance)
    assert pause is not None
    assert RUNGS[rung] * 0.8 <= pause <= RUNGS[rung] * 1.2


@given(rung=st.integers(0, 7), chance=CHANCES, asked=st.timedeltas(timedelta(), timedelta(days=4000)))
def test_retry_after_lengthens_a_pause_within_bounds(rung: int, chance: float, asked: timedelta) -> None:
    """What the endpoint asks for is granted up to the longest rung, and never brings an attempt forward."""
    planned, pause = LADDER.pause(rung, chance), LADDER.pause(rung, chance, asked)
    assert planned is not None
    assert pause is not None
    assert abs(pause - max(planned, min(asked, timedelta(hours=10)))) <= timedelta(milliseconds=1)


def test_retry_after_does_not_lengthen_the_ladder() -> None:
    """After the last rung there is no pause, whatever is asked for."""
    assert LADDER.pause(8, 0.5, timedelta(seconds=1)) is None


@given(chances=st.lists(CHANCES, min_size=8, max_size=8), asked=st.lists(st.none() | st.timedeltas(), min_size=8))
def test_patience_outlasts_every_ladder(chances: list[float], asked: list[timedelta | None]) -> None:
    """Nothing that gets its attempts is given up before the last of them."""
    pauses = [LADDER.pause(rung, chance, asked[rung]) for rung, chance in enumerate(chances)]
    assert sum((pause for pause in pauses if pause), timedelta()) < LADDER.patience


def test_a_ladder_without_rungs_gives_up_at_once() -> None:
    """One attempt and no more is a ladder, too."""
    assert Ladder(()).pause(0, 0.5) is None
    assert Ladder(()).patience > timedelta()


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
    """RFC 9110 §10.2.3; whatever else an endpoint writes there counts as nothing."""
    assert retry_after(value, NOW) == wait


@given(value=st.text())
def test_retry_after_never_fails(value: str) -> None:
    """The header is somebody else's text."""
    wait = retry_after(value, NOW)
    assert wait is None or wait > timedelta()
