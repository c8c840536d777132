"""Every row of the attack, reliability and interoperability reviews has a test named after it (`test_a1_…`)."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROWS = re.findall(r"^\| ([a-d]\d+) \|", (Path(__file__).parent / "rows.md").read_text(encoding="utf-8"), re.MULTILINE)
_NAME = re.compile(r"test_([a-d]\d+)_[a-z0-9_]+")


def test_the_rows_have_tests_and_the_tests_have_rows() -> None:
    """A test that is renamed or deleted is missed here, and so is a name with an unknown row."""
    names = {
        node.name
        for file in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert ROWS
    assert {match[1] for name in names if (match := _NAME.fullmatch(name))} == set(ROWS)
