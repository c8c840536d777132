"""Find uses of private names of aiohttp, aio-pika, aiormq, pamqp, motor and pymongo in the product's code.

    python -m deploy.check_private_attributes

`make check` runs this. A private name may change in any release of a library, so only the files in FENCES may use one.
A fence that no longer uses any fails the check, so that the list stays short.

The check reads source text, not types. It reports:

- an import of a private module or name of one of the libraries;
- `value._name` where `value` is neither `self`, `cls` nor `super()`, and the file does not define `_name` itself;
- `self._name`, `super()._name` and an overriding `_name` in a subclass of a library's class, if the library uses it;
- `getattr(value, "_name")` and its relatives.

Ends with 0 if nothing is found, else with 1.
"""

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

LIBRARIES = ("aiohttp", "aio_pika", "aiormq", "pamqp", "motor", "pymongo")
PRODUCT = ("contracts", "libs", "services")
ROOT = Path(__file__).parent.parent

FENCES: Mapping[str, str] = {
    "libs/http/bounded_connection.py": "limits request heads in size and time; aiohttp has no setting for it (ADR 35)",
    "libs/http/responses.py": "writes the head of complete responses at once; off on other versions (ADR 35)",
}
"""Files that may use private names, and what for."""

_NAMEDTUPLE = frozenset({"_replace", "_fields", "_asdict", "_make", "_field_defaults"})
_BY_NAME = frozenset({"getattr", "setattr", "hasattr", "delattr", "attrgetter", "methodcaller"})


class Finding(NamedTuple):
    """One use of a private name."""

    line: int
    name: str
    what: str


def main() -> int:
    """Print every use outside the fences; the exit status."""
    sources = {
        str(path.relative_to(ROOT)): path.read_text() for room in PRODUCT for path in (ROOT / room).rglob("*.py")
    }
    found = check(sources)
    used = {path for path, _ in found}
    outside = [(path, finding) for path, finding in found if path not in FENCES]
    for path, finding in outside:
        print(f"{path}:{finding.line}: {finding.what}: {finding.name}", file=sys.stderr)  # noqa: T201 - a command
    unused = [path for path in FENCES if path not in used]
    for path in unused:
        print(f"{path}: uses no private name (any more): remove it from FENCES", file=sys.stderr)  # noqa: T201
    return 1 if outside or unused else 0


def check(sources: Mapping[str, str]) -> list[tuple[str, Finding]]:
    """Every use in these sources (path to text), ordered by path and line."""
    trees = {path: ast.parse(text) for path, text in sources.items()}
    derived = _derived_classes(trees.values())
    return [(path, finding) for path in sorted(trees) for finding in sorted(_findings(trees[path], derived))]


def _findings(tree: ast.Module, derived: Mapping[str, str]) -> Iterator[Finding]:
    yield from _imports(tree)
    own = _defined_names(tree, derived)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            if not _is_self(node.value) and node.attr not in own | _NAMEDTUPLE:
                yield Finding(node.lineno, node.attr, "private attribute of another object")
        elif isinstance(node, ast.Call) and _called(node) in _BY_NAME:
            for argument in node.args:
                if (
                    isinstance(argument, ast.Constant)
                    and isinstance(argument.value, str)
                    and _is_private(argument.value)
                ):
                    yield Finding(node.lineno, argument.value, f"private attribute by {_called(node)}")
        elif isinstance(node, ast.ClassDef) and (library := derived.get(node.name)):
            yield from _inherited(node, library)


def _imports(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            library, *path = name.split(".")
            if library in LIBRARIES and any(_is_private(part) for part in path):
                yield Finding(node.lineno, name, "private import")


def _inherited(node: ast.ClassDef, library: str) -> Iterator[Finding]:
    """Uses of the library's private names by a subclass of one of its classes."""
    private = _private_names(library)
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and _is_self(inner.value) and inner.attr in private:
            yield Finding(inner.lineno, inner.attr, f"private attribute of {library}")
        elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and inner.name in private:
            yield Finding(inner.lineno, inner.name, f"overrides a private method of {library}")


def _derived_classes(trees: Iterable[ast.Module]) -> Mapping[str, str]:
    """Our classes by name that derive from a library's class, directly or through another of ours: the library."""
    bases: dict[str, set[str]] = {}
    derived: dict[str, str] = {}
    for tree in trees:
        imported = _imported_from_libraries(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                roots = {_root(base) for base in node.bases}
                bases.setdefault(node.name, set()).update(roots)
                for root in roots & imported.keys():
                    derived[node.name] = imported[root]
    while more := {name: derived[base] for name in bases.keys() - derived for base in bases[name] & derived.keys()}:
        derived |= more
    return derived


def _imported_from_libraries(tree: ast.Module) -> Mapping[str, str]:
    """Names that this module binds to something of a library: the library."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.asname or alias.name).split(".")[0]: alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: node.module.split(".")[0] for alias in node.names}
    return {name: library for name, library in found.items() if library in LIBRARIES}


def _defined_names(tree: ast.Module, derived: Mapping[str, str]) -> frozenset[str]:
    """Private names that this file's classes give to their instances, and that no library's class gave them before."""
    names: set[str] = set()
    for part in ast.walk(tree):
        if isinstance(part, ast.ClassDef):
            library = derived.get(part.name)
            names |= _names_of(part) - (_private_names(library) if library else frozenset())
    return frozenset(names)


def _names_of(part: ast.ClassDef) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(part):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


@cache
def _private_names(library: str) -> frozenset[str]:
    """Private methods and attributes anywhere in the library."""
    spec = importlib.util.find_spec(library)
    names: set[str] = set()
    for directory in (spec.submodule_search_locations or []) if spec is not None else []:
        for path in Path(directory).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    names.add(node.name)
                elif isinstance(node, ast.Attribute):
                    names.add(node.attr)
    return frozenset(name for name in names if _is_private(name))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def _is_self(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def _root(node: ast.expr) -> str:
    """`web` of `web.Application`, `Generic` of `Generic[T]`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _called(node: ast.Call) -> str:
    return (
        node.func.id
        if isinstance(node.func, ast.Name)
        else node.func.attr
        if isinstance(node.func, ast.Attribute)
        else ""
    )


if __name__ == "__main__":
    sys.exit(main())
