"""A protected call through the edge, with and without limits, against a bare handler: forwarded by nginx on new or on
kept connections to the upstream, and by the built-in proxy.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import uvloop

from bench.check import issued
from bench.report import Figures, Report, Target, required
from bench.testbed import TOKEN, Program, Running, System, Testbed
from services.demo_data import API_ID, POLICY_ID
from tests.deployment.edge import Edge

CONNECTIONS = 32
WITHOUT_LIMITS, WITH_LIMITS = 0.36, 0.34
WAYS = ("built-in", "edge", "edge, kept")


def measure(testbed: Testbed) -> Report:
    """Measure all ways in turns. Raises MeasurementFailed if a response is not the expected one."""
    system = asyncio.run(testbed.new_system())
    token = uvloop.run(issued(testbed, system, 1))[0]
    report = Report("Protected call through the edge")
    with _stack(testbed, system) as ways:
        for limited, least in ((False, WITHOUT_LIMITS), (True, WITH_LIMITS)):
            asyncio.run(_limit(system, limited=limited))
            results = {name: Figures() for name in ("bare", *ways)}
            for _ in range(testbed.rounds):
                results["bare"].rounds.append(testbed.run_bare(CONNECTIONS))
                for name, run in ways.items():
                    results[name].rounds.append(run(token))
            report.heading(f"{CONNECTIONS} connections, {'rate and quota' if limited else 'no limits'}")
            for name, figures in results.items():
                report.row(name, figures, results["bare"])
            kept = results["edge, kept"].ratio(results["edge"])
            report.lines.append(f"  kept connections to the upstream, against new ones: {kept:.2f}")
            what = f"{'rate and quota' if limited else 'no limits'}, fraction of the bare handler"
            report.targets.append(Target(what, results["edge"].ratio(results["bare"]), least))
    return report


@contextmanager
def _stack(testbed: Testbed, system: System) -> Iterator[Mapping[str, Callable[[str], dict[str, float]]]]:
    """A gateway, an upstream, and an edge for each way: functions that run the load with a token."""
    with ExitStack() as running:
        upstream = running.enter_context(testbed.serving(Program("upstream", ["bench.servers", "bare"])))
        asyncio.run(_lead_to(system, upstream.port))
        own = {"trusted_proxies": "127.0.0.0/8", "access_log_sample": 0}
        ways = {}
        for name in WAYS:
            forwards = name != "built-in"
            program = system.program("gateway", **own, edge_forwards=True)
            gateway = running.enter_context(testbed.serving(program))
            kept = f"127.0.0.1:{upstream.port}" if name == "edge, kept" else ""
            edge = running.enter_context(Edge({"gateway": [gateway.port]}, kept=kept, forwards=forwards))
            ways[name] = _load(testbed, name, Running(edge.pid, edge.port), gateway, upstream)
        yield ways


def _load(
    testbed: Testbed, name: str, edge: Running, gateway: Running, upstream: Running
) -> Callable[[str], dict[str, float]]:
    def run(token: str) -> dict[str, float]:
        lines = ("GET /demo-api/orders/17 HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}", "", "")
        request = "\r\n".join(lines).encode()
        return testbed.load_running(
            Program(name, []), [edge, gateway, upstream], edge.port, request, TOKEN, CONNECTIONS
        )

    return run


async def _lead_to(system: System, port: int) -> None:
    async with system.opened() as deps:
        before = required(await deps.store.apis.get(API_ID))
        after = before.model_copy(update={"upstream_url": f"http://127.0.0.1:{port}"})
        required(await deps.store.apis.replace(before, after, deps.event_context("bench")))


async def _limit(system: System, *, limited: bool) -> None:
    """Give the policy limits that the load does not reach, or none."""
    limits = {"rate": 10**9, "per": 60, "quota_max": 10**12} if limited else {"rate": 0, "quota_max": 0}
    async with system.opened() as deps:
        policy = required(await deps.store.policies.get(POLICY_ID))
        changed = policy.model_copy(update=limits)
        required(await deps.store.policies.replace(policy, changed, deps.event_context("bench")))
