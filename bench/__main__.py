"""`make bench` runs all benchmarks, `make bench B=webhooks` only the named ones, each against a bare handler."""

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import abuse, arrival, check, console, edge, growth, options, publish, refresh, tokens, webhooks, workers
from bench.report import MeasurementFailed, Report
from bench.testbed import Testbed
from libs import logging
from tests.provision import CannotProvide, mongodb, rabbitmq

MEASUREMENTS: dict[str, Callable[[Testbed], Report]] = {
    "tokens": tokens.measure,
    "refresh": refresh.measure,
    "webhooks": webhooks.measure,
    "arrival": arrival.measure,
    "check": check.measure,
    "edge": edge.measure,
    "growth": growth.measure,
    "console": console.measure,
    "publish": publish.measure,
    "abuse": abuse.measure,
    "workers": workers.measure,
}


def _measured(names: Sequence[str], rounds: int, seconds: float, size: int) -> list[Report]:
    with ExitStack() as provided:
        database = asyncio.run(mongodb.provide())
        provided.callback(lambda: asyncio.run(database.close()))
        broker = rabbitmq.provide(as_deployed=True)
        provided.callback(broker.close)
        home = provided.enter_context(tempfile.TemporaryDirectory(prefix="tokenwire-bench-"))
        testbed = Testbed(database.url, broker, Path(home), rounds, seconds, size)
        reports = []
        for name in names:
            testbed.print_progress(f"{name}:")
            reports.append(MEASUREMENTS[name](testbed))
        return reports


def main() -> None:
    """Run the benchmarks and print the reports. Exit with 1 if a target was missed or a response was wrong."""
    arguments = options.parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.configure("warning", json=False, service="bench")
    began = time.monotonic()
    try:
        reports = _measured(
            arguments.name or [name for name in MEASUREMENTS if name not in options.BY_NAME],
            arguments.rounds,
            arguments.seconds,
            arguments.size,
        )
    except (CannotProvide, MeasurementFailed) as reason:
        sys.exit(f"bench: {reason}")
    print("\n".join(map(str, reports)))
    missed = sum(not target.reached for report in reports for target in report.targets)
    print(f"\n{missed or 'no'} target{'' if missed == 1 else 's'} missed, {time.monotonic() - began:.0f} s")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
