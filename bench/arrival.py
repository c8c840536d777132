"""How long after its token response a webhook arrives: codes exchanged at one token service, webhooks of one notifier.

First as fast as both can, which is saturation: the rate at which tokens were issued and their webhooks had arrived.
Then a quarter of it, at even intervals; and that twice more with as many tokens between them whose webhooks go to
another endpoint: one that answers, and one that takes connections and never does.
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

from bench.ground import Ground, Running, System, token_request
from bench.report import Figures, Report, Target, Wrong, quantiles, there
from bench.webhooks import BARE_CONNECTIONS, notified_api, notifier
from bench.wire import Line, Receiver, proven
from contracts.apis import Api
from contracts.clients import Client
from libs import client_secrets
from libs.oauth.grants import issue_code
from libs.oauth.tokens import TokenKind, new_grant_id
from libs.runtime import Deps
from services.demo_data import CLIENT_ID, CLIENT_SECRET

CONNECTIONS = 32
MOST_CONNECTIONS = 512
PER_SECOND = 2000
"""Codes that are made for each second of saturation, which is over when they are used."""
P50_MS, P99_MS = 10.0, 50.0
CALLBACK = "http://127.0.0.1:9002/callback"
AT_ONCE = 500
TURNS = 4
"""Parts of an even load; the three kinds of it take turns, so that the machine's pace is the same for all."""
WITHIN = 60.0
PHASES = ("saturation", "a quarter of it", "beside another endpoint", "beside a black hole")
MOVED_BY = 1.1
"""What the black hole may do to the p99 of the others."""


def measure(ground: Ground) -> Report:
    """Rounds of the bare handler and all phases. Raises Wrong where a webhook is wrong, lost or doubled."""
    results = {name: Figures() for name in ("bare handler", *PHASES)}
    for _ in range(ground.rounds):
        results["bare handler"].rounds.append(ground.bare(BARE_CONNECTIONS))
        for name, figures in uvloop.run(_round(ground)).items():
            results[name].rounds.append(figures)
            ground.say(f"  {name}: {figures['rps']:.0f}/s, {figures['p50']:.1f} ms, {figures['p99']:.1f} ms")
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
    """A client of an API, and codes of its users."""

    api: Api
    client: Client
    codes: deque[str] = field(default_factory=deque)

    def exchange(self, code: str) -> bytes:
        """The request for the code's tokens."""
        body = f"grant_type=authorization_code&code={code}&redirect_uri={CALLBACK}"
        return token_request(self.client.client_id, CLIENT_SECRET, body, self.api.listen_path)


@dataclass
class Exchanges:
    """What was asked for, what came in responses, and what came in webhooks: by code."""

    begun: float = 0.0
    responses: dict[str, tuple[float, Mapping[str, str]]] = field(default_factory=dict)
    webhooks: dict[str, tuple[float, Mapping[str, str]]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def take(self, head: bytes, raw: bytes) -> None:
        """A webhook, or something wrong."""
        try:
            _, body = proven(head, raw)
        except Wrong as fault:
            self.wrong.append(str(fault))
            return
        if body["auth_code"] in self.webhooks:
            self.wrong.append(f"two webhooks of {body['auth_code']}")
        self.webhooks[body["auth_code"]] = time.perf_counter(), body

    async def one(self, line: Line, party: Party, code: str) -> None:
        """The code exchanged. Raises Wrong for any other answer."""
        status, raw = await line.ask(party.exchange(code))
        if status != 200:
            raise Wrong(f"{status} {raw[:200]!r}")
        self.responses[code] = time.perf_counter(), json.loads(raw)

    async def complete(self, codes: Sequence[str]) -> None:
        """All webhooks of these codes have come. Raises Wrong where they have not in time, or say something else."""
        deadline = time.perf_counter() + WITHIN
        while missing := len(set(codes) - self.webhooks.keys()):
            if time.perf_counter() > deadline:
                raise Wrong(f"{missing} of {len(codes)} webhooks did not come")
            await asyncio.sleep(0.05)
        for code in codes:
            answer, body = self.responses[code][1], self.webhooks[code][1]
            if (answer["access_token"], answer["refresh_token"]) != (body["new_oauth_token"], body["refresh_token"]):
                raise Wrong(f"the webhook of {code} has other tokens than its response")

    def waits(self, codes: Sequence[str]) -> list[float]:
        """The seconds from response to webhook."""
        return [max(0.0, self.webhooks[code][0] - self.responses[code][0]) for code in codes]

    def seconds(self, codes: Sequence[str]) -> float:
        """Until the last webhook of these codes."""
        return max(self.webhooks[code][0] for code in codes) - self.begun


@dataclass
class Spell:
    """Times under an even load, and what they cost."""

    waits: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    exchanged: int = 0

    def figures(self) -> dict[str, float]:
        """The rate and the times of whoever is looked at; the processor time of all."""
        return {
            "rps": len(self.waits) / self.seconds,
            "cpu": self.cpu / self.exchanged * 1e6,
            **quantiles(self.waits),
        }


async def _round(ground: Ground) -> dict[str, dict[str, float]]:
    exchanges = Exchanges()
    server = await Receiver(exchanges.take).listen()
    other = await Receiver(exchanges.take).listen()
    hole = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0, backlog=2048)
    system = await ground.new_system()
    async with system.opened() as deps:
        ports = [each.sockets[0].getsockname()[1] for each in (server, other, hole)]
        usual, answered, lost = await _parties(deps, *ports)
        await _make_codes(deps, usual, int(PER_SECOND * ground.seconds))
    with ExitStack() as running:
        serving = await asyncio.to_thread(_start, running, ground, system)
        figures = {PHASES[0]: await _saturation(exchanges, usual, serving)}
        pace = figures[PHASES[0]]["rps"] / 4
        async with system.opened() as deps:
            for party, share in ((usual, 3), (answered, 1), (lost, 1)):
                party.codes.clear()
                await _make_codes(deps, party, share * int(pace * ground.seconds + TURNS))
        spells = {name: Spell() for name in PHASES[1:]}
        for _ in range(TURNS):
            for spell, company in zip(spells.values(), ((), (answered,), (lost,)), strict=True):
                parties = [usual, *company]
                await _paced(exchanges, parties, len(parties) * pace, ground.seconds / TURNS, serving, spell)
        figures |= {name: spell.figures() for name, spell in spells.items()}
        if exchanges.wrong:
            raise Wrong(f"{len(exchanges.wrong)} webhooks were wrong, such as {exchanges.wrong[0]}")
        await asyncio.to_thread(running.close)
    for each in (server, other, hole):
        each.close()
    return figures


def _start(running: ExitStack, ground: Ground, system: System) -> Sequence[Running]:
    return [running.enter_context(ground.serving(program)) for program in (notifier(system), system.program("token"))]


async def _saturation(exchanges: Exchanges, party: Party, serving: Sequence[Running]) -> dict[str, float]:
    """As many connections as usual, each with its next code as soon as it has an answer, until the codes are used."""
    codes, before = list(party.codes), _cpu(serving)
    exchanges.begun = time.perf_counter()

    async def work(line: Line) -> None:
        while party.codes:
            await exchanges.one(line, party, party.codes.popleft())

    lines = [await _line(serving) for _ in range(CONNECTIONS)]
    await asyncio.gather(*map(work, lines))
    await exchanges.complete(codes)
    for line in lines:
        line.close()
    spell = Spell(exchanges.waits(codes), exchanges.seconds(codes), _cpu(serving) - before, len(codes))
    return spell.figures()


async def _paced(
    exchanges: Exchanges,
    parties: Sequence[Party],
    rate: float,
    seconds: float,
    serving: Sequence[Running],
    spell: Spell,
) -> None:
    """The parties in turn, at even intervals, whatever the answers take; it is the first one's times that count."""
    idle = deque([await _line(serving) for _ in range(CONNECTIONS)])
    used: list[tuple[Party, str]] = []
    tasks: list[asyncio.Task[None]] = []
    before = _cpu(serving)
    exchanges.begun = time.perf_counter()

    async def one(line: Line, party: Party, code: str) -> None:
        await exchanges.one(line, party, code)
        idle.append(line)

    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, exchanges.begun + number / rate - time.perf_counter()))
        party = parties[number % len(parties)]
        used.append((party, party.codes.popleft()))
        if not idle and len(tasks) > MOST_CONNECTIONS and sum(not task.done() for task in tasks) > MOST_CONNECTIONS:
            raise Wrong("a quarter of the saturation load is more than the token service takes")
        line = idle.popleft() if idle else await _line(serving)
        tasks.append(asyncio.create_task(one(line, *used[-1])))
    await asyncio.gather(*tasks)
    codes = [code for party, code in used if party is parties[0]]
    await exchanges.complete(codes)
    for line in idle:
        line.close()
    spell.waits += exchanges.waits(codes)
    spell.seconds += exchanges.seconds(codes)
    spell.cpu += _cpu(serving) - before
    spell.exchanged += len(used)


async def _line(serving: Sequence[Running]) -> Line:
    _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", serving[-1].port)
    return line


def _cpu(serving: Sequence[Running]) -> float:
    return sum(each.cpu_seconds() for each in serving)


async def _parties(deps: Deps, port: int, other: int, hole: int) -> tuple[Party, Party, Party]:
    """The demo's client, and two others, each of an API of its own with webhooks to a port of its own."""
    api, client = await notified_api(deps, port), there(await deps.store.clients.get(CLIENT_ID))
    client = client.model_copy(update={"redirect_uris": (CALLBACK,)})
    usual = Party(api, client)
    return usual, await _party(deps, usual, "other", other), await _party(deps, usual, "hole", hole)


async def _party(deps: Deps, usual: Party, name: str, port: int) -> Party:
    api_id, client_id = f"{name}-api", f"{name}-client"
    api = usual.api.model_copy(update={"api_id": api_id, "listen_path": f"/{api_id}/"})
    await deps.store.apis.register(api, deps.origin("bench"))
    secret = client_secrets.digested(deps.keys, client_id, CLIENT_SECRET, deps.now(), sealed=True)
    client = usual.client.model_copy(update={"client_id": client_id, "api_id": api_id, "secrets": (secret,)})
    await deps.store.clients.register(client, deps.origin("bench"))
    return Party(await notified_api(deps, port, api_id), client)


async def _make_codes(deps: Deps, party: Party, count: int) -> None:
    """So many pending grants, whose events are published before anything is measured."""
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*(_make_code(deps, party) for _ in range(min(AT_ONCE, count - start))))
    await deps.outbox.drain()


async def _make_code(deps: Deps, party: Party) -> None:
    grant_id = new_grant_id(os.urandom(16))
    code = deps.codec.mint(TokenKind.CODE, grant_id, 0)
    issued = issue_code(
        grant_id,
        code,
        party.api,
        party.client,
        settings=there(party.api.oauth).model_copy(update={"code_lifetime": timedelta(minutes=10)}),
        redirect_uri=CALLBACK,
        redirect_uri_requested=True,
        scope=None,
        code_challenge=None,
        subject="alice",
        key_rules=None,
        at=deps.origin("bench"),
    )
    await deps.store.grants.commit(issued)
    party.codes.append(code.value)
