"""Small secrets that are made on the first start and kept in the data directory."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class Damaged(Exception):
    """A file does not hold what it was made with; the text is one line that names it and says what to do."""


def kept(path: Path, make: Callable[[], str], check: Callable[[str], object], remedy: str) -> str:
    """The text of this file, made on first use and readable by its owner only; there is never a part of it.

    Raises Damaged, with the `remedy`, where the file is empty, no text, or `check` raises ValueError for it.
    """
    if not path.exists():
        draft = _drafted(path, make())
        with suppress(FileExistsError):  # another start on the same data was faster: its text counts
            path.hardlink_to(draft)
        draft.unlink()
    return read(path, check, remedy)


def read(path: Path, check: Callable[[str], object], remedy: str) -> str:
    """The text of this file, which is there. Raises Damaged as `kept` does."""
    try:
        text = path.read_text(encoding="utf-8").strip()
        if text:
            check(text)
    except UnicodeDecodeError:
        raise Damaged(f"{path} is damaged: it contains bytes that are not text; {remedy}") from None
    except ValueError as reason:
        raise Damaged(f"{path} is damaged: {reason}; {remedy}") from None
    if not text:
        raise Damaged(f"{path} is empty; {remedy}")
    return text


def replaced(path: Path, text: str) -> None:
    """The file holds this text, whatever it held before."""
    _drafted(path, text).replace(path)


def _drafted(path: Path, text: str) -> Path:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    return draft
