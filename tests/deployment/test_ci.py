"""`.ci/run` chooses its steps by what the machine has, prints what it leaves out, and fails if a step fails."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.programs import ROOT
from tests.compose.alone.test_upgrade import PREVIOUS, extract
from tests.conftest import OPTIONAL_PARTS, WITHOUT

ALONE = "test-compose T=tests/compose/alone"
ALWAYS = ["check", "audit", "test"]
WITH_CONTAINERS = ["check", "audit", "test-compose", "test", ALONE]
UNSET = "unset"
LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")
IN_ONE_FILE = ["tests/unit/test_a.py::test_one[x::y]", "tests/unit/test_a.py::test_two"]
IN_TWO_FILES = [*IN_ONE_FILE, "tests/unit/test_b.py::test_one"]
AGAIN = "test T=tests/unit/test_a.py"


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
    def run(
        *,
        npm: bool = True,
        docker: bool = True,
        failing: str = "",
        tests: Mapping[str, Sequence[str]] = {},
        **environment: str,
    ) -> Outcome:
        """`failing`: the step that fails; `tests`: the tests that fail, for the arguments of a `make`."""
        place, calls, failures = tmp_path / "bin", tmp_path / "calls", tmp_path / "failures"
        shutil.copytree(ROOT / ".ci", tmp_path / "copy/.ci")
        (tmp_path / "copy" / LAST_FAILED.parent).mkdir(parents=True)
        for directory in (place, failures):
            directory.mkdir()
        calls.touch()
        for made, failed in tests.items():
            (failures / made.replace("/", " ")).write_text(json.dumps(dict.fromkeys(failed, True)))
        programs = {
            "make": f'echo "${{{WITHOUT}-{UNSET}}} $*" >> {calls}; cp "{failures}/$(echo "$*" | tr / " ")" '
            f"{LAST_FAILED}"
            f' 2>/dev/null && exit 2; [ "$*" != "{failing}" ]',
            "npm": f'[ "$1" != ping ] || exit {int(not npm)}',
            "docker": f'[ "$1" = version ] || exit 0; {"echo 20.10" if docker else "exit 1"}',
        }
        for name, script in programs.items():
            (place / name).write_text(f"#!/bin/sh\n{script}\n")
            (place / name).chmod(0o755)
        inherited = {name: value for name, value in os.environ.items() if name not in {WITHOUT, "TMPDIR"}}
        done = subprocess.run(
            [tmp_path / "copy/.ci/run"],
            env={
                **inherited,
                "TMPDIR": str(tmp_path),
                "ALONE": "1",
                **environment,
                "PATH": f"{place}:{os.environ['PATH']}",
            },
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
    outcome = ci(SECONDS="4000")  # bash counts on from here
    assert (outcome.status, outcome.made) == (0, WITH_CONTAINERS[:-1]), outcome.said
    assert re.search(rf"LEFT OUT for lack of time: make {re.escape(ALONE)} \(\d+ min are left", outcome.said)
    assert f"not tested: make {ALONE}" in outcome.said.splitlines()[-2]


@pytest.mark.parametrize("step", WITH_CONTAINERS)
def test_a_step_that_fails_fails_the_run_after_the_others(ci: Run, step: str) -> None:
    """It is named at the end; the other steps run all the same."""
    outcome = ci(failing=step)
    assert (outcome.status, outcome.made) == (1, WITH_CONTAINERS), outcome.said
    assert outcome.said.splitlines()[-1].endswith(f"failed: make {step}")


def test_files_that_failed_run_once_more_and_are_named(ci: Run) -> None:
    """If they pass alone, the run passes."""
    outcome = ci(tests={"test": IN_TWO_FILES, "test-compose": IN_ONE_FILE})
    again = f"{AGAIN} tests/unit/test_b.py"
    made = ["check", "audit", "test-compose", "test-compose T=tests/unit/test_a.py", "test", again, ALONE]
    assert (outcome.status, outcome.made) == (0, made), outcome.said
    assert "tests/unit/test_a.py tests/unit/test_b.py" in outcome.said.splitlines()[-2]


@pytest.mark.parametrize(
    ("tests", "made"),
    [
        ({"test": IN_ONE_FILE, AGAIN: IN_ONE_FILE}, ["check", "audit", "test", AGAIN]),
        ({"test": [f"tests/unit/test_{number}.py::test_one" for number in range(6)]}, ALWAYS),
        ({"test": []}, ALWAYS),
        ({"check": IN_ONE_FILE}, ALWAYS),
    ],
    ids=["alone, too", "in many files", "without a test", "of another step"],
)
def test_what_fails_in_any_other_way_fails_the_run(
    ci: Run, tests: Mapping[str, Sequence[str]], made: Sequence[str]
) -> None:
    """The run fails if a file fails again, if many files failed, and if it was not a test that failed."""
    outcome = ci(docker=False, tests=tests)
    assert (outcome.status, outcome.made) == (1, made), outcome.said


def test_without_history_the_upgrade_fails_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    """A shallow clone is no reason to test less in silence."""
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "the newest"]):
        author = ["-c", "user.name=a", "-c", "user.email=a@example.test"]
        subprocess.run(["git", *author, *command], cwd=tmp_path, check=True)
    with pytest.raises(pytest.fail.Exception, match=rf"commit {PREVIOUS}.*`git fetch --unshallow`"):
        extract(PREVIOUS, ("compose.yaml",), tmp_path, tmp_path)


def test_the_stacks_beside_run_only_when_asked_for_and_it_says_so(ci: Run) -> None:
    """They take long, so they are for the machine that has the time."""
    outcome = ci(ALONE="")
    assert (outcome.status, outcome.made) == (0, WITH_CONTAINERS[:-1]), outcome.said
    assert outcome.said.splitlines()[-2].endswith(f"not tested: make {ALONE}")
