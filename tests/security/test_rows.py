"""The list of black-box tests has 117 rows: each is a test of this folder, named by its number and what it says, or is
named here.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROWS = set(range(1, 118))
ELSEWHERE = {
    25: ("test_throttling.py", "test_a_hundred_wrong_secrets_are_throttled_at_the_documented_limit"),
    88: ("test_throttling.py", "test_wrong_passwords_are_throttled_as_documented"),
    100: ("test_no_secret_in_clear.py", "test_nothing_that_was_written_down_opens_anything"),
    112: ("test_throttling.py", "test_no_more_passwords_than_the_limit_reach_the_hasher"),
}
"""Rows whose test has another name, as it belongs to a file of its own."""
NOT_HERE = {
    40: "`prompt` is a parameter of OpenID Connect, which is not offered: it is ignored as unknown (RFC 6749 §3.1) and "
    "reaches the login page with the rest of the query; whether a page is shown is the identity server's to decide",
}
"""Rows that do not apply, and why."""
_NAME = re.compile(r"test_(\d{3})_[a-z0-9_]+")


def named_in(file: Path) -> Iterator[str]:
    """The names of the tests in a file."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name


def numbered() -> set[int]:
    """The rows whose number is in the name of a test."""
    names = [name for file in HERE.glob("test_*.py") for name in named_in(file)]
    return {int(match[1]) for name in names if (match := _NAME.fullmatch(name))}


def test_no_row_is_left_out() -> None:
    """Every number is at exactly one place: nothing is skipped without a word."""
    assert numbered() | set(ELSEWHERE) | set(NOT_HERE) == ROWS
    assert not numbered() & set(ELSEWHERE)
    assert not (numbered() | set(ELSEWHERE)) & set(NOT_HERE)


def test_what_is_elsewhere_is_there() -> None:
    """The tests that stand for a row without its number exist."""
    for file, name in ELSEWHERE.values():
        assert name in set(named_in(HERE / file)), name
