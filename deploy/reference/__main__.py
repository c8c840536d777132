"""Write the pages of docs/reference, or with --check say which of them the code does not agree with."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.reference.cli_page import cli_page
from deploy.reference.definitions_page import definitions_page
from deploy.reference.settings_page import settings_page

DIRECTORY = Path(__file__).parents[2] / "docs" / "reference"
PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "definitions.md": definitions_page,
    "settings.md": settings_page,
}


def drifted() -> str | None:
    """The first page that is missing or not what the code says; None if there is none."""
    for name, page in PAGES.items():
        file = DIRECTORY / name
        if not file.exists() or file.read_text(encoding="utf-8") != page():
            return name
    return None


def main() -> None:
    """0, or with --check one line about the first page that drifted."""
    parser = argparse.ArgumentParser(prog="python -m deploy.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something would be written")
    if not parser.parse_args().check:
        for name, page in PAGES.items():
            (DIRECTORY / name).write_text(page(), encoding="utf-8")
    elif found := drifted():
        sys.exit(f"docs/reference/{found} is not what the code says: run `make contracts`")


if __name__ == "__main__":
    main()
