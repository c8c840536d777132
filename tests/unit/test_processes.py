"""Child processes end on time, and never outlive us."""

import os
import signal
import subprocess
import sys

import pytest

from libs.processes import end, ending_with_this_process
from tests.eventually import eventually
from tests.processes import runs

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
PARENT = """
import subprocess, sys, time
from libs.processes import ending_with_this_process
print(subprocess.Popen(ending_with_this_process(["sleep", "600"]), start_new_session=True).pid, flush=True)
time.sleep(600)
"""


def test_the_program_keeps_the_pid_of_the_started_process() -> None:
    """The started pid is the program's own, so signals reach it and not a wrapper."""
    shown = subprocess.Popen(ending_with_this_process(["sh", "-c", "echo $$"]), stdout=subprocess.PIPE)
    output, _ = shown.communicate(timeout=10)
    assert int(output) == shown.pid


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_tied_process_ends_with_its_parent(death: signal.Signals) -> None:
    """A tied child ends with its parent, even in another session and after SIGKILL."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.send_signal(death)
        parent.wait(10)
    await eventually(lambda: not runs(child))


def test_a_program_that_cannot_be_executed_is_named() -> None:
    """If a program cannot be executed, the child names it with the reason and exits with a shell's status."""
    failed = subprocess.run(ending_with_this_process(["/nowhere/program"]), capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stderr) == (126, "/nowhere/program: No such file or directory\n")


def test_end_kills_a_process_that_ignores_sigterm() -> None:
    """A process that ignores SIGTERM is killed after the bound, which the result says."""
    deaf = subprocess.Popen(ending_with_this_process([sys.executable, "-c", DEAF]), stdout=subprocess.PIPE)
    assert deaf.stdout is not None
    with deaf.stdout:
        deaf.stdout.readline()
        assert not end(deaf, within=0.2)
    assert deaf.returncode == -signal.SIGKILL


def test_end_waits_for_an_orderly_end_and_may_be_repeated() -> None:
    """A process that obeys SIGTERM is reaped; ending it again does nothing."""
    compliant = subprocess.Popen(ending_with_this_process(["sleep", "600"]))
    os.kill(compliant.pid, 0)
    assert end(compliant, within=10)
    assert end(compliant, within=10)
