"""The token check: `/verify` on a hit, with policy, rate and quota applied, against a bare handler; how much memory a
token takes; and how long after a revocation was answered every gateway refuses the token.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
import uvloop

from bench.ground import Ground, Running, System, token_request
from bench.report import Figures, Report, Target, Wrong, quantiles, there
from bench.wire import Line
from contracts.policies import AllowedUrl
from services.demo_data import API_ID, CLIENT_ID, CLIENT_SECRET, POLICY_ID

CONNECTIONS = (32, 128)
OF_BARE = 0.40
KEPT = 20_000
"""Tokens whose memory is measured."""
KIB = 1024
REVOCATIONS = 200
REFUSED_WITHIN_MS = 50.0
GIVEN_UP_AFTER = 1.0
OK = b'{"status":"ok"}'


def measure(ground: Ground) -> Report:
    """All three. Raises Wrong where an answer is not the expected one."""
    system = asyncio.run(_system(ground))
    token = uvloop.run(_tokens(ground, system, 1))[0]
    results = {(name, number): Figures() for name in ("bare", "verify") for number in CONNECTIONS}
    for _ in range(ground.rounds):
        for number in CONNECTIONS:
            results["bare", number].rounds.append(ground.bare(number))
            loaded = ground.loaded(system.program("gateway"), _verification(token), OK.decode(), number)
            results["verify", number].rounds.append(loaded)
    report = Report("Token check: /verify on a hit, policy, rate and quota applied")
    for number in CONNECTIONS:
        bare, ours = (results[name, number] for name in ("bare", "verify"))
        report.heading(f"{number} connections")
        report.row("bare", bare, bare)
        report.row("verify", ours, bare)
        report.targets.append(Target(f"{number} connections, of the bare handler", ours.ratio(bare), OF_BARE))
    report.targets.append(Target("bytes of memory for a token", uvloop.run(_memory(ground, system)), KIB, at_most=True))
    late = uvloop.run(_refusals(ground, system))
    report.heading("revoked → refused by two gateways, ms", ("p50", "p99", "", "", ""))
    report.lines.append(f"  {late['p50']:.1f} {late['p99']:.1f}")
    report.targets.append(Target("revoked → refused, p99 ms", late["p99"], REFUSED_WITHIN_MS, at_most=True))
    return report


async def _system(ground: Ground) -> System:
    """With a policy that limits, and that the load does not reach."""
    system = await ground.new_system()
    async with system.opened() as deps:
        policy = there(await deps.store.policies.get(POLICY_ID))
        right = policy.access_rights[API_ID].model_copy(
            update={"allowed_urls": (AllowedUrl(url="^/demo-api/", methods=("GET",)),)}
        )
        limits = {"rate": 10**9, "per": 60, "quota_max": 10**12, "access_rights": {API_ID: right}}
        there(await deps.store.policies.replace(policy, policy.model_copy(update=limits), deps.origin("bench")))
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


async def _lines(port: int, number: int) -> Sequence[Line]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Line, "127.0.0.1", port))[1] for _ in range(number)]


async def _tokens(ground: Ground, system: System, number: int) -> list[str]:
    """So many access tokens, of a token service that is stopped again."""
    request = token_request(CLIENT_ID, CLIENT_SECRET)
    tokens: list[str] = []
    with ground.serving(system.program("token")) as running:
        lines = await _lines(running.port, min(64, number))

        async def ask(line: Line) -> None:
            while len(tokens) < number:
                status, body = await line.ask(request)
                if status != 200:
                    raise Wrong(f"a token was refused: {status}")
                tokens.append(orjson.loads(body)["access_token"])

        await asyncio.gather(*(ask(line) for line in lines))
    return tokens[:number]


async def _memory(ground: Ground, system: System) -> float:
    """By how many bytes the gateway grows with each token it keeps, beyond its first thousand; no limits counted."""
    async with system.opened() as deps:
        policy = there(await deps.store.policies.get(POLICY_ID))
        unlimited = policy.model_copy(update={"rate": 0, "quota_max": 0})
        there(await deps.store.policies.replace(policy, unlimited, deps.origin("bench")))
    tokens = await _tokens(ground, system, KEPT)
    with ground.serving(system.program("gateway")) as running:
        await _verified(running, tokens[:1000])
        before = _resident(running)
        await _verified(running, tokens[1000:])
        size = (_resident(running) - before) / (KEPT - 1000)
    ground.say(f"  {size:.0f} bytes for a token")
    return size


async def _verified(running: Running, tokens: Sequence[str]) -> None:
    lines, left = await _lines(running.port, 16), iter(tokens)

    async def ask(line: Line) -> None:
        for token in left:
            status, body = await line.ask(_verification(token))
            if status != 200:
                raise Wrong(f"a call was refused: {status} {body[:200]!r}")

    await asyncio.gather(*(ask(line) for line in lines))
    for line in lines:
        line.close()


def _resident(running: Running) -> int:
    for line in Path(f"/proc/{running.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Wrong("the gateway is gone")


async def _refusals(ground: Ground, system: System) -> Mapping[str, float]:
    """How long after its answer to a revocation both of two gateways have refused, one after the other."""
    tokens = await _tokens(ground, system, REVOCATIONS)
    gateway = system.program("gateway")
    late = []
    with (
        ground.serving(gateway) as one,
        ground.serving(gateway) as two,
        ground.serving(system.program("revocation")) as revocation,
    ):
        doors = [(await _lines(running.port, 1))[0] for running in (one, two)]
        (revoker,) = await _lines(revocation.port, 1)
        for token in tokens:
            for door in doors:
                status, _ = await door.ask(_verification(token))
                if status != 200:
                    raise Wrong(f"a call was refused before the revocation: {status}")
            status, body = await revoker.ask(_revocation(token))
            if status != 200:
                raise Wrong(f"the revocation was refused: {status} {body[:200]!r}")
            late.append(await _until_refused(doors, token))
            await asyncio.sleep(0.01)
    figures = quantiles(late)
    ground.say(f"  revoked → refused: p50 {figures['p50']:.1f} ms, p99 {figures['p99']:.1f} ms")
    return figures


def _revocation(token: str) -> bytes:
    raw = token_request(CLIENT_ID, CLIENT_SECRET, f"token={token}")
    return raw.replace(b"/oauth/token ", b"/oauth/revoke ", 1)


async def _until_refused(doors: Sequence[Line], token: str) -> float:
    """Raises Wrong where a gateway goes on for GIVEN_UP_AFTER seconds."""
    began = time.perf_counter()
    waiting = list(doors)
    while waiting:
        status, _ = await waiting[-1].ask(_verification(token))
        if status != 200:
            waiting.pop()
        elif time.perf_counter() - began > GIVEN_UP_AFTER:
            raise Wrong("a revoked token was still admitted a second later")
    return time.perf_counter() - began
