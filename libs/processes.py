"""Child processes that never outlive us, and how to end them."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

# Runs in the child between fork and exec, as a program of its own: code between the two in a threaded parent could
# deadlock, a fresh interpreter cannot. PR_SET_PDEATHSIG is 1 and survives the exec; the second look at the parent
# closes the window in which it died before the call.
_TIE = """\
import ctypes, os, sys
parent, number = int(sys.argv[1]), int(sys.argv[2])
ctypes.CDLL(None).prctl(1, number)
if os.getppid() != parent:
    raise SystemExit(1)
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as fault:
    print(f"{sys.argv[3]}: {fault.strerror}", file=sys.stderr)
    raise SystemExit(126)
"""


def ending_with_this_process(command: Sequence[str], *, ending: signal.Signals = signal.SIGKILL) -> list[str]:
    """The same command, sent `ending` by the kernel as soon as the thread that starts it is gone (Linux only).

    The program keeps the pid of the process that is started; one that cannot be executed ends with status 126.
    Start it from a thread that lives as long as it should: the main thread, or one of an executor.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), str(int(ending)), *command]


def end(process: subprocess.Popen[bytes], *, within: float) -> bool:
    """The process is gone, and reaped, when this returns. True if SIGTERM was enough within that many seconds."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(within)
        return True
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
