"""Chromium for the tests of the console: this machine's, installed if permitted."""

from pathlib import Path

from tests.provision import debian

INSTEAD = "put a chromium on PATH"


def chromium() -> Path:
    """The path of Chromium. Raises CannotProvide with what to do."""
    return debian.provided("chromium", "chromium", INSTEAD, "/usr/bin/chromium")
