"""`make roll` on a machine where it can do nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment.stack import ROOT

DOCKER = """#!/bin/sh
case "$*" in
    "compose ps --quiet token") echo old;;
    "compose ps --quiet --all token") echo old; echo new;;
    "compose up"*) echo "container new is unhealthy" >&2; exit 1;;
    "rm --force new") echo "$*" > "$(dirname "$0")/done";;
esac
"""
"""An engine with one `token`, on which new instances do not become healthy."""


def rolled(path: Path, *names: str) -> "subprocess.CompletedProcess[str]":
    """Run it with the programs in this directory."""
    command = [sys.executable, "-m", "deploy.roll", *names]
    environment = {"PATH": f"{path}:/usr/bin:/bin"} if (path / "docker").exists() else {"PATH": str(path)}
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(name="engine")
def _engine(tmp_path: Path) -> Path:
    """A directory with a `docker` command that plays the engine."""
    program = tmp_path / "docker"
    program.write_text(DOCKER)
    program.chmod(0o755)
    return tmp_path


def test_a_release_that_does_not_start_replaces_nothing(engine: Path) -> None:
    """New instances that do not become healthy are removed, the old ones stay, and one line says why."""
    outcome = rolled(engine, "token", "gateway")
    assert outcome.returncode == 1
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1
    assert outcome.stderr.endswith("failed: container new is unhealthy\n")
    assert (engine / "done").read_text() == "rm --force new\n"


def test_a_stack_that_is_not_running_is_named(engine: Path) -> None:
    """If no container of a service runs, one line says so and what to do."""
    outcome = rolled(engine, "notifier")
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr == (
        "python -m deploy.roll: no container of notifier is running: start the stack with `make up`\n"
    )


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        pytest.param("mongodb", "mongodb cannot be rolled: name some of authorization, token, ", id="one-of-a-kind"),
        pytest.param("token", "python -m deploy.roll: the `docker` command is missing\n", id="no-docker"),
    ],
)
def test_what_cannot_be_rolled_is_one_line(tmp_path: Path, name: str, complaint: str) -> None:
    """A container that cannot be replaced, or a missing Docker, is one line."""
    outcome = rolled(tmp_path, name)
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith(complaint)
    assert outcome.stderr.count("\n") == 1
