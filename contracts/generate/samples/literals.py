"""Values as JSON, and as literals of Python and JavaScript: on one line where they fit."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.generate.samples.requests import has_variables, pieces

WIDTH = 88


class Code(str):
    """An expression that is written as it is."""

    __slots__ = ()


@dataclass(frozen=True)
class Call:
    """A function that is called with one value."""

    function: str
    value: Any


@dataclass(frozen=True)
class Language:
    """How a language writes its literals."""

    indent: str
    constants: Mapping[Any, str]
    """True, False and None."""
    text: Callable[[str], str]
    key: Callable[[str], str]
    braces: tuple[str, str]
    """Of an object that is on one line."""
    last_comma: str = ","
    """What follows the last member, if each is on a line of its own."""

    def literal(self, value: Any, depth: int = 0, taken: int = 0) -> str:
        """The value, whose first line begins after this many characters, in lines indented to this depth."""
        line = self._on_one_line(value)
        if "\n" not in line and len(line) + taken + len(self.indent) * depth <= WIDTH:
            return line
        if isinstance(value, Call):
            return f"{value.function}({self.literal(value.value, depth, taken + len(value.function) + 2)})"
        if isinstance(value, Mapping) and value:
            return self._lines("{", [(f"{self.key(name)}: ", each) for name, each in value.items()], "}", depth)
        if isinstance(value, list) and value:
            return self._lines("[", [("", each) for each in value], "]", depth)
        return line

    def _lines(self, opening: str, members: list[tuple[str, Any]], closing: str, depth: int) -> str:
        margin = self.indent * (depth + 1)
        lines = [f"{margin}{key}{self.literal(each, depth + 1, len(key) + 1)}" for key, each in members]
        together = ",\n".join(lines)
        return f"{opening}\n{together}{self.last_comma}\n{self.indent * depth}{closing}"

    def _on_one_line(self, value: Any) -> str:
        if isinstance(value, Code):
            return str(value)
        if isinstance(value, Call):
            return f"{value.function}({self._on_one_line(value.value)})"
        if isinstance(value, Mapping):
            members = ", ".join(f"{self.key(name)}: {self._on_one_line(each)}" for name, each in value.items())
            return f"{self.braces[0]}{members}{self.braces[1]}" if members else "{}"
        if isinstance(value, list):
            return f"[{', '.join(map(self._on_one_line, value))}]"
        if isinstance(value, str):
            return self.text(value)
        return self.constants[value] if isinstance(value, bool | None) else json.dumps(value)


def quoted(text: str) -> str:
    """The text in double quotes, as Python, JavaScript and Go read it."""
    return json.dumps(text, ensure_ascii=False)


def _python_text(text: str) -> str:
    parts = list(pieces(text))
    if not any(is_variable for _, is_variable in parts):
        return quoted(text)
    if len(parts) == 1:
        return f'os.environ["{parts[0][0]}"]'
    written = [
        f"{{os.environ['{piece}']}}" if is_variable else quoted(piece)[1:-1].replace("{", "{{").replace("}", "}}")
        for piece, is_variable in parts
    ]
    return f'f"{"".join(written)}"'


def _javascript_text(text: str) -> str:
    parts = list(pieces(text))
    if not any(is_variable for _, is_variable in parts):
        return quoted(text)
    if len(parts) == 1:
        return f"process.env.{parts[0][0]}"
    written = [
        f"${{process.env.{piece}}}" if is_variable else re.sub(r"[`\\]|\$(?={)", r"\\\g<0>", piece)
        for piece, is_variable in parts
    ]
    return f"`{''.join(written)}`"


def _javascript_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_$][\w$]*", name) else quoted(name)


PYTHON = Language("    ", {True: "True", False: "False", None: "None"}, _python_text, quoted, ("{", "}"))
JAVASCRIPT = Language(
    "  ", {True: "true", False: "false", None: "null"}, _javascript_text, _javascript_key, ("{ ", " }")
)


def json_text(value: Any, insert: Callable[[str], str]) -> str:
    """The value as JSON in which a text with variables is what `insert` makes of it: the JSON of that text."""

    def text(each: str) -> str:
        return insert(each) if has_variables(each) else quoted(each)

    constants = {True: "true", False: "false", None: "null"}
    return Language("  ", constants, text, quoted, ("{", "}"), "").literal(value)
