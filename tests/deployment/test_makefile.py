"""The commands on a machine that lacks what they need, and what they pass on."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.programs import ROOT

TOOLS = ("sh", "awk", "echo", "test", "touch")
"""What any Debian has, beside make."""


@pytest.fixture(name="bare")
def _bare(tmp_path: Path) -> Path:
    """A directory of programs, with no Python among them."""
    place = tmp_path / "bin"
    place.mkdir()
    for tool in (*TOOLS, "make"):
        found = shutil.which(tool)
        assert found, tool
        (place / tool).symlink_to(found)
    return place


def python(place: Path, script: str) -> None:
    """A `python3` that does this."""
    file = place / "python3"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def made(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`make …` with these programs, and a virtual environment that is not there yet."""
    command = [str(place / "make"), *words, f"VENV={place.parent / 'venv'}"]
    environment = {"PATH": str(place), "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("target", ["run", "demo", "test", "bench", "faults", "check"])
@pytest.mark.parametrize("version", ["none", "too-old"])
def test_a_missing_python_is_one_line_that_says_what_to_install(bare: Path, target: str, version: str) -> None:
    """One that is older than 3.11 is none."""
    if version == "too-old":
        python(bare, "exit 1")
    outcome = made(bare, target)
    said, ending = outcome.stderr.splitlines()
    assert said == "Python 3.11 or later is needed: apt-get install python3 python3-venv make"
    assert ending.startswith("make: *** ")
    assert outcome.returncode == 2
    assert outcome.stdout == ""


def test_a_python_without_venv_is_one_line_that_says_what_to_install(bare: Path) -> None:
    """As Debian's is until python3-venv is installed."""
    python(bare, 'case "$2" in *ensurepip*) exit 1;; esac')
    said, _ = made(bare, "run").stderr.splitlines()
    assert said == "Python's venv module is missing: apt-get install python3 python3-venv make"


def test_run_is_moved_by_port_and_data() -> None:
    """A directory may have any name."""
    command = ["make", "--dry-run", "run", "PORT=9000", "DATA=/some/dir of mine"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert 'python -m services --port "9000" --data "/some/dir of mine"' in printed


def test_make_alone_lists_every_command(bare: Path) -> None:
    """On any machine."""
    listed = re.findall(r"^make ([a-z]+) +\S", made(bare).stdout, re.MULTILINE)
    assert set(listed) >= {"run", "demo", "test", "check", "bench", "faults", "contracts", "up", "down", "lock"}


@pytest.mark.parametrize("name", ["run", "embedded", "test"])
def test_dependencies_are_pinned_by_version_and_hash(name: str) -> None:
    """And by nothing else: no address of an index or of a file."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    entries = text.replace("\\\n", " ").splitlines()
    assert entries
    for entry in entries:
        requirement, *hashes = entry.split(" --hash=")
        assert re.fullmatch(r"[a-z0-9.-]+(\[[a-z,]+\])?==[\w.]+( ; [^/@]+)?\s*", requirement.rstrip()), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", each) for each in hashes), requirement
