"""Formats the results of the kill matrix."""

from collections.abc import Sequence
from datetime import UTC, datetime

from tests.faults.points import POINTS
from tests.faults.rows import Result

COLUMNS = ("row", "tokens", "events", "webhooks", "lost", "phantom", "doubled", "duplicates", "retried", "s")
WIDTHS = (28, 7, 7, 8, 5, 7, 7, 11, 11, 5)


def heading() -> str:
    """The header line."""
    return _aligned(COLUMNS)


def line(result: Result) -> str:
    """The line of one row."""
    return _aligned(_cells(result))


def total(results: Sequence[Result]) -> str:
    """The line with the sums."""
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
    "13, hint not published": "there are no retry hints: a delivery's due time is only in MongoDB, so the one point to "
    "die at is after a recorded failure (`failure-recorded`)",
    "14": "for the same reason a delivery cannot have two hints",
    "15": "a subscriber's inbox is its own; the system's consumers are in `revocation reacted`",
}


CONTAINERS = "## Containers"
"""The heading of the last section, which `make faults-compose` writes."""


def document(old: str, results: Sequence[Result], complaints: Sequence[str], seed: str, seconds: float) -> str:
    """docs/faults.md after `make faults`."""
    return _processes(results, complaints, f"make faults SEED={seed}", seconds) + CONTAINERS + _parts(old)[1]


def document_of_containers(
    old: str, results: Sequence[Result], complaints: Sequence[str], seed: str, seconds: float
) -> str:
    """docs/faults.md after `make faults-compose`."""
    command = f"make faults-compose SEED={seed}"
    section = ["", "", CONTAINERS_INTRODUCTION.strip(), "", *_run("###", results, complaints, command, seconds)]
    return _parts(old)[0] + CONTAINERS + "\n".join(section)


def _parts(document: str) -> tuple[str, str]:
    processes, _, containers = document.partition(CONTAINERS)
    return processes, containers or "\n"


def _run(
    level: str, results: Sequence[Result], complaints: Sequence[str], command: str, seconds: float
) -> Sequence[str]:
    """The tables of a run, under headings of this level."""
    return [
        f"{level} The latest run",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, `{command}`, {seconds / 60:.0f} minutes on two cores.",
        "",
        _table([COLUMNS, *map(_cells, results), _sums(results)]),
        "",
        *(["Complaints:", "", *(f"- {each}" for each in complaints), ""] if complaints else ["No complaints.", ""]),
        f"{level} The rows",
        "",
        _table([("row", "what is done"), *((result.row.name, result.row.what) for result in results)]),
        "",
    ]


def _processes(results: Sequence[Result], complaints: Sequence[str], command: str, seconds: float) -> str:
    return "\n".join(
        [
            "# The kill matrix",
            "",
            INTRODUCTION.strip(),
            "",
            *_run("##", results, complaints, command, seconds),
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
            "",
        ]
    )


INTRODUCTION = """
`make faults` runs the system in separate processes behind the edge — two token services, two notifiers, and one of each
other service — with its own RabbitMQ and MongoDB. It injects one fault after another, while clients obtain tokens by
code, password and client credentials, refresh them in chains and revoke them. A client that gets no response, or a 5xx,
repeats the request with the same code or refresh token. `make test` runs short versions of every row.

The services contain no code for this. `tests/faults/armed.py` starts a service with one of its methods wrapped; the
wrapper sends SIGKILL to its own process at the nth call. The seed determines n and what each client does;
`make faults SEED=…` repeats a run. To keep rows short, processes are forked from one that has imported the services, a
notifier's lease lasts two seconds longer than its request time-out of two seconds, and its retry schedule begins with
half a second.

The judges are outside the system: a receiver that keeps every webhook, a subscriber with its own durable queue on
`tokenwire.events`, and the clients that hold the tokens. MongoDB is asked only which grants exist, because a token that
was committed and whose response was lost is not a phantom. A row is judged when everything due has arrived, and again
after the last row.

- **tokens**: issued, that is, received in a response, or committed with the response lost.
- **lost**: a token without its event, or a token by code or password without its webhook; a gap in a grant's sequence;
  a webhook that arrived without a `notification.delivered` event; a grant that `revoke_all` did not revoke.
- **phantom**: an event or a webhook of a token that was not issued, a webhook with values other than the client's, or a
  redirect that was followed.
- **doubled**: two ids for one fact or one token, two token pairs of one generation, or two tokens of one grant that are
  accepted at the same time.
- **duplicates**: the same id again, as events + webhooks. Duplicates are allowed, since receivers can recognise them;
  but in rows that do not kill RabbitMQ there may be at most one for every twenty distinct events.
- rows **subscriber full**, **subscriber silent** and **event log away**: the load first runs without a fault, then with
  one queue in trouble. All other consumers must get events and webhooks within twice the earlier time (p99) or within a
  second, and reconciliation must report the refused events. Ten minutes are shortened to ten seconds, and the event
  log's limit of a million events to twenty. When the full queue of a subscriber is deleted, the events it refused are
  published again, so the others get them twice. These duplicates are in the table, and are the one exception to the
  limit of one in twenty.
- rows **compliant clients**: clients follow the protocol exactly. After a 503 they wait for `Retry-After` and repeat
  the same request; after a dropped connection they repeat it at once: for codes, refresh tokens, revocation and
  registration. Any refusal is a complaint. So are a grant that is revoked as if its token was stolen, a registration
  that is lost or made twice, and a grant that survives a replay of its code after the response was sent.
- **retried**: requests without a response or with a 5xx. In the rows with faults of RabbitMQ or the receivers and
  in the rolling restart there must be none. A client whose requests all got a response must not be refused, in any row.
"""
CONTAINERS_INTRODUCTION = """
`make faults-compose` does the same to the containers of `compose.yaml`, which is used as it is: two containers each of
token, notifier and gateway, one of every other service, of the edge, of MongoDB and of RabbitMQ. The clients, the
judges and the columns are those above. Added are only fixed addresses for the judges, disks of 1 and 1.5 GB in memory,
webhooks to this machine with a time-out of two seconds, and further instances of services for the row with wrong
clocks. `make test-compose` runs some of the rows.

- A container is disconnected from all its networks at once. Services come back with other addresses.
- Out of memory: a process in the container allocates memory until the container's limit is reached. The kernel kills
  the service, and the engine starts it again.
- In the rows **scaled**, **rolled**, **edges rolled** and **clocks skewed**, and in all rows of RabbitMQ, no request
  may fail. In **scaled**, every instance must do at least half of its equal share, by its own metrics.
- With two edges, a client whose connection is refused tries the other one. A single edge that is killed, stopped or cut
  off is an outage for its clients, who repeat their requests; so is MongoDB, of which there is one.
- A service with a wrong clock must notice that and use MongoDB's.
- MongoDB's disk is filled to the last byte, and MongoDB dies; the engine starts it again. RabbitMQ stops publishers
  when less than 1 GB is free, and that is the fault here. What happens to events that it refuses because its disk is
  full to the last byte is tested in `tests/conformance/test_refusals.py` ([ADR 20](adr/0020-refused-events.md)).
"""
POINTS_INTRODUCTION = """
Points 1 to 8 follow an event from its write to its clearing, 9 and 10 into a delivery, 11 to 14 the delivery to its
endpoint. 15 is what other consumers do, 16 and 17 are failures of MongoDB and RabbitMQ.
"""


def _table(rows: Sequence[Sequence[str]]) -> str:
    first, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (first, ["---"] * len(first), *rest))
