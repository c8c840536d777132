"""`make fuzz`: rounds of new examples, until the time is over or a failure is found."""

import argparse
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from libs.processes import end, ending_with_this_process
from tests.acceptance.programs import ROOT
from tests.fuzz.extent import TIMES

TIMES_AS_MANY = 5
"""Examples in a round as a multiple of those in `make test`; a round takes a few minutes."""
LONGEST_TEST = 1800
"""Seconds after which a test counts as hanging."""
END_WITHIN = 60.0
"""Seconds for a graceful stop of what a round has started."""


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _command(seed: int) -> list[str]:
    files = [str(path.relative_to(ROOT)) for path in sorted(Path(__file__).parent.glob("test_*.py"))]
    random.Random(seed).shuffle(files)  # so that a short run does not always test the same files
    pytest = [sys.executable, "-m", "pytest", "-q", "--exitfirst", "-p", "no:cacheprovider"]
    return [*pytest, f"--timeout={LONGEST_TEST}", f"--hypothesis-seed={seed}", *files]


def _round(seed: int, seconds: float | None) -> int | None:
    """The exit status of pytest; None if the time was over before a failure was found."""
    process = subprocess.Popen(
        ending_with_this_process(_command(seed), ending=signal.SIGTERM),
        cwd=ROOT,
        env={**os.environ, TIMES: str(TIMES_AS_MANY)},
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process, within=END_WITHIN)


def main() -> None:
    """Exit with 0 if nothing was found, else with 1 and how to reproduce it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long to look for")
    parser.add_argument("--seed", type=int, help="of an earlier round, to play that one alone, to its end")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ends gracefully, as Ctrl-C does
    deadline, rounds = time.monotonic() + 60 * arguments.minutes, 0
    while rounds == 0 or (arguments.seed is None and time.monotonic() < deadline):
        seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
        say(f"seed {seed}")
        status = _round(seed, None if arguments.seed is not None else max(1.0, deadline - time.monotonic()))
        rounds += 1
        if status:
            say(f"found with seed {seed}, which finds it again: make fuzz SEED={seed}" if status == 1 else "not done")
            sys.exit(status)
    say(f"nothing found in {rounds} round{'' if rounds == 1 else 's'}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
