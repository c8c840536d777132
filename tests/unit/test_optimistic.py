"""`retry_on_conflict`: a lost compare-and-set is retried a limited number of times."""

import pytest

from libs.store.optimistic import retry_on_conflict


class Exhausted(Exception):
    """Too many conflicts."""


@pytest.mark.parametrize("lost", [None, False])
async def test_an_attempt_that_met_a_conflict_is_repeated(lost: bool | None) -> None:
    """Attempts are repeated until one succeeds."""
    outcomes = iter([lost, lost, "won"])

    async def attempt() -> str | bool | None:
        return next(outcomes)

    assert await retry_on_conflict(attempt, exhausted=Exhausted) == "won"


async def test_a_falsy_outcome_is_not_a_conflict() -> None:
    """Only None and False mean a conflict; 0 and empty strings are results."""

    async def attempt() -> int | None:
        return 0

    assert await retry_on_conflict(attempt, exhausted=Exhausted) == 0


async def test_the_attempts_are_counted() -> None:
    """The caller chooses the number of attempts and the final error."""
    made = 0

    async def attempt() -> str | None:
        nonlocal made
        made += 1
        return None

    with pytest.raises(Exhausted):
        await retry_on_conflict(attempt, attempts=3, exhausted=Exhausted)
    assert made == 3
