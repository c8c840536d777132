"""The check of the console's templates passes for ours, and finds what it says that it finds."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.check_templates import CODE, findings_in_code, findings_in_templates
from services.console.rendering import TEMPLATES

ROOT = Path(__file__).parents[2]


def test_the_console_s_templates_and_code_have_no_finding() -> None:
    """As `make check` says."""
    assert [str(each) for each in (*findings_in_templates(TEMPLATES), *findings_in_code(CODE))] == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("<p>{{ visit | safe }}</p>", "safe switches escaping off", id="safe"),
        pytest.param("{% autoescape false %}{% endautoescape %}", "escaping is on everywhere", id="autoescape"),
        pytest.param("<p style='color: red'>a</p>", "inline style", id="style"),
        pytest.param("<style>p { color: red }</style>", "inline style", id="style-element"),
        pytest.param("<script>alert(1)</script>", "inline script", id="script"),
        pytest.param('<button onclick="go()">a</button>', "inline event handler", id="handler"),
        pytest.param('<a href="javascript:go()">a</a>', "a URL that is a script", id="javascript"),
        pytest.param("<p title={{ here }}>a</p>", "without quotes", id="unquoted"),
        pytest.param('<img src="https://cdn.example/a.png" alt="">', "outside of the console", id="elsewhere"),
        pytest.param("{{ here | no_such_filter }}", "No filter named", id="filter"),
        pytest.param("{% if here %}<p>a</p>", "Unexpected end of template", id="unclosed"),
        pytest.param('{% include "absent.html" %}', "there is no template absent.html", id="template"),
        pytest.param('{% from "macros.html" import no_such_macro %}', "has no macro no_such_macro", id="macro"),
        pytest.param('{% from "macros.html" import badge %}', "the macro badge is not used", id="unused"),
    ],
)
def test_a_template_that_breaks_a_rule_is_found_with_its_line(tmp_path: Path, text: str, why: str) -> None:
    """File, line and reason."""
    (tmp_path / "macros.html").write_text("{% macro badge(text) %}{{ text }}{% endmacro %}")
    (tmp_path / "page.html").write_text(f"<p>first</p>\n{text}\n")
    (finding,) = findings_in_templates(tmp_path)
    assert (finding.path, why in finding.text) == ("page.html", True), finding
    assert finding.line == 2


@pytest.mark.parametrize(
    "code",
    [
        'PAGE = "<b>bold</b>"',
        "def row(name: str) -> str:\n    return f\"<td class='name'>{name}</td>\"",
        "from markupsafe import Markup",
    ],
)
def test_html_in_python_is_found(tmp_path: Path, code: str) -> None:
    """In plain and in formatted strings; and text that is declared to be safe. Docstrings may have it."""
    (tmp_path / "module.py").write_text(f'"""A page <b>like</b> this."""\n{code}\n')
    assert {finding.path for finding in findings_in_code(tmp_path)} == {"module.py"}


def test_comparisons_and_messages_are_not_html(tmp_path: Path) -> None:
    """`<` and `>` alone are no finding."""
    (tmp_path / "module.py").write_text('TEXT = "a < b > c"\nEXAMPLE = \'{"<api id>": {}}\'\n')
    assert list(findings_in_code(tmp_path)) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("<section><p>a</p>", "H025", id="never-closed"),
        pytest.param("<p>a</p></div>", "H025", id="never-opened"),
        pytest.param('<img src="a.png">', "H013", id="image-without-alt"),
        pytest.param('<a id="a" id="b">a</a>', "H037", id="attribute-twice"),
    ],
)
def test_the_linter_finds_wrong_html(tmp_path: Path, text: str, code: str) -> None:
    """With the settings of pyproject.toml, a wrong template fails, and ours do not."""
    page = tmp_path / "page.html"
    page.write_text(f"{text}\n")
    assert code in _linted(page)
    assert _linted(TEMPLATES) == ""


def _linted(path: Path) -> str:
    command = [sys.executable, "-m", "djlint", "--lint", "--quiet", "--configuration", "pyproject.toml", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout if done.returncode else ""
