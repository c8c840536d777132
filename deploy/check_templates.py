"""Checks what a linter of HTML does not see in the console's pages: `python -m deploy.check_templates`.

Every template compiles with the console's own filters, and imports only macros that exist and that it uses. Everything
is escaped, attributes are quoted, and no script and no style is inline, which the Content-Security-Policy would refuse
too. No HTML is built in Python.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp_jinja2
import jinja2
from aiohttp import web
from jinja2 import nodes

from services.console.app import PAGES
from services.console.rendering import TEMPLATES, set_up
from services.console.static_files import StaticFiles

ROOT = Path(__file__).parents[1]
CODE = ROOT / "services" / "console"
FORBIDDEN = {
    r"\|\s*safe\b": "the filter safe switches escaping off",
    r"{%-?\s*autoescape\b": "escaping is on everywhere",
    r"<style\b": "inline style; it belongs in static/console.css",
    r"(?i)<script\b(?![^>]*\bsrc=)": "inline script; it belongs in a module in static/",
    r"""(?i)\sstyle\s*=\s*["']""": "inline style; it belongs in static/console.css",
    r"""(?i)\son[a-z]+\s*=\s*["']""": "inline event handler; it belongs in a module in static/",
    r"(?i)javascript:": "a URL that is a script",
    r"[\w-]=\s*{{": "an attribute without quotes, which escaping does not protect",
    r"""(?i)\b(?:src|href|action)=["'](?:[a-z]+:)?//""": "an address outside of the console",
}
_ELEMENTS = (
    "a abbr article aside b body br button code datalist dd details dialog div dl dt em fieldset figure footer form "
    "h[1-6] head header html i iframe img input label legend li link main meta nav ol option p pre rect script section "
    "select small span strong style summary svg table tbody td textarea th thead time title tr ul"
)
_TAG = re.compile(rf"</?(?:{_ELEMENTS.replace(' ', '|')})(?:\s[^<>]*)?/?>", re.IGNORECASE)


@dataclass(frozen=True, order=True, slots=True)
class Finding:
    """Something to change."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def environment(templates: Path) -> jinja2.Environment:
    """The console's environment, with the templates of this directory."""
    app = web.Application()
    set_up(app, StaticFiles(), {route.removeprefix("GET ") for route in PAGES})
    made = aiohttp_jinja2.get_env(app)
    made.loader = jinja2.FileSystemLoader(templates)
    return made


def findings_in_templates(templates: Path) -> Iterator[Finding]:
    """What is wrong with the templates of the directory."""
    made = environment(templates)
    for name in sorted(made.list_templates()):
        source = (templates / name).read_text(encoding="utf-8")
        yield from _forbidden(name, source)
        try:
            made.get_template(name)
            yield from _imports(made, name, made.parse(source))
        except jinja2.TemplateSyntaxError as error:
            yield Finding(name, error.lineno, error.message or "does not compile")


def _forbidden(name: str, source: str) -> Iterator[Finding]:
    for pattern, why in FORBIDDEN.items():
        for found in re.finditer(pattern, source):
            yield Finding(name, source.count("\n", 0, found.start() + 1) + 1, why)


def _imports(made: jinja2.Environment, name: str, template: nodes.Template) -> Iterator[Finding]:
    """Templates that do not exist, and macros that do not exist or are not used."""
    used = {each.name for each in template.find_all(nodes.Name) if each.ctx == "load"}
    others: Iterator[nodes.Extends | nodes.Include | nodes.FromImport | nodes.Import] = template.find_all(
        (nodes.Extends, nodes.Include, nodes.FromImport, nodes.Import)
    )
    for other in others:
        wanted = other.template.value if isinstance(other.template, nodes.Const) else None
        if wanted not in made.list_templates():
            yield Finding(name, other.lineno, f"there is no template {wanted}")
        elif isinstance(other, nodes.FromImport):
            macros = vars(made.get_template(wanted).module)
            for macro in [each if isinstance(each, str) else each[0] for each in other.names]:
                if macro not in macros:
                    yield Finding(name, other.lineno, f"{wanted} has no macro {macro}")
                elif macro not in used:
                    yield Finding(name, other.lineno, f"the macro {macro} is not used")


def findings_in_code(directory: Path) -> Iterator[Finding]:
    """HTML that Python code of the directory builds, or declares to be safe."""
    for path in sorted(directory.rglob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and "Markup" in {each.name for each in node.names}:
                yield Finding(path.name, node.lineno, "Markup declares text to be safe; write a template")
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if id(node) not in prose and (found := _TAG.search(text)):
                yield Finding(path.name, getattr(node, "lineno", 0), f"HTML in Python ({found[0]}); write a template")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the findings; exit with 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m deploy.check_templates", description=__doc__.partition("\n")[0])
    parser.add_argument("--templates", type=Path, default=TEMPLATES, help="default: the console's")
    parser.add_argument("--code", type=Path, default=CODE, help="default: the console's")
    options = parser.parse_args(arguments)
    found = sorted({*findings_in_templates(options.templates), *findings_in_code(options.code)})
    print(*found, sep="\n", end="\n" if found else "")  # noqa: T201 - the report
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
