"""The parent process of the workers of one service; `libs.workers.launch` starts it."""

import argparse
import asyncio
import socket
import sys
import time

import structlog

from libs import logging
from libs.version import VERSION
from libs.workers.parent import Workers

log = structlog.get_logger("process")


def main() -> None:
    """Keep the workers running until SIGTERM or SIGINT."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m libs.workers", description=__doc__)
    for name in ("program", "service", "sockets", "log-level"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--linger", type=float, required=True)
    parser.add_argument("--json", type=int, required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    logging.configure(options.log_level, bool(options.json), options.service)
    sockets = [socket.socket(fileno=int(number)) for number in options.sockets.split(",")]
    for listener in sockets:
        listener.set_inheritable(False)

    def ready() -> None:
        log.info("workers_ready", workers=len(sockets), version=VERSION)

    workers = Workers(options.command, sockets, linger=options.linger, ready=ready)
    status = asyncio.run(workers.run())
    if workers.complaint:
        sys.stderr.write(f"{options.program}: {workers.complaint}\n")
    else:
        log.info("stopped", version=VERSION, seconds=round(time.monotonic() - began, 1))
    sys.exit(status)


if __name__ == "__main__":
    main()
