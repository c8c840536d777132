"""The token endpoint with one and with two workers, against a bare handler in one process.

The load is that of `tokens`. Load generator, MongoDB and RabbitMQ share the cores with the service, so two workers do
not reach twice the rate on two cores; CPU is the service's, parent and workers together.
"""

import asyncio

from bench.report import Figures, Report, Target
from bench.testbed import TOKEN, Testbed, token_request
from libs.demo_credentials import CLIENT_ID, CLIENT_SECRET

CONNECTIONS = 128
OF_BARE = 0.22
"""Fraction of the bare handler's rate that two workers reach on two cores."""
EVEN = 0.35
"""Smallest share of a worker: 128 connections over two workers, by chance, with a wide margin."""


def measure(testbed: Testbed) -> Report:
    """Run the bare handler, one process, and two workers in turn. Raises MeasurementFailed."""
    system = asyncio.run(testbed.new_system())
    alone, two = system.program("token"), system.program("token", workers=2)
    request = token_request(CLIENT_ID, CLIENT_SECRET)
    bare, one, both = Figures(), Figures(), Figures()
    for _ in range(testbed.rounds):
        bare.rounds.append(testbed.run_bare(CONNECTIONS))
        one.rounds.append(testbed.run_load(alone, request, TOKEN, CONNECTIONS))
        both.rounds.append(testbed.run_load(two, request, TOKEN, CONNECTIONS))
    report = Report("Token endpoint with workers, client_credentials")
    report.heading(f"{CONNECTIONS} connections")
    report.row("bare", bare, bare)
    report.row("one process", one, bare)
    report.row("two workers", both, bare)
    shares = [both.median(f"share {worker}") for worker in (1, 2)]
    report.lines.append(f"  shares of the workers: {', '.join(f'{share:.0%}' for share in shares)}")
    smallest = min(min(figures["share 1"], figures["share 2"]) for figures in both.rounds)
    report.targets.append(Target("two workers, fraction of the bare handler", both.ratio(bare), OF_BARE))
    report.targets.append(Target("two workers, multiple of one process", both.ratio(one), 1.0))
    report.targets.append(Target("smallest share of a worker in a round", smallest, EVEN))
    return report
