"""`.ci/run` chooses its steps by what the machine has, prints what it leaves out, and fails if a step fails."""

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.programs import ROOT
from tests.conftest import OPTIONAL_PARTS, WITHOUT

ALONE = "test-compose T=tests/compose/alone"
ALWAYS = ["check", "audit", "test"]
WITH_CONTAINERS = ["check", "audit", "test-compose", "test", ALONE]
UNSET = "unset"


@dataclass(frozen=True)
class Outcome:
    """A run of the script with programs that only note how they were called."""

    status: int
    said: str
    made: list[str]
    """The arguments of each `make`, in order."""
    without: set[str]
    """What TOKENWIRE_TEST_WITHOUT was for them."""


Run = Callable[..., Outcome]


@pytest.fixture(name="ci")
def _ci(tmp_path: Path) -> Run:
    def run(*, npm: bool = True, docker: bool = True, failing: str = "", **environment: str) -> Outcome:
        place, calls = tmp_path / "bin", tmp_path / "calls"
        place.mkdir()
        calls.touch()
        programs = {
            "make": f'echo "${{{WITHOUT}-{UNSET}}} $*" >> {calls}; [ "$*" != "{failing}" ]',
            "npm": f'[ "$1" != ping ] || exit {int(not npm)}',
            "docker": f'[ "$1" = version ] || exit 0; {"echo 20.10" if docker else "exit 1"}',
        }
        for name, script in programs.items():
            (place / name).write_text(f"#!/bin/sh\n{script}\n")
            (place / name).chmod(0o755)
        inherited = {name: value for name, value in os.environ.items() if name not in {WITHOUT, "TMPDIR"}}
        done = subprocess.run(
            [ROOT / ".ci" / "run"],
            env={**inherited, "TMPDIR": str(tmp_path), **environment, "PATH": f"{place}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        lines = [line.partition(" ") for line in calls.read_text().splitlines()]
        return Outcome(
            done.returncode,
            done.stdout + done.stderr,
            [made for _, _, made in lines],
            {without for without, _, _ in lines},
        )

    return run


def test_with_an_engine_the_containers_are_tested_and_the_longest_step_comes_last(ci: Run) -> None:
    """With everything at hand every step runs, and nothing is left out."""
    outcome = ci()
    assert (outcome.status, outcome.made) == (0, WITH_CONTAINERS), outcome.said
    assert outcome.without == {UNSET}
    assert "not tested" not in outcome.said


def test_without_an_engine_the_containers_are_left_out_and_it_says_so(ci: Run) -> None:
    """Everything else runs."""
    outcome = ci(docker=False)
    assert (outcome.status, outcome.made) == (0, ALWAYS), outcome.said
    assert "no Docker engine answers: the containers are not tested" in outcome.said


def test_the_node_clients_are_left_out_only_where_their_registry_does_not_answer(ci: Run) -> None:
    """Every step gets the setting, and the run prints it."""
    outcome = ci(npm=False)
    assert (outcome.status, outcome.without) == (0, {"node-clients"}), outcome.said
    assert f"{WITHOUT}=node-clients" in outcome.said
    assert outcome.without <= OPTIONAL_PARTS.keys()


def test_what_the_caller_leaves_out_stays_as_it_is(ci: Run) -> None:
    """Then npm is not asked."""
    outcome = ci(npm=False, **{WITHOUT: "chosen"})
    assert (outcome.status, outcome.without) == (0, {"chosen"}), outcome.said
    assert "registry" not in outcome.said


def test_the_stacks_beside_are_left_out_for_lack_of_time_and_it_says_so(ci: Run) -> None:
    """What was not tested is also the last thing that it says before the result."""
    outcome = ci(SECONDS="3000")  # bash counts on from here
    assert (outcome.status, outcome.made) == (0, WITH_CONTAINERS[:-1]), outcome.said
    assert re.search(rf"LEFT OUT for lack of time: make {re.escape(ALONE)} \(\d+ min are left", outcome.said)
    assert f"not tested: make {ALONE}" in outcome.said.splitlines()[-2]


@pytest.mark.parametrize("step", WITH_CONTAINERS)
def test_a_step_that_fails_fails_the_run_after_the_others(ci: Run, step: str) -> None:
    """It is named at the end; the other steps run all the same."""
    outcome = ci(failing=step)
    assert (outcome.status, outcome.made) == (1, WITH_CONTAINERS), outcome.said
    assert outcome.said.splitlines()[-1].endswith(f"failed: make {step}")
