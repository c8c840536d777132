"""How a process becomes the parent of workers."""

import os
import sys
from collections.abc import Sequence
from socket import socket
from typing import NoReturn

from libs.settings import LogFormat, ServerSettings, WrongSetting


def require_workers() -> None:
    """Raise WrongSetting if this system cannot share a port between processes as workers need it."""
    if sys.platform != "linux":
        raise WrongSetting("TOKENWIRE_WORKERS: more than one worker needs Linux, which spreads connections over them")


def worker_command() -> Sequence[str]:
    """The command that started this process; a worker is started with it, too."""
    return [sys.executable, *sys.orig_argv[1:]]


def become_parent(program: str, service: str, settings: ServerSettings, sockets: Sequence[socket]) -> NoReturn:
    """Replace this process, its settings checked and its sockets open, with a small one that only keeps workers.

    It keeps the process id and about 30 MB of memory: no library of a service is loaded.
    """
    for listener in sockets:
        listener.set_inheritable(True)
    options = {
        "program": program,
        "service": service,
        "sockets": ",".join(str(listener.fileno()) for listener in sockets),
        "linger": str(settings.linger),
        "log-level": settings.log_level,
        "json": str(int(settings.log_format is LogFormat.JSON)),
    }
    sys.stdout.flush()
    sys.stderr.flush()
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    os.execv(sys.executable, [sys.executable, "-m", "libs.workers", *words, "--", *worker_command()])  # noqa: S606 - our own arguments
