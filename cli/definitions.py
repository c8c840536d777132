"""Documents to send to the server, from files, directories or the standard input: API definitions and policies."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from cli.failures import Failure
from contracts.operations import JSON, YAML

STDIN = "-"
_SUFFIXES = {".json": JSON, ".yaml": YAML, ".yml": YAML}


@dataclass(frozen=True, slots=True)
class Document:
    """One document as it is sent."""

    source: str
    """Where it is from, for messages."""
    value: Any
    content: bytes
    media_type: str


def documents(sources: Sequence[str]) -> list[Document]:
    """The documents of these files, of the files in these directories, or of the standard input (`-`).

    A file with a JSON array has several. Raises Failure.
    """
    return [document for source in sources for document in _documents(source)]


def _documents(source: str) -> Iterator[Document]:
    if source == STDIN:
        yield from _parsed("standard input", sys.stdin.buffer.read(), None)
        return
    path = Path(source)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())
        if not files:
            raise Failure(f"{path} has no files that end in {', '.join(_SUFFIXES)}")
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise Failure(f"{file} cannot be read: {error.strerror}") from None
        yield from _parsed(str(file), content, _SUFFIXES.get(file.suffix.lower()))


def _parsed(source: str, content: bytes, media_type: str | None) -> Iterator[Document]:
    """Without a media type, what is no JSON is taken for YAML."""
    if media_type != YAML:
        try:
            value = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            if media_type == JSON:
                raise Failure(f"{source} is not JSON: {error}") from None
        else:
            yield from _each(source, value, content)
            return
    try:
        yield Document(source, yaml.safe_load(content), content, YAML)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise Failure(f"{source} is not {'YAML' if media_type else 'JSON or YAML'}: {said}") from None


def _each(source: str, value: Any, content: bytes) -> Iterator[Document]:
    if not isinstance(value, list):
        yield Document(source, value, content, JSON)
        return
    for number, each in enumerate(value, 1):
        yield Document(f"{source}[{number}]", each, orjson.dumps(each), JSON)
