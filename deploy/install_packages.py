"""Installs pinned packages with pip into the environment of the running interpreter, and shows how far it is.

    python deploy/install_packages.py requirements/run.txt

Uses only the standard library, because nothing else is installed yet.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
SECONDS = 5.0
"""Between two lines where the output is not a terminal."""


def say(text: str) -> None:
    """Write at once, also where the output is not a terminal."""
    sys.stdout.write(text)
    sys.stdout.flush()


class Progress:
    """Shows the latest step: in one line on a terminal, otherwise a line now and then."""

    def __init__(self) -> None:
        self._shown = 0.0

    def show(self, step: str) -> None:
        """Replace what is shown, if it may be replaced yet."""
        if sys.stdout.isatty():
            say(f"\r\x1b[K  {step}")
        elif time.monotonic() >= self._shown + SECONDS:
            say(f"  {step}\n")
            self._shown = time.monotonic()

    def end(self) -> None:
        """Leave an empty line on a terminal."""
        if sys.stdout.isatty():
            say("\r\x1b[K")


def steps(lines: Iterable[str], total: int) -> Iterator[str]:
    """What pip is doing, from its output."""
    found = 0
    step = ""
    for line in lines:
        if named := re.match(r"(?:Collecting|Requirement already satisfied:) ([^\s;]+)", line):
            found += 1
            yield (step := f"{found} of at most {total}: {named[1]}")
        elif size := re.match(r"\s+Downloading \S+ (\(.+\))", line):
            yield f"{step} {size[1]}"
        elif line.startswith("Installing collected packages: "):
            yield f"installing {line.count(',') + 1} packages"


def install(requirements: Path) -> int:
    """Install the requirements; return pip's exit status. Its errors go to standard error."""
    total = len(re.findall(r"^[\w.\[\],-]+==", requirements.read_text(encoding="utf-8"), re.MULTILINE))
    progress, command = Progress(), [*PIP, "--require-hashes", "-r", f"{requirements}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pip:  # noqa: S603 - pip, and our own file
        for step in steps(pip.stdout or (), total):
            progress.show(step)
    progress.end()
    return pip.returncode


if __name__ == "__main__":
    sys.exit(install(Path(sys.argv[1])))
