"""`make bench`, for moments only: that it measures, not what."""

import re

import pytest

from bench.__main__ import MEASUREMENTS
from tests.acceptance.programs import run_python


@pytest.mark.timeout(300)
async def test_every_measurement_checks_its_answers_and_reports() -> None:
    """Every answer was right, or it would have ended otherwise; each figure stands beside the bare handler's."""
    told = await run_python("bench", "--rounds", "1", "--seconds", "0.3", within=280)
    assert told.complaints == ""
    *report, ending = told.out.splitlines()
    rows = [line.split() for line in report if re.search(r"( +[\d.]+){5}$", line)]
    assert all(float(cell) >= 0 for row in rows for cell in row[-5:])
    assert sum(row[0] == "bare" for row in rows) >= len(MEASUREMENTS)
    assert len(rows) >= 2 * len(MEASUREMENTS)
    targets = [line for line in report if "(target " in line]
    assert len(targets) >= len(MEASUREMENTS)
    missed = sum(line.endswith(": MISSED") for line in targets)
    assert re.match(rf"{missed or 'no'} targets? missed, \d+ s$", ending)
    assert told.status == (1 if missed else 0)


async def test_a_measurement_that_is_unknown_is_refused_with_those_that_are() -> None:
    """So that `make bench B=…` need not be looked up."""
    told = await run_python("bench", "everything")
    assert told.status == 2
    assert all(name in told.complaints for name in MEASUREMENTS)
