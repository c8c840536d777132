"""The make targets on a machine that lacks tools, and the arguments they pass on."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import options
from bench.__main__ import MEASUREMENTS
from deploy import install_packages
from tests.acceptance.programs import ROOT

TOOLS = ("sh", "awk", "echo", "test", "touch")
"""On every Debian, apart from make."""


@pytest.fixture(name="bare")
def _bare(tmp_path: Path) -> Path:
    """A directory of programs without Python."""
    place = tmp_path / "bin"
    place.mkdir()
    for tool in (*TOOLS, "make"):
        found = shutil.which(tool)
        assert found, tool
        (place / tool).symlink_to(found)
    return place


def python(place: Path, script: str) -> None:
    """A fake `python3` that runs this."""
    file = place / "python3"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def made(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `make …` with these programs and a virtual environment that does not exist yet."""
    command = [str(place / "make"), *words, f"VENV={place.parent / 'venv'}"]
    environment = {"PATH": str(place), "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("target", ["run", "demo", "test", "bench", "faults", "check"])
@pytest.mark.parametrize("version", ["none", "too-old"])
def test_a_missing_python_is_one_line_that_says_what_to_install(bare: Path, target: str, version: str) -> None:
    """A Python older than 3.11 counts as missing; one line says what to install."""
    if version == "too-old":
        python(bare, "exit 1")
    outcome = made(bare, target)
    said, ending = outcome.stderr.splitlines()
    assert said == (
        "Python 3.11 or later is needed, on PATH as python3 or python3.11 to python3.13: "
        "apt-get install python3 python3-venv make"
    )
    assert ending.startswith("make: *** ")
    assert outcome.returncode == 2
    assert outcome.stdout == ""


def test_a_python_without_venv_is_one_line_that_says_what_to_install(bare: Path) -> None:
    """If venv is missing (Debian without python3-venv), one line says what to install."""
    python(bare, 'case "$2" in *ensurepip*) exit 1;; esac')
    said, _ = made(bare, "run").stderr.splitlines()
    assert said == "Python's venv module is missing: apt-get install python3 python3-venv make"


def test_run_is_moved_by_port_and_data() -> None:
    """PORT and DATA reach the command; the directory may have any name."""
    command = ["make", "--dry-run", "run", "PORT=9000", "DATA=/some/dir of mine"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert 'python -m services --port "9000" --data "/some/dir of mine"' in printed


@pytest.mark.parametrize(("given", "expected"), [("WORKERS=auto", "auto"), ("WORKERS=3", "3"), ("", None)])
def test_run_has_the_workers_that_are_given_to_it(given: str, expected: str | None) -> None:
    """WORKERS= reaches the command as its setting. Its default, which is that of `make test`, does not."""
    command = ["make", "--dry-run", "run", *([given] if given else [])]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert re.findall(r'TOKENWIRE_WORKERS="(\w+)"', printed) == ([expected] if expected else [])
    assert "-m services" in printed


def test_the_demo_is_pointed_to_a_stack_by_base() -> None:
    """BASE names the stack that the demo runs against."""
    command = ["make", "--dry-run", "demo", "BASE=http://127.0.0.1:8080"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert 'env TOKENWIRE_URL="http://127.0.0.1:8080"' in printed


def test_make_alone_lists_every_command(bare: Path) -> None:
    """`make` alone lists every target, on any machine."""
    listed = re.findall(r"^make ([a-z-]+) +\S", made(bare).stdout, re.MULTILINE)
    assert set(listed) >= {"run", "demo", "test", "check", "bench", "faults", "contracts", "images", "up", "down"}


def test_the_readme_explains_every_command(bare: Path) -> None:
    """Each target that `make` lists is in the table of commands, and no other."""
    listed = set(re.findall(r"^make ([a-z-]+) +\S", made(bare).stdout, re.MULTILINE)) - {"help"}
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Commands\n")[2].partition("\n## ")[0]
    explained = [cell for row in section.splitlines() for cell in row.split("|")[1:2]]
    assert {name for cell in explained for name in re.findall(r"`make ([a-z-]+)", cell)} == listed


@pytest.mark.parametrize("name", ["run", "embedded", "test"])
def test_dependencies_are_pinned_by_version_and_hash(name: str) -> None:
    """Dependencies are pinned only by version and hash, never by URL or file."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    entries = text.replace("\\\n", " ").splitlines()
    assert entries
    for entry in entries:
        requirement, *hashes = entry.split(" --hash=")
        assert re.fullmatch(r"[a-z0-9.-]+(\[[a-z,]+\])?==[\w.]+( ; [^/@]+)?\s*", requirement.rstrip()), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", each) for each in hashes), requirement


def test_the_files_of_make_quick_exist() -> None:
    """With two workers, pytest runs nothing and names nothing if one of its arguments does not exist."""
    printed = subprocess.run(
        ["make", "--dry-run", "quick"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    named = re.findall(r"tests/\S+", printed)
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_e9_help_of_the_benchmarks_needs_no_installation(bare: Path) -> None:
    """`make bench B=--help` lists the benchmarks with any Python, and creates no virtual environment."""
    python(bare, f'exec {sys.executable} -S "$@"')
    outcome = made(bare, "bench", "B=--help")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "tokens, refresh, webhooks, arrival" in outcome.stdout
    assert not (bare.parent / "venv").exists()


def test_e9_the_benchmarks_in_the_help_are_those_that_exist() -> None:
    """The names in the help, in their order."""
    assert tuple(MEASUREMENTS) == options.MEASUREMENTS
    assert set(options.BY_NAME) < set(options.MEASUREMENTS)


PIP_OUTPUT = """\
Collecting aiohttp==3.12.1 (from -r requirements/run.txt (line 1))
  Downloading aiohttp-3.12.1-cp311-manylinux.whl (1.7 MB)
Requirement already satisfied: attrs==25.1.0 in /venv (from -r requirements/run.txt (line 60))
Collecting motor==3.7.1 (from -r requirements/run.txt (line 70))
  Using cached motor-3.7.1-py3-none-any.whl (74 kB)
Installing collected packages: motor, aiohttp
Successfully installed aiohttp-3.12.1 motor-3.7.1
"""


def test_e9_an_installation_says_how_far_it_is() -> None:
    """Each package is a step with its number, and a download shows its size."""
    assert list(install_packages.steps(PIP_OUTPUT.splitlines(), 3)) == [
        "1 of at most 3: aiohttp==3.12.1",
        "1 of at most 3: aiohttp==3.12.1 (1.7 MB)",
        "2 of at most 3: attrs==25.1.0",
        "3 of at most 3: motor==3.7.1",
        "installing 2 packages",
    ]


def test_e9_an_installation_that_fails_says_why(tmp_path: Path) -> None:
    """pip's exit status and its error reach the terminal."""
    (tmp_path / "wanted.txt").write_text(f"no-such-package==1.0 --hash=sha256:{'0' * 64}\n")
    command = [sys.executable, "deploy/install_packages.py", str(tmp_path / "wanted.txt")]
    nowhere = {**os.environ, "PIP_NO_INDEX": "1"}
    outcome = subprocess.run(command, cwd=ROOT, env=nowhere, capture_output=True, text=True, check=False, timeout=120)
    assert outcome.returncode == 1
    assert "No matching distribution found for no-such-package==1.0" in outcome.stderr
