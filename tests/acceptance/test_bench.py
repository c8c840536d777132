"""Very short runs of `make bench`: the benchmarks work; their figures mean nothing here."""

import re

import pytest

from bench.options import BY_NAME, MEASUREMENTS
from tests.acceptance.programs import run_python


@pytest.mark.timeout(1500)
async def test_every_measurement_checks_its_responses_and_reports() -> None:
    """Every response is correct, and each figure is reported next to the bare handler's."""
    told = await run_python("bench", "--rounds", "1", "--seconds", "0.3", within=1400)
    assert told.complaints == ""
    usual = set(MEASUREMENTS) - set(BY_NAME)
    *report, ending = told.out.splitlines()
    rows = [line.split() for line in report if re.search(r"( +[\d.]+){5}$", line)]
    assert all(float(cell) >= 0 for row in rows for cell in row[-5:])
    assert sum(row[0] == "bare" for row in rows) >= len(usual)
    assert len(rows) >= 2 * len(usual)
    targets = [line for line in report if "(target " in line]
    assert len(targets) >= len(usual)
    missed = sum(line.endswith(": MISSED") for line in targets)
    assert re.match(rf"{missed or 'no'} targets? missed, \d+ s$", ending)
    assert told.status == (1 if missed else 0)


@pytest.mark.timeout(1500)
async def test_b8_growth_seeds_asks_and_reports() -> None:
    """Every read succeeds, has a target, and returns the seeded records."""
    told = await run_python("bench", "growth", "--size", "1000", within=1400)
    assert told.complaints == ""
    *report, ending = told.out.splitlines()
    targets = [line for line in report if "(target " in line]
    assert len(targets) > 30
    missed = sum(line.endswith(": MISSED") for line in targets)
    assert re.match(rf"{missed or 'no'} targets? missed, \d+ s$", ending)
    assert told.status == (1 if missed else 0)
    entries = {line.strip().rsplit(None, 3)[0]: line.split()[-1] for line in report if line.count(".") >= 2}
    expected = {"clients, page 1": "100", "tokens, page 1": "100", "deliveries, exhausted": "10"}
    assert expected.items() <= entries.items()


async def test_a_measurement_that_is_unknown_is_refused_with_those_that_are() -> None:
    """The refusal of an unknown name lists the known ones."""
    told = await run_python("bench", "everything")
    assert told.status == 2
    assert all(name in told.complaints for name in MEASUREMENTS)
