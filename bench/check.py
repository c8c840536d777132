"""The token check: `/verify` on a cache hit, with policy, rate limit and quota, against a bare handler; the memory for
each cached token; and the delay from the response to a revocation until every gateway refuses the token.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
import uvloop

from bench.report import Figures, MeasurementFailed, Report, Target, quantiles, required
from bench.testbed import Running, System, Testbed, token_request
from bench.wire import HttpConnection
from contracts.policies import AllowedUrl
from libs.demo_credentials import CLIENT_ID, CLIENT_SECRET
from services.demo_data import API_ID, POLICY_ID

CONNECTIONS = (32, 128)
OF_BARE = 0.40
KEPT = 20_000
"""Tokens that the gateway keeps while its memory is measured."""
KIB = 1024
REVOCATIONS = 200
REFUSED_WITHIN_MS = 50.0
GIVEN_UP_AFTER = 1.0
OK = b'{"status":"ok"}'


def measure(testbed: Testbed) -> Report:
    """Measure all three. Raises MeasurementFailed if a response is not the expected one."""
    system = asyncio.run(_system(testbed))
    token = uvloop.run(issued(testbed, system, 1))[0]
    results = {(name, number): Figures() for name in ("bare", "verify") for number in CONNECTIONS}
    for _ in range(testbed.rounds):
        for number in CONNECTIONS:
            results["bare", number].rounds.append(testbed.run_bare(number))
            loaded = testbed.run_load(system.program("gateway"), _verification(token), OK.decode(), number)
            results["verify", number].rounds.append(loaded)
    report = Report("Token check: /verify on a hit, policy, rate and quota applied")
    for number in CONNECTIONS:
        bare, ours = (results[name, number] for name in ("bare", "verify"))
        report.heading(f"{number} connections")
        report.row("bare", bare, bare)
        report.row("verify", ours, bare)
        report.targets.append(Target(f"{number} connections, fraction of the bare handler", ours.ratio(bare), OF_BARE))
    report.targets.append(Target("bytes of memory per token", uvloop.run(_memory(testbed, system)), KIB, at_most=True))
    late = uvloop.run(_refusals(testbed, system))
    report.heading("revoked → refused by two gateways, ms", ("p50", "p99", "", "", ""))
    report.lines.append(f"  {late['p50']:.1f} {late['p99']:.1f}")
    report.targets.append(Target("revoked → refused, p99 ms", late["p99"], REFUSED_WITHIN_MS, at_most=True))
    return report


async def _system(testbed: Testbed) -> System:
    """A system whose policy has limits that the load does not reach."""
    system = await testbed.new_system()
    async with system.opened() as deps:
        policy = required(await deps.store.policies.get(POLICY_ID))
        right = policy.access_rights[API_ID].model_copy(
            update={"allowed_urls": (AllowedUrl(url="^/demo-api/", methods=("GET",)),)}
        )
        limits = {"rate": 10**9, "per": 60, "quota_max": 10**12, "access_rights": {API_ID: right}}
        required(
            await deps.store.policies.replace(policy, policy.model_copy(update=limits), deps.event_context("bench"))
        )
    return system


def _verification(token: str) -> bytes:
    lines = (
        "GET /verify HTTP/1.1",
        "Host: 127.0.0.1",
        "X-Forwarded-Uri: /demo-api/orders/17",
        "X-Forwarded-Method: GET",
        f"Authorization: Bearer {token}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _connect(port: int, number: int) -> Sequence[HttpConnection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(HttpConnection, "127.0.0.1", port))[1] for _ in range(number)]


async def issued(testbed: Testbed, system: System, number: int) -> list[str]:
    """Issue access tokens with a token service that runs only for this."""
    request = token_request(CLIENT_ID, CLIENT_SECRET)
    tokens: list[str] = []
    with testbed.serving(system.program("token")) as running:
        connections = await _connect(running.port, min(64, number))

        async def ask(connection: HttpConnection) -> None:
            while len(tokens) < number:
                status, body = await connection.ask(request)
                if status != 200:
                    raise MeasurementFailed(f"a token was refused: {status}")
                tokens.append(orjson.loads(body)["access_token"])

        await asyncio.gather(*(ask(connection) for connection in connections))
    return tokens[:number]


async def _memory(testbed: Testbed, system: System) -> float:
    """Bytes by which the gateway grows with each cached token after the first thousand, without rate limit or quota."""
    async with system.opened() as deps:
        policy = required(await deps.store.policies.get(POLICY_ID))
        unlimited = policy.model_copy(update={"rate": 0, "quota_max": 0})
        required(await deps.store.policies.replace(policy, unlimited, deps.event_context("bench")))
    tokens = await issued(testbed, system, KEPT)
    with testbed.serving(system.program("gateway")) as running:
        await _verified(running, tokens[:1000])
        before = _resident(running)
        await _verified(running, tokens[1000:])
        size = (_resident(running) - before) / (KEPT - 1000)
    testbed.print_progress(f"  {size:.0f} bytes per token")
    return size


async def _verified(running: Running, tokens: Sequence[str]) -> None:
    connections, left = await _connect(running.port, 16), iter(tokens)

    async def ask(connection: HttpConnection) -> None:
        for token in left:
            status, body = await connection.ask(_verification(token))
            if status != 200:
                raise MeasurementFailed(f"a call was refused: {status} {body[:200]!r}")

    await asyncio.gather(*(ask(connection) for connection in connections))
    for connection in connections:
        connection.close()


def _resident(running: Running) -> int:
    for line in Path(f"/proc/{running.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise MeasurementFailed("the gateway has stopped")


async def _refusals(testbed: Testbed, system: System) -> Mapping[str, float]:
    """Delay from the response to a revocation until both gateways refuse the token."""
    tokens = await issued(testbed, system, REVOCATIONS)
    program = system.program("gateway")
    late = []
    with (
        testbed.serving(program) as one,
        testbed.serving(program) as two,
        testbed.serving(system.program("revocation")) as revocation,
    ):
        gateways = [(await _connect(running.port, 1))[0] for running in (one, two)]
        (revoker,) = await _connect(revocation.port, 1)
        for token in tokens:
            for gateway in gateways:
                status, _ = await gateway.ask(_verification(token))
                if status != 200:
                    raise MeasurementFailed(f"a call was refused before the revocation: {status}")
            status, body = await revoker.ask(_revocation(token))
            if status != 200:
                raise MeasurementFailed(f"the revocation was refused: {status} {body[:200]!r}")
            late.append(await _until_refused(gateways, token))
            await asyncio.sleep(0.01)
    figures = quantiles(late)
    testbed.print_progress(f"  revoked → refused: p50 {figures['p50']:.1f} ms, p99 {figures['p99']:.1f} ms")
    return figures


def _revocation(token: str) -> bytes:
    raw = token_request(CLIENT_ID, CLIENT_SECRET, f"token={token}")
    return raw.replace(b"/oauth/token ", b"/oauth/revoke ", 1)


async def _until_refused(gateways: Sequence[HttpConnection], token: str) -> float:
    """Seconds until all gateways refuse. Raises MeasurementFailed if one still accepts after GIVEN_UP_AFTER seconds."""
    began = time.perf_counter()
    waiting = list(gateways)
    while waiting:
        status, _ = await waiting[-1].ask(_verification(token))
        if status != 200:
            waiting.pop()
        elif time.perf_counter() - began > GIVEN_UP_AFTER:
            raise MeasurementFailed("a revoked token was still accepted after a second")
    return time.perf_counter() - began
