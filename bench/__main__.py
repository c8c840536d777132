"""`make bench`: every measurement, or those that are named (`make bench B=webhooks`), each against a bare handler."""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import arrival, check, tokens, webhooks
from bench.ground import Ground
from bench.report import Report, Wrong
from libs import logging
from tests.provision import CannotProvide, mongodb, rabbitmq

MEASUREMENTS: dict[str, Callable[[Ground], Report]] = {
    "tokens": tokens.measure,
    "webhooks": webhooks.measure,
    "arrival": arrival.measure,
    "check": check.measure,
}


def _measured(names: Sequence[str], rounds: int, seconds: float) -> list[Report]:
    with ExitStack() as provided:
        database = asyncio.run(mongodb.provide())
        provided.callback(lambda: asyncio.run(database.close()))
        broker = rabbitmq.provide(as_deployed=True)
        provided.callback(broker.close)
        home = provided.enter_context(tempfile.TemporaryDirectory(prefix="tokenwire-bench-"))
        ground = Ground(database.url, broker, Path(home), rounds, seconds)
        reports = []
        for name in names:
            ground.say(f"{name}:")
            reports.append(MEASUREMENTS[name](ground))
        return reports


def main() -> None:
    """Measure, print, and exit with 1 where a target was missed or an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"{', '.join(MEASUREMENTS)}; none: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="that each server is under load in a round")
    arguments = parser.parse_args()
    if unknown := ", ".join(set(arguments.name) - MEASUREMENTS.keys()):
        parser.error(f"{unknown} is not measured; {', '.join(MEASUREMENTS)} are")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.configure("warning", json=False, service="bench")
    began = time.monotonic()
    try:
        reports = _measured(arguments.name or list(MEASUREMENTS), arguments.rounds, arguments.seconds)
    except (CannotProvide, Wrong) as reason:
        sys.exit(f"bench: {reason}")
    print("\n".join(map(str, reports)))
    missed = sum(not target.reached for report in reports for target in report.targets)
    print(f"\n{missed or 'no'} target{'' if missed == 1 else 's'} missed, {time.monotonic() - began:.0f} s")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
