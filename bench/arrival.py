"""The time from a token response to the arrival of its webhook, with one token service and one notifier.

First the clients exchange codes as fast as they can. This gives the saturation rate: tokens issued and webhooks
received per second. Then they exchange at a quarter of that rate, at even intervals. The quarter rate is measured twice
more, with the same number of additional tokens whose webhooks go to another endpoint: one that responds, and one that
accepts connections and never responds (the black hole).
"""

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta

import uvloop

from bench.report import Figures, MeasurementFailed, Report, Target, quantiles, required
from bench.testbed import Running, System, Testbed, token_request
from bench.webhooks import BARE_CONNECTIONS, notified_api, notifier
from bench.wire import HttpConnection, Receiver, read_webhook
from contracts.apis import Api
from contracts.clients import Client
from libs import client_secrets
from libs.demo_credentials import CLIENT_ID, CLIENT_SECRET
from libs.oauth.grants import CodeBinding, IssueContext, issue_code
from libs.oauth.token_formats import TokenKind, new_grant_id
from libs.runtime import Deps

CONNECTIONS = 32
MOST_CONNECTIONS = 512
PER_SECOND = 2000
"""Codes prepared for each second of the saturation phase. The phase ends when all are used."""
P50_MS, P99_MS = 10.0, 50.0
CALLBACK = "http://127.0.0.1:9002/callback"
AT_ONCE = 500
TURNS = 4
"""Slices of each paced phase. The three phases take turns, so that changes in machine speed affect all alike."""
WITHIN = 60.0
PHASES = ("saturation", "a quarter of it", "beside another endpoint", "beside a black hole")
MOVED_BY = 1.1
"""Largest allowed ratio by which the black hole may raise the p99 of the other webhooks."""


def measure(testbed: Testbed) -> Report:
    """Run the bare handler and all phases in turn. Raises MeasurementFailed if a webhook is wrong, lost or doubled."""
    results = {name: Figures() for name in ("bare handler", *PHASES)}
    for _ in range(testbed.rounds):
        results["bare handler"].rounds.append(testbed.run_bare(BARE_CONNECTIONS))
        for name, figures in uvloop.run(_round(testbed)).items():
            results[name].rounds.append(figures)
            testbed.print_progress(
                f"  {name}: {figures['rps']:.0f}/s, {figures['p50']:.1f} ms, {figures['p99']:.1f} ms"
            )
    return _report(results)


def _report(results: Mapping[str, Figures]) -> Report:
    report = Report("From the token response to its webhook (CPU: of both services)")
    report.heading("")
    for name, figures in results.items():
        report.row(name, figures, results["bare handler"])
    _, quarter, beside, hole = (results[name] for name in PHASES)
    report.targets = [
        Target("a quarter of saturation, p50 in ms", quarter.median("p50"), P50_MS, at_most=True),
        Target("a quarter of saturation, p99 in ms", quarter.median("p99"), P99_MS, at_most=True),
        Target("beside a black hole, p99 in ms", hole.median("p99"), P99_MS, at_most=True),
        Target("beside a black hole, p99 to that beside another", hole.ratio(beside, "p99"), MOVED_BY, at_most=True),
    ]
    return report


@dataclass(frozen=True)
class Party:
    """A client of one API, and the codes it has not used yet."""

    api: Api
    client: Client
    codes: deque[str] = field(default_factory=deque)

    def exchange(self, code: str) -> bytes:
        """The token request for this code."""
        body = f"grant_type=authorization_code&code={code}&redirect_uri={CALLBACK}"
        return token_request(self.client.client_id, CLIENT_SECRET, body, self.api.listen_path)


@dataclass
class Exchanges:
    """Exchange times, token responses and webhooks, by code."""

    begun: float = 0.0
    responses: dict[str, tuple[float, Mapping[str, str]]] = field(default_factory=dict)
    webhooks: dict[str, tuple[float, Mapping[str, str]]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def take(self, head: bytes, raw: bytes) -> None:
        """Record a webhook, or the reason why it is wrong."""
        try:
            _, body = read_webhook(head, raw)
        except MeasurementFailed as fault:
            self.wrong.append(str(fault))
            return
        if body["auth_code"] in self.webhooks:
            self.wrong.append(f"two webhooks of {body['auth_code']}")
        self.webhooks[body["auth_code"]] = time.perf_counter(), body

    async def one(self, connection: HttpConnection, party: Party, code: str) -> None:
        """Exchange the code. Raises MeasurementFailed for any response but 200."""
        status, raw = await connection.ask(party.exchange(code))
        if status != 200:
            raise MeasurementFailed(f"{status} {raw[:200]!r}")
        self.responses[code] = time.perf_counter(), json.loads(raw)

    async def complete(self, codes: Sequence[str]) -> None:
        """Wait for the webhooks of all these codes.

        Raises MeasurementFailed if one is late or its tokens differ from the response.
        """
        deadline = time.perf_counter() + WITHIN
        while missing := len(set(codes) - self.webhooks.keys()):
            if time.perf_counter() > deadline:
                raise MeasurementFailed(f"{missing} of {len(codes)} webhooks did not come")
            await asyncio.sleep(0.05)
        for code in codes:
            response, body = self.responses[code][1], self.webhooks[code][1]
            if (response["access_token"], response["refresh_token"]) != (
                body["new_oauth_token"],
                body["refresh_token"],
            ):
                raise MeasurementFailed(f"the webhook of {code} has different tokens from its response")

    def waits(self, codes: Sequence[str]) -> list[float]:
        """Seconds from each response to its webhook."""
        return [max(0.0, self.webhooks[code][0] - self.responses[code][0]) for code in codes]

    def seconds(self, codes: Sequence[str]) -> float:
        """Seconds from the start until the last webhook of these codes arrived."""
        return max(self.webhooks[code][0] for code in codes) - self.begun


@dataclass
class LoadResult:
    """Webhook delays under load, and the processor time used."""

    waits: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    exchanged: int = 0

    def figures(self) -> dict[str, float]:
        """Rate and delays of the measured party; processor time per exchange of all parties."""
        return {
            "rps": len(self.waits) / self.seconds,
            "cpu": self.cpu / self.exchanged * 1e6,
            **quantiles(self.waits),
        }


async def _round(testbed: Testbed) -> dict[str, dict[str, float]]:
    exchanges = Exchanges()
    server = await Receiver(exchanges.take).listen()
    other = await Receiver(exchanges.take).listen()
    hole = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0, backlog=2048)
    system = await testbed.new_system()
    async with system.opened() as deps:
        ports = [each.sockets[0].getsockname()[1] for each in (server, other, hole)]
        usual, answered, lost = await _parties(deps, *ports)
        await _make_codes(deps, usual, int(PER_SECOND * testbed.seconds))
    with ExitStack() as running:
        serving = await asyncio.to_thread(_start, running, testbed, system)
        figures = {PHASES[0]: await _saturation(exchanges, usual, serving)}
        pace = figures[PHASES[0]]["rps"] / 4
        async with system.opened() as deps:
            for party, share in ((usual, 3), (answered, 1), (lost, 1)):
                party.codes.clear()
                await _make_codes(deps, party, share * int(pace * testbed.seconds + TURNS))
        load_results = {name: LoadResult() for name in PHASES[1:]}
        for _ in range(TURNS):
            for result, company in zip(load_results.values(), ((), (answered,), (lost,)), strict=True):
                parties = [usual, *company]
                await _paced(exchanges, parties, len(parties) * pace, testbed.seconds / TURNS, serving, result)
        figures |= {name: result.figures() for name, result in load_results.items()}
        if exchanges.wrong:
            raise MeasurementFailed(f"{len(exchanges.wrong)} webhooks were wrong, such as {exchanges.wrong[0]}")
        await asyncio.to_thread(running.close)
    for each in (server, other, hole):
        each.close()
    return figures


def _start(running: ExitStack, testbed: Testbed, system: System) -> Sequence[Running]:
    return [running.enter_context(testbed.serving(program)) for program in (notifier(system), system.program("token"))]


async def _saturation(exchanges: Exchanges, party: Party, serving: Sequence[Running]) -> dict[str, float]:
    """Exchange all codes over CONNECTIONS connections, each sending its next request as soon as it has a response."""
    codes, before = list(party.codes), _cpu(serving)
    exchanges.begun = time.perf_counter()

    async def work(connection: HttpConnection) -> None:
        while party.codes:
            await exchanges.one(connection, party, party.codes.popleft())

    connections = [await _connect(serving) for _ in range(CONNECTIONS)]
    await asyncio.gather(*map(work, connections))
    await exchanges.complete(codes)
    for connection in connections:
        connection.close()
    result = LoadResult(exchanges.waits(codes), exchanges.seconds(codes), _cpu(serving) - before, len(codes))
    return result.figures()


async def _paced(
    exchanges: Exchanges,
    parties: Sequence[Party],
    rate: float,
    seconds: float,
    serving: Sequence[Running],
    result: LoadResult,
) -> None:
    """Exchange codes at even intervals, whatever the latency, the parties taking turns. Only the first party's delays
    count.
    """
    idle = deque([await _connect(serving) for _ in range(CONNECTIONS)])
    used: list[tuple[Party, str]] = []
    tasks: list[asyncio.Task[None]] = []
    before = _cpu(serving)
    exchanges.begun = time.perf_counter()

    async def one(connection: HttpConnection, party: Party, code: str) -> None:
        await exchanges.one(connection, party, code)
        idle.append(connection)

    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, exchanges.begun + number / rate - time.perf_counter()))
        party = parties[number % len(parties)]
        used.append((party, party.codes.popleft()))
        if not idle and len(tasks) > MOST_CONNECTIONS and sum(not task.done() for task in tasks) > MOST_CONNECTIONS:
            raise MeasurementFailed("the token service cannot keep up with a quarter of the saturation rate")
        connection = idle.popleft() if idle else await _connect(serving)
        tasks.append(asyncio.create_task(one(connection, *used[-1])))
    await asyncio.gather(*tasks)
    codes = [code for party, code in used if party is parties[0]]
    await exchanges.complete(codes)
    for connection in idle:
        connection.close()
    result.waits += exchanges.waits(codes)
    result.seconds += exchanges.seconds(codes)
    result.cpu += _cpu(serving) - before
    result.exchanged += len(used)


async def _connect(serving: Sequence[Running]) -> HttpConnection:
    _, connection = await asyncio.get_running_loop().create_connection(HttpConnection, "127.0.0.1", serving[-1].port)
    return connection


def _cpu(serving: Sequence[Running]) -> float:
    return sum(each.cpu_seconds() for each in serving)


async def _parties(deps: Deps, port: int, other: int, hole: int) -> tuple[Party, Party, Party]:
    """The demo's client, and two more, each with its own API and its own webhook port."""
    api, client = await notified_api(deps, port), required(await deps.store.clients.get(CLIENT_ID))
    client = client.model_copy(update={"redirect_uris": (CALLBACK,)})
    usual = Party(api, client)
    return usual, await _party(deps, usual, "other", other), await _party(deps, usual, "hole", hole)


async def _party(deps: Deps, usual: Party, name: str, port: int) -> Party:
    api_id, client_id = f"{name}-api", f"{name}-client"
    api = usual.api.model_copy(update={"api_id": api_id, "listen_path": f"/{api_id}/"})
    await deps.store.apis.register(api, deps.event_context("bench"))
    secret = client_secrets.protect(deps.keys, client_id, CLIENT_SECRET, deps.now(), retrievable=True)
    client = usual.client.model_copy(update={"client_id": client_id, "api_id": api_id, "secrets": (secret,)})
    await deps.store.clients.register(client, deps.event_context("bench"))
    return Party(await notified_api(deps, port, api_id), client)


async def _make_codes(deps: Deps, party: Party, count: int) -> None:
    """Create pending grants, and wait until their events are published."""
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*(_make_code(deps, party) for _ in range(min(AT_ONCE, count - start))))
    await deps.outbox.drain()


async def _make_code(deps: Deps, party: Party) -> None:
    grant_id = new_grant_id(os.urandom(16))
    code = deps.token_format.mint(TokenKind.CODE, grant_id, 0)
    settings = required(party.api.oauth).model_copy(update={"code_lifetime": timedelta(minutes=10)})
    context = IssueContext(party.api, settings, party.client, deps.event_context("bench"))
    binding = CodeBinding(CALLBACK, redirect_uri_requested=True, scope=None, code_challenge=None, subject="alice")
    issued = issue_code(context, grant_id, code, binding)
    await deps.store.grants.commit(issued)
    party.codes.append(code.value)
