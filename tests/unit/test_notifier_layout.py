"""The notifier stays small, and one search for a term of the field finds the module that it is in."""

import ast
from pathlib import Path

import pytest

from deploy.check_private_attributes import FENCES, check

ROOT = Path(__file__).parents[2]
NOTIFIER = ROOT / "services" / "notifier"
MODULES = sorted(path for path in NOTIFIER.rglob("*.py") if path.stem not in {"__init__", "__main__"})
MAX_MODULES = 10


def test_the_notifier_has_at_most_ten_modules() -> None:
    """A new module takes the place of another, or belongs to `libs`."""
    assert 0 < len(MODULES) <= MAX_MODULES, [path.name for path in MODULES]


def test_the_notifier_uses_no_private_name_of_a_library() -> None:
    """Neither does the connector that it shares with the gateway, and no exemption from the check allows it."""
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "libs/outbound").glob("*.py")}
    sources |= {str(path.relative_to(ROOT)): path.read_text() for path in NOTIFIER.rglob("*.py")}
    assert check(sources) == []
    assert not sources.keys() & FENCES.keys()


@pytest.mark.parametrize(
    ("term", "module"),
    [
        ("retry schedule", "services/notifier/retry.py"),
        ("backoff", "services/notifier/retry.py"),
        ("circuit breaker", "services/notifier/endpoints.py"),
        ("dead-letter", "services/notifier/consumer.py"),
        ("ssrf", "libs/outbound/ssrf.py"),
        ("denylist", "libs/outbound/ssrf.py"),
    ],
)
def test_a_term_of_the_field_stands_at_the_top_of_its_module(term: str, module: str) -> None:
    """One search for the standard term finds the module that answers the question."""
    docstring = ast.get_docstring(ast.parse((ROOT / module).read_text()))
    assert docstring is not None
    assert term in docstring.lower().replace("\n", " ")
