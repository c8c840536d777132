"""`make bench`, for moments only: that it measures, not what."""

import re

import pytest

from bench.__main__ import MEASUREMENTS
from tests.acceptance.programs import run_python


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", MEASUREMENTS)
async def test_a_measurement_checks_its_answers_and_reports(name: str) -> None:
    """Every answer was right, or it would have ended otherwise; each figure stands beside the bare handler's."""
    told = await run_python("bench", name, "--rounds", "1", "--seconds", "0.3", within=200)
    assert told.complaints == ""
    *report, ending = told.out.splitlines()
    rows = [line.split() for line in report if re.search(r"( +[\d.]+){5}$", line)]
    assert rows[0][0] == "bare"
    assert all(float(cell) > 0 for cell in rows[0][-5:])
    assert len(rows) > 1
    assert any("(target " in line for line in report)
    missed = sum(line.endswith(": MISSED") for line in report)
    assert re.match(rf"{missed or 'no'} targets? missed, \d+ s$", ending)
    assert told.status == (1 if missed else 0)
