"""The kill matrix as a table."""

from collections.abc import Sequence
from datetime import UTC, datetime

from tests.faults.points import POINTS
from tests.faults.rows import Result

COLUMNS = ("row", "tokens", "events", "webhooks", "lost", "phantom", "doubled", "duplicates", "asked again", "s")
WIDTHS = (26, 7, 7, 8, 5, 7, 7, 11, 11, 5)


def heading() -> str:
    """The line above the first row."""
    return _aligned(COLUMNS)


def line(result: Result) -> str:
    """A row as it is printed."""
    return _aligned(_cells(result))


def total(results: Sequence[Result]) -> str:
    """The sums."""
    return _aligned(_sums(results))


def _cells(result: Result) -> tuple[str, ...]:
    verdict = result.verdict
    return (
        result.row.name,
        str(verdict.tokens),
        "–" if verdict.events is None else str(verdict.events),
        str(verdict.webhooks),
        str(len(verdict.lost)),
        str(len(verdict.phantom)),
        str(len(verdict.doubled)),
        f"{verdict.duplicate_events} + {verdict.duplicate_webhooks}",
        str(result.failed),
        f"{result.seconds:.0f}",
    )


def _sums(results: Sequence[Result]) -> tuple[str, ...]:
    verdicts = [result.verdict for result in results]
    duplicates = sum(each.duplicate_events for each in verdicts), sum(each.duplicate_webhooks for each in verdicts)
    return (
        "all",
        str(sum(each.tokens for each in verdicts)),
        str(sum(each.events or 0 for each in verdicts)),
        str(sum(each.webhooks for each in verdicts)),
        str(sum(len(each.lost) for each in verdicts)),
        str(sum(len(each.phantom) for each in verdicts)),
        str(sum(len(each.doubled) for each in verdicts)),
        "{} + {}".format(*duplicates),
        str(sum(result.failed for result in results)),
        f"{sum(result.seconds for result in results):.0f}",
    )


def _aligned(cells: Sequence[str]) -> str:
    first, *rest = zip(cells, WIDTHS, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])


NOT_APPLICABLE = {
    "13, hint not published": "there are no retry hints: MongoDB alone says when a delivery is due, so a recorded "
    "failure is all there is to die after (`failure-recorded`)",
    "14": "for the same reason there are never two hints of one delivery",
    "15": "a subscriber's own inbox is the subscriber's; the system's own consumers are in `revocation reacted`",
}


def document(results: Sequence[Result], complaints: Sequence[str], seed: str, seconds: float) -> str:
    """docs/faults.md."""
    return "\n".join(
        [
            "# The kill matrix",
            "",
            INTRODUCTION.strip(),
            "",
            "## The latest run",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, `make faults SEED={seed}`, {seconds / 60:.0f} minutes on two cores.",
            "",
            _table([COLUMNS, *map(_cells, results), _sums(results)]),
            "",
            *(["Complaints:", "", *(f"- {each}" for each in complaints), ""] if complaints else ["No complaints.", ""]),
            "## The rows",
            "",
            _table([("row", "what is done"), *((result.row.name, result.row.what) for result in results)]),
            "",
            "## The crash points",
            "",
            POINTS_INTRODUCTION.strip(),
            "",
            _table(
                [
                    ("point", "label", "the process dies"),
                    *((point.numbers, f"`{label}`", point.what) for label, point in POINTS.items()),
                    ("8", "row `rabbitmq wiped`", "(RabbitMQ's disk is lost after the event was cleared)"),
                    ("16", "rows `mongod killed`, `step-down`, `primary killed`", "(MongoDB has no primary)"),
                    ("17", "rows `rabbitmq killed`, `away`, `frozen`", "(RabbitMQ is away)"),
                ]
            ),
            "",
            "What does not apply:",
            "",
            *(f"- {number}: {why}." for number, why in NOT_APPLICABLE.items()),
            "",
        ]
    )


INTRODUCTION = """
`make faults` runs the system in separate processes behind the edge — two token services, two notifiers, one of each
other — on a RabbitMQ and a MongoDB of its own, and kills it, row by row, while clients ask for tokens by code, password
and client credentials, refresh them in chains and revoke them. A client that gets no answer, or a 5xx, asks again with
the same code, the same refresh token. `make test` runs short versions of every row.

Nothing in the services knows of it: `tests/faults/armed.py` starts a service with one of its methods wrapped, which
sends SIGKILL to its own process at the nth passage. The seed draws n and what each client does; `make faults SEED=…`
draws the same again. So that a row takes seconds, processes are forked from one that has imported the services, a
notifier's lease lasts two seconds beyond an attempt's time-out of two, and its ladder begins with half a second.

Who judges is outside: a receiver that keeps every webhook, a subscriber with a durable queue of its own on
`tokenwire.events`, and the clients that hold the tokens. MongoDB is asked one thing: which grants there are, since a
token that was committed and whose response was lost is no phantom. A row is judged when all that is due has come, and
again after the last row.

- **tokens**: issued, that is in a response, or committed with the response lost.
- **lost**: a token without its event, or by code or password without its webhook; a number missing in the sequence of a
  grant; a webhook that arrived and is not told as `notification.delivered`; a grant that `revoke_all` did not end.
- **phantom**: an event or a webhook of a token that was not issued, a webhook with other values than the holder's, a
  redirect that was followed.
- **doubled**: two ids for one fact or one token, two tokens of one generation, two tokens of one grant that open the
  API.
- **duplicates**: the same id again, events + webhooks. They are promised to be recognisable, not to be absent.
- **asked again**: requests that got no answer or a 5xx. In the rows of RabbitMQ, of the receivers and of the rolling
  restart there must be none. Nobody whose requests were all answered may be refused, in any row.
"""
POINTS_INTRODUCTION = """
1 to 8 are the way of an event from its write to its clearing, 9 and 10 its way into a delivery, 11 to 14 the delivery's
way to its endpoint, 15 what other consumers do, 16 and 17 what happens without MongoDB and without RabbitMQ.
"""


def _table(rows: Sequence[Sequence[str]]) -> str:
    first, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (first, ["---"] * len(first), *rest))
