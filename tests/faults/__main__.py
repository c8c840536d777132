"""`make faults`: every row of the kill matrix, and the report."""

import argparse
import asyncio
import logging
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import report
from tests.faults.rows import ELECTIONS, FULL, ROWS, SHORT, Played, Result, Row, Scale, play
from tests.faults.stack import USUAL
from tests.faults.world import world
from tests.provision import CannotProvide

FEWEST = 10_000
"""Tokens of all rows together that prove anything."""
LONGEST = 18 * 60.0
"""Seconds after which no further row is begun: all is over within twenty minutes, also where much is wrong."""
LATE = 8.0
"""Seconds after the last row in which something may still come that should not: a sweep, and the lease of its lead."""


@dataclass
class Run:
    """What came of the rows."""

    ends_at: float
    """time.monotonic() after which none is begun."""
    results: list[Result] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    """Rows that could not be done, with the reason."""
    unbalanced: list[str] = field(default_factory=list)
    """What the balance sheet of the system says of the time of a row."""

    @property
    def complaints(self) -> list[str]:
        """Whatever differs from what is promised."""
        found = [f"{result.row.name}: {each}" for result in self.results for each in result.complaints]
        return found + self.undone + self.unbalanced

    @property
    def tokens(self) -> int:
        """Issued in all rows."""
        return sum(result.verdict.tokens for result in self.results)


async def _play(run: Run, rows: Sequence[Row], scale: Scale, seed: str, *, replica_set: bool) -> None:
    if not rows:
        return
    async with world(USUAL, replica_set=replica_set) as where:
        played: list[Played] = []
        for row in rows:
            try:
                if time.monotonic() > run.ends_at:
                    raise AssertionError("the time is over")
                played.append(await play(where, row, scale, seed))
            except (AssertionError, RuntimeError, OSError) as reason:  # TimeoutError is an OSError
                run.undone.append(f"{row.name}: not done: {reason or type(reason).__name__}")
                say(run.undone[-1])
            else:
                say(report.line(await played[-1].judged()))
        await asyncio.sleep(LATE)
        for each in played:
            run.results.append(await each.judged())
            run.unbalanced += [f"{each.row.name}: {complaint}" for complaint in await each.unbalanced()]


async def _run(rows: Sequence[Row], scale: Scale, seed: str) -> Run:
    run = Run(time.monotonic() + LONGEST)
    await _play(run, [row for row in rows if row not in ELECTIONS], scale, seed, replica_set=False)
    await _play(run, [row for row in rows if row in ELECTIONS], scale, seed, replica_set=True)
    return run


def say(text: str) -> None:
    """Print, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Exits with 1 where anything differs from what is promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of an earlier run, to draw the same again")
    parser.add_argument("--row", action="append", help="only rows whose name has this; may be repeated")
    parser.add_argument("--short", action="store_true", help="as in `make test`")
    parser.add_argument("--report", type=Path, help="write the report to this file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ends in order, as Ctrl-C does
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # the recorder's connection is lost on purpose
    logging.getLogger("aio_pika").setLevel(logging.CRITICAL)
    wanted = [row for row in ROWS if not arguments.row or any(part in row.name for part in arguments.row)]
    began = time.monotonic()
    say(f"seed {arguments.seed}\n{report.heading()}")
    try:
        run = asyncio.run(_run(wanted, SHORT if arguments.short else FULL, arguments.seed))
    except CannotProvide as reason:
        sys.exit(str(reason))
    if wanted == list(ROWS) and not arguments.short and run.tokens < FEWEST:
        run.undone.append(f"{run.tokens} tokens are too few: {FEWEST} at least")
    say(f"{report.total(run.results)}\nseed {arguments.seed}, judged again after the last row")
    if arguments.report:
        seconds = time.monotonic() - began
        arguments.report.write_text(report.document(run.results, run.complaints, arguments.seed, seconds))
    say("\n".join(run.complaints) or "nothing lost, nothing made up, nothing doubled")
    sys.exit(bool(run.complaints))


if __name__ == "__main__":
    main()
