"""Runs a service with a wrong clock: `python -m tests.security.skewed services.token --seconds -60`."""

import argparse
import runpy
import sys
from datetime import timedelta

from libs import runtime


def main() -> None:
    """Run the service with the skewed clock."""
    parser = argparse.ArgumentParser(prog="python -m tests.security.skewed", description=__doc__)
    parser.add_argument("service", help="such as services.token")
    parser.add_argument("--seconds", type=float, required=True, help="by which the clock is ahead")
    arguments = parser.parse_args()
    right, ahead = runtime.utc_now, timedelta(seconds=arguments.seconds)
    runtime.utc_now = lambda: right() + ahead
    sys.argv = [arguments.service]
    runpy.run_module(arguments.service, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
