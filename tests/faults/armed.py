"""Runs a service that kills itself at one place: `python -m tests.faults.armed services.token --at committed:3`.

The service is imported and started as its own command starts it; without `--at` it is that service and nothing else.
"""

import argparse
import functools
import runpy
import sys
from collections.abc import Sequence
from datetime import timedelta

import services.notifier.app as notifier
from services.notifier.schedule import Ladder
from tests.faults.points import POINTS, Fuse


def _shorten(lease: float | None, ladder: str | None) -> None:
    """What the product has no settings for, so that a test need not wait for minutes."""
    if lease is not None:
        notifier.RECORDED_WITHIN = timedelta(seconds=lease)
    if ladder is not None:
        rungs = tuple(timedelta(seconds=float(rung)) for rung in ladder.split(","))
        notifier.install = functools.partial(notifier.install, ladder=Ladder(rungs))


def main(words: Sequence[str] | None = None) -> None:
    """Become the service; the words are those of the command line if none are given."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.armed", description=__doc__)
    parser.add_argument("service", help="such as services.token")
    parser.add_argument("--at", metavar="LABEL[:NTH]", help=", ".join(POINTS))
    parser.add_argument("--lease", type=float, help="seconds a notifier's lease lasts beyond the attempt")
    parser.add_argument("--ladder", help="seconds between the attempts of a notifier, with commas")
    arguments = parser.parse_args(words)
    if arguments.at:
        label, _, nth = arguments.at.partition(":")
        POINTS[label].arm(Fuse(int(nth or 1)))
    _shorten(arguments.lease, arguments.ladder)
    sys.argv = [arguments.service]
    runpy.run_module(arguments.service, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
