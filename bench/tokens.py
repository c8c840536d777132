"""The token endpoint against a bare handler and a naive implementation.

The load is client_credentials on one process, with majority writes to MongoDB, one published and confirmed event per
token, and the access log on. In both implementations one durable quorum queue receives the events; Tokenwire's is the
queue of the event recorder.
"""

import asyncio
import time
from collections.abc import Mapping

from bench.report import Figures, MeasurementFailed, Report, Target
from bench.servers import SECRET as NAIVE_SECRET
from bench.testbed import TOKEN, Program, System, Testbed, token_request
from libs.demo_credentials import CLIENT_ID, CLIENT_SECRET

CONNECTIONS = (32, 128)
TARGETS = {32: 0.07, 128: 0.13}
"""Fraction of the bare handler's rate, by number of connections."""
OVER_NAIVE = 2.0
NAMES = ("bare", "tokenwire", "naive")


def measure(testbed: Testbed) -> Report:
    """Run the three servers in turn. Raises MeasurementFailed if an event is never published."""
    system = asyncio.run(testbed.new_system())
    ours = system.program("token")
    naive = Program("naive", ["bench.servers", "naive", *_servers(system.values)])
    results = {(name, number): Figures() for name in NAMES for number in CONNECTIONS}
    for _ in range(testbed.rounds):
        for number in CONNECTIONS:
            request = token_request(CLIENT_ID, CLIENT_SECRET)
            results["bare", number].rounds.append(testbed.run_bare(number))
            results["tokenwire", number].rounds.append(testbed.run_load(ours, request, TOKEN, number))
            request = token_request(CLIENT_ID, NAIVE_SECRET)
            results["naive", number].rounds.append(testbed.run_load(naive, request, '{"access_token": "tw_at_', number))
    if left := asyncio.run(_unpublished(system)):
        raise MeasurementFailed(f"{left} events were still unpublished a minute after the load")
    return _report(results)


def _report(results: Mapping[tuple[str, int], Figures]) -> Report:
    report = Report("Token endpoint, client_credentials")
    for number in CONNECTIONS:
        bare, ours, naive = (results[name, number] for name in NAMES)
        report.heading(f"{number} connections")
        for name in NAMES:
            report.row(name, results[name, number], bare)
        report.targets.append(
            Target(f"{number} connections, fraction of the bare handler", ours.ratio(bare), TARGETS[number])
        )
        report.targets.append(
            Target(f"{number} connections, multiple of the naive server", ours.ratio(naive), OVER_NAIVE)
        )
    return report


def _servers(values: Mapping[str, str]) -> list[str]:
    return ["--mongodb", values["mongodb_url"], "--amqp", values["amqp_url"]]


async def _unpublished(system: System) -> int:
    async with system.opened() as deps:
        deadline = time.monotonic() + 60
        # The service does not report when it has published the last event, so poll.
        while (left := (await deps.store.grants.backlog())[0]) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        return left
