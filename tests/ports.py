"""Ports that nothing listens on."""

import os
import random
import re
import socket

_FIRST, _PER_WORKER = 10_000, 2_000
"""Below what systems give to outgoing connections (from 32768, or 49152)."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago. Bind it soon; nothing reserves it."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """That many different free ports.

    Workers that run tests side by side (pytest-xdist) take theirs from ranges of their own: otherwise the system could
    give the same port to two of them before either listens on it.
    """
    listeners: list[socket.socket] = []
    worker = re.fullmatch(r"gw(\d)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    try:
        while len(listeners) < count:
            listener = socket.socket()
            try:
                port = _FIRST + _PER_WORKER * int(worker[1]) + random.randrange(_PER_WORKER) if worker else 0
                listener.bind(("127.0.0.1", port))
                listener.listen()
            except OSError:
                listener.close()
            else:
                listeners.append(listener)
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
