"""Runs a service that kills itself at one point: `python -m tests.faults.armed services.token --at committed:3`.

The service starts as with its own command. Without `--at` nothing is changed.
"""

import argparse
import functools
import runpy
import sys
from collections.abc import Sequence
from datetime import timedelta

import services.notifier.app as notifier
from services.notifier.retry import RetrySchedule
from tests.faults.points import POINTS, Fuse


def _shorten(lease: float | None, retry_delays: str | None) -> None:
    """Shorten delays that the product has no settings for, so that tests need not wait for minutes."""
    if lease is not None:
        notifier.LEASE_MARGIN = timedelta(seconds=lease)
    if retry_delays is not None:
        delays = tuple(timedelta(seconds=float(delay)) for delay in retry_delays.split(","))
        notifier.install = functools.partial(notifier.install, schedule=RetrySchedule(delays))


def main(words: Sequence[str] | None = None) -> None:
    """Run the service with these arguments, by default those of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.armed", description=__doc__)
    parser.add_argument("service", help="such as services.token")
    parser.add_argument("--at", metavar="LABEL[:NTH]", help=", ".join(POINTS))
    parser.add_argument("--lease", type=float, help="seconds a notifier's lease lasts beyond the attempt")
    parser.add_argument("--retry-delays", help="seconds between the attempts of a notifier, with commas")
    arguments = parser.parse_args(words)
    if arguments.at:
        label, _, nth = arguments.at.partition(":")
        POINTS[label].arm(Fuse(int(nth or 1)))
    _shorten(arguments.lease, arguments.retry_delays)
    sys.argv = [arguments.service]
    runpy.run_module(arguments.service, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
