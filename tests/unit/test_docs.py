"""The docs have short lines, links that lead somewhere, and a glossary that the usual search terms find."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.reference.__main__ import drifted

ROOT = Path(__file__).parents[2]
GENERATED = {ROOT / "docs" / "faults.md"}
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "tests/security/rows.md"} - GENERATED)
WIDTH = 120
SEARCH_TERMS = (
    "audit log",
    "backoff",
    "brute force",
    "circuit breaker",
    "dead letter",
    "denylist",
    "rate limiter",
    "retry",
    "ssrf",
)
named = pytest.mark.parametrize("page", PAGES, ids=[f"{page.relative_to(ROOT)}" for page in PAGES])


def test_e9_reference_pages_agree_with_the_code() -> None:
    """docs/reference is what `make contracts` writes."""
    assert drifted() is None, "run `python -m deploy.reference`, as `make contracts` does"


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page, without code blocks."""
    code = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            yield number, line


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = [line.lstrip("# ") for _, line in prose(page) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@named
def test_lines_are_short(page: Path) -> None:
    """At most 120 characters, except in tables and code, and where a link or a code span cannot be broken."""
    unbreakable = re.compile(r"`[^`]{60,}`|\S{60,}")
    long = [
        number
        for number, line in prose(page)
        if len(line) > WIDTH and not line.startswith("|") and not unbreakable.search(line)
    ]
    assert long == []


@named
def test_code_spans_end_on_their_line(page: Path) -> None:
    """A command in code quotes can be copied in one piece."""
    assert [number for number, line in prose(page) if line.count("`") % 2] == []


@named
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link names a file of the repository, and each anchor a heading of that file."""
    text = "\n".join(line for _, line in prose(page))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@named
def test_files_that_are_named_exist(page: Path) -> None:
    """Each path in code quotes exists. Walk-throughs name future files; decisions and the changelog, former ones."""
    if {"adr", "contributing"} & set(page.parts) or page.name == "CHANGELOG.md":
        return
    text = "\n".join(line for _, line in prose(page))
    for path in re.findall(r"`((?:libs|services|contracts|tests|docs|deploy|edge|examples|bench)/[\w./-]*)`", text):
        assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), path


@pytest.mark.parametrize("term", SEARCH_TERMS)
def test_the_usual_terms_are_in_the_glossary(term: str) -> None:
    """With a link or a file to read on."""
    rows = [
        line for line in (ROOT / "docs/glossary.md").read_text(encoding="utf-8").splitlines() if term in line.lower()
    ]
    assert any("](" in row or "see *" in row for row in rows)
