"""Ports that nothing listens on."""

import itertools
import os
import random
import re
import socket

_FIRST, _PER_WORKER = 10_000, 2_000
"""Below what systems give to outgoing connections (from 32768, or 49152)."""
_WORKER = re.fullmatch(r"gw(\d)", os.environ.get("PYTEST_XDIST_WORKER", ""))
_START = _FIRST + _PER_WORKER * (int(_WORKER[1]) + 1 if _WORKER else 0)
_next = itertools.cycle(random.sample(range(_START, _START + _PER_WORKER), _PER_WORKER))


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago. Bind it soon; nothing reserves it."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """That many different free ports.

    A port is not returned twice until all others were: a server may take seconds to listen on the one that was chosen
    for it. Workers that run tests side by side (pytest-xdist) have ranges of their own for the same reason.
    """
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as listener:
            port = next(_next)
            try:
                listener.bind(("127.0.0.1", port))
                listener.listen()
            except OSError:
                continue
            found.append(port)
    return found
