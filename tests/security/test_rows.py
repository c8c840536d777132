"""rows.md lists 117 black-box rows. Each has a test in this folder, and every row number cited in a test exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
TESTS = HERE.parent
NOT_APPLICABLE = {40}
"""Rows about features that Tokenwire does not offer; rows.md says why."""
_NUMBERED = re.compile(r"test_(\d{3})_\w+")


class Row(NamedTuple):
    """A line of the tables in rows.md."""

    number: int
    input: str
    expected: str
    tests: frozenset[str]
    """As `file.py::test_name`."""


def rows() -> Iterator[Row]:
    """The rows of rows.md in the order of the file."""
    for line in (HERE / "rows.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| (\d+) \|", line):
            _, input_, expected, tests = (cell.strip() for cell in line.strip("|").split(" | "))
            yield Row(int(match[1]), input_, expected, frozenset(re.findall(r"`([\w.]+::\w+)`", tests)))


def existing_tests() -> set[str]:
    """Every test function of this folder, as `file.py::test_name`."""
    return {
        f"{file.name}::{node.name}"
        for file in HERE.glob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def numbered(test: str) -> int | None:
    """The number in the name of a test, if it has one."""
    match = _NUMBERED.fullmatch(test.partition("::")[2])
    return int(match[1]) if match else None


def cited_numbers() -> Iterator[tuple[str, int]]:
    """The rows that docstrings of the whole test tree cite (`row 7`, `rows 30, 33 and 41`), with the file."""
    for file in TESTS.rglob("*.py"):
        if file.name in {"test_documented_requests.py", Path(__file__).name}:
            continue  # the rows of documented-requests.md have numbers of their own
        for phrase in re.findall(r"\b[Rr]ows? (\d+(?:(?:, | and |, and | to )\d+)*)", file.read_text(encoding="utf-8")):
            for number in re.findall(r"\d+", phrase):
                yield f"{file.relative_to(TESTS)}", int(number)


def test_the_numbers_run_from_1_to_117() -> None:
    """Every number once, in order, with an input and an expected answer."""
    assert [row.number for row in rows()] == list(range(1, 118))
    assert all(row.input and row.expected for row in rows())


def test_every_row_has_a_test_that_exists() -> None:
    """Fails if the test of a row was renamed or deleted."""
    assert {row.number for row in rows() if not row.tests} == NOT_APPLICABLE
    assert {test for row in rows() for test in row.tests} - existing_tests() == set()


def test_every_numbered_test_is_listed_in_its_row() -> None:
    """`test_052_…` is in row 52 and in no other."""
    listed = {(test, row.number) for row in rows() for test in row.tests if numbered(test)}
    assert listed == {(test, numbered(test)) for test in existing_tests() if numbered(test)}


def test_every_cited_number_is_a_row() -> None:
    """A docstring that cites a row above 117 fails."""
    numbers = {row.number for row in rows()}
    assert [(file, number) for file, number in cited_numbers() if number not in numbers] == []
