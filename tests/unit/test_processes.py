"""Child processes end when they should, and never later than we do."""

import os
import signal
import subprocess
import sys

import pytest

from libs.processes import end, tied_to_us
from tests.eventually import eventually
from tests.processes import runs

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
PARENT = """
import subprocess, sys, time
from libs.processes import tied_to_us
print(subprocess.Popen(tied_to_us(["sleep", "600"]), start_new_session=True).pid, flush=True)
time.sleep(600)
"""


def test_the_program_keeps_the_pid_of_the_started_process() -> None:
    """The pid that was started is the program's own, so a signal to it reaches the program and not a wrapper."""
    shown = subprocess.Popen(tied_to_us(["sh", "-c", "echo $$"]), stdout=subprocess.PIPE)
    output, _ = shown.communicate(timeout=10)
    assert int(output) == shown.pid


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_tied_process_ends_with_its_parent(death: signal.Signals) -> None:
    """A child in a session of its own ends however its parent ends, SIGKILL included."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.send_signal(death)
        parent.wait(10)
    await eventually(lambda: not runs(child))


def test_a_program_that_cannot_be_executed_is_named() -> None:
    """The child says which program it was and why, and ends with the status a shell would give."""
    failed = subprocess.run(tied_to_us(["/nowhere/program"]), capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stderr) == (126, "/nowhere/program: No such file or directory\n")


def test_end_kills_what_does_not_listen() -> None:
    """A process that ignores SIGTERM is gone after the bound, and the answer says that it had to be killed."""
    deaf = subprocess.Popen(tied_to_us([sys.executable, "-c", DEAF]), stdout=subprocess.PIPE)
    assert deaf.stdout is not None
    with deaf.stdout:
        deaf.stdout.readline()
        assert not end(deaf, within=0.2)
    assert deaf.returncode == -signal.SIGKILL


def test_end_waits_for_an_orderly_end_and_may_be_repeated() -> None:
    """A process that obeys SIGTERM is reaped without force; ending it again changes nothing."""
    obedient = subprocess.Popen(tied_to_us(["sleep", "600"]))
    os.kill(obedient.pid, 0)
    assert end(obedient, within=10)
    assert end(obedient, within=10)
