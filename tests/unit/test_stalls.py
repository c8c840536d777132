"""A failure is blamed on the machine only if the machine stood still meanwhile."""

import time

import pytest

from tests.stalls import STALL, undisturbed


async def test_a_failure_on_a_machine_that_goes_on_is_a_failure() -> None:
    """It is raised at once, and the scenario is not repeated."""
    runs = []

    async def scenario() -> None:
        runs.append(1)
        raise AssertionError("wrong")

    with pytest.raises(AssertionError, match="wrong"):
        await undisturbed(scenario)
    assert len(runs) == 1


async def test_a_scenario_that_fails_while_the_machine_stands_still_is_repeated() -> None:
    """The result is that of the run that succeeds."""
    runs = []

    async def scenario() -> int:
        runs.append(1)
        if len(runs) == 1:
            time.sleep(STALL + 0.3)
            raise AssertionError("too late")
        return len(runs)

    assert await undisturbed(scenario) == 2
