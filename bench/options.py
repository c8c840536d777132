"""The command line of the benchmarks. Needs only the standard library, so that its help needs no installation."""

import argparse
from collections.abc import Sequence

MEASUREMENTS = (
    *("tokens", "refresh", "webhooks", "arrival", "check", "edge"),
    *("growth", "console", "publish", "abuse", "workers"),
)
"""The modules of the benchmarks, in the order in which they run."""
BY_NAME = ("growth", "console", "publish", "abuse", "workers")
"""Measured only by name: growth, console and abuse take minutes, publish justifies the publish encoder, and workers
needs more than one core.
"""


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; ends the program for `--help` and for wrong ones."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure throughput relative to a bare handler; with names, only these benchmarks.",
    )
    parser.add_argument("name", nargs="*", help=f"{', '.join(MEASUREMENTS)}; default: all but {', '.join(BY_NAME)}")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load for each server in a round")
    parser.add_argument(
        "--size",
        type=int,
        default=1_000_000,
        help="records of each kind inserted by growth; for console, grants, and a tenth of the others",
    )
    options = parser.parse_args(arguments)
    if options.size < 1000:
        parser.error("--size must be at least 1000")
    if unknown := ", ".join(sorted(set(options.name) - set(MEASUREMENTS))):
        parser.error(f"unknown measurement: {unknown}; known are {', '.join(MEASUREMENTS)}")
    return options


if __name__ == "__main__":
    parsed()
