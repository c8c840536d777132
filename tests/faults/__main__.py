"""`make faults` and `make faults-compose`: run every row of the kill matrix and write the report."""

import argparse
import asyncio
import logging
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import report
from tests.faults.container_rows import CONTAINER_ROWS
from tests.faults.container_rows import FULL as CONTAINER_SCALE
from tests.faults.containers import container_world
from tests.faults.rows import ANSWERS_LATE, ELECTIONS, FULL, ROWS, SHORT, Played, Result, Row, Scale, play
from tests.faults.stack import USUAL
from tests.faults.world import Watched, world
from tests.provision import CannotProvide

FEWEST = 10_000
"""A run with fewer tokens than this over all rows proves nothing, and fails."""
LONGEST = 18 * 60.0
"""Start no further row after this many seconds, so that a run ends within twenty minutes even if much fails."""
SETTLED_WITHIN = 120.0
"""Seconds that what is still missing after the last row has to arrive."""
LATE = 13.0
"""Seconds after the last row in which late duplicates could still come: one sweep plus the lease of its leader."""


@dataclass
class Run:
    """The results of all rows."""

    ends_at: float
    """time.monotonic() after which no row is started."""
    results: list[Result] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    """Rows that could not be run, and why."""
    unbalanced: list[str] = field(default_factory=list)
    """What the system's own reconciliation reports for the time of each row."""

    @property
    def complaints(self) -> list[str]:
        """Every violation of a guarantee."""
        found = [f"{result.row.name}: {each}" for result in self.results for each in result.complaints]
        return found + self.undone + self.unbalanced

    @property
    def tokens(self) -> int:
        """Tokens issued in all rows."""
        return sum(result.verdict.tokens for result in self.results)


async def _play(
    run: Run, rows: Sequence[Row], scale: Scale, seed: str, opened: AbstractAsyncContextManager[Watched]
) -> None:
    if not rows:
        return
    async with opened as where:
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
                result = await played[-1].judged()
                say("\n".join([report.line(result), *(f"  noted: {each}" for each in result.remarks)]))
        await asyncio.sleep(LATE)
        settled_at = time.monotonic() + SETTLED_WITHIN
        for each in played:
            await each.settled(settled_at - time.monotonic())
            run.results.append(await each.judged())
            run.unbalanced += [f"{each.row.name}: {complaint}" for complaint in await each.unbalanced()]


async def _run(rows: Sequence[Row], scale: Scale, seed: str) -> Run:
    run = Run(time.monotonic() + LONGEST)
    special = {*ELECTIONS, *ANSWERS_LATE}
    await _play(run, [row for row in rows if row not in special], scale, seed, world(USUAL))
    await _play(run, [row for row in rows if row in ELECTIONS], scale, seed, world(USUAL, replica_set=True))
    await _play(run, [row for row in rows if row in ANSWERS_LATE], scale, seed, world(USUAL, slow=True))
    return run


async def _run_containers(rows: Sequence[Row], scale: Scale, seed: str) -> Run:
    run = Run(time.monotonic() + LONGEST)
    await _play(run, rows, scale, seed, container_world())
    return run


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the rows; exit with 1 if any guarantee was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of an earlier run, to draw the same again")
    parser.add_argument("--row", action="append", help="only rows whose name has this; may be repeated")
    parser.add_argument("--short", action="store_true", help="as in `make test`")
    parser.add_argument("--containers", action="store_true", help="break the containers of compose.yaml instead")
    parser.add_argument("--report", type=Path, help="write the report to this file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ends gracefully, as Ctrl-C does
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # the rows break the recorder's connection on purpose
    logging.getLogger("aio_pika").setLevel(logging.CRITICAL)
    rows, scale = (CONTAINER_ROWS, CONTAINER_SCALE) if arguments.containers else (ROWS, FULL)
    wanted = [row for row in rows if not arguments.row or any(part in row.name for part in arguments.row)]
    began = time.monotonic()
    say(f"seed {arguments.seed}\n{report.heading()}")
    try:
        playing = _run_containers if arguments.containers else _run
        run = asyncio.run(playing(wanted, SHORT if arguments.short else scale, arguments.seed))
    except CannotProvide as reason:
        sys.exit(str(reason))
    if wanted == list(ROWS) and not arguments.short and run.tokens < FEWEST:
        run.undone.append(f"{run.tokens} tokens are too few: {FEWEST} at least")
    say(f"{report.total(run.results)}\nseed {arguments.seed}, judged again after the last row")
    if arguments.report:
        seconds = time.monotonic() - began
        write = report.document_of_containers if arguments.containers else report.document
        old = arguments.report.read_text() if arguments.report.exists() else ""
        arguments.report.write_text(write(old, run.results, run.complaints, arguments.seed, seconds))
    say("\n".join(run.complaints) or "nothing lost, nothing made up, nothing doubled")
    sys.exit(bool(run.complaints))


if __name__ == "__main__":
    main()
