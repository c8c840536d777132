"""Webhooks per second of one notifier process, to a receiver that responds at once and to one that takes 50 ms.

The commands are in the queue when the notifier starts. Each becomes a delivery in MongoDB, a signed POST, a recorded
result and a published event. The first tenth of the webhooks is not counted.
"""

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
import uvloop

from bench.report import Figures, MeasurementFailed, Report, Target, quantiles, required
from bench.testbed import Program, System, Testbed
from bench.wire import SHARED_SECRET, Receiver, read_webhook
from contracts.apis import Api, GrantType, Notifications
from contracts.events import TokenData, TokenNew
from contracts.webhooks import TokenNotification
from libs.bus.outbox import messages_of
from libs.bus.port import Message
from libs.demo_credentials import CLIENT_ID
from libs.encryption import Sealer
from libs.event_encoding import new_event_id, pending, sequence_text
from libs.runtime import Deps
from services.demo_data import API_ID

BARE_CONNECTIONS = 32
RECEIVERS = {"to a fast receiver": 0.0, "to a 50 ms receiver": 0.05}
RATE = 1200.0
"""Webhooks per second, on a machine as fast as the reference."""
REFERENCE = 43_000.0
"""Requests per second of the bare handler on the reference machine. A rate alone would judge the machine."""
OF_BARE = 0.055
"""Fraction of the bare handler's rate, for the fast receiver."""
PER_SECOND = 3000
"""Commands prepared for each second of measuring."""
PUBLISHED_AT_ONCE = 2000
WITHIN = 60.0


def measure(testbed: Testbed) -> Report:
    """Run the bare handler and both receivers in turn.

    Raises MeasurementFailed if a webhook is wrong, lost or doubled.
    """
    results = {name: Figures() for name in ("bare handler", *RECEIVERS)}
    for _ in range(testbed.rounds):
        results["bare handler"].rounds.append(testbed.run_bare(BARE_CONNECTIONS))
        for name, delay in RECEIVERS.items():
            results[name].rounds.append(uvloop.run(_delivered(testbed, delay)))
            testbed.print_progress(f"  {name}: {results[name].rounds[-1]['rps']:8.0f}/s")
    return _report(results)


def _report(results: Mapping[str, Figures]) -> Report:
    report = Report("Webhooks of one notifier process (p50, p99: of an attempt, as it is recorded)")
    bare = results["bare handler"]
    report.heading("")
    for name, figures in results.items():
        report.row(name, figures, bare)
    for name in RECEIVERS:
        rate = results[name].ratio(bare) * REFERENCE
        report.targets.append(Target(f"{name}, per second where the bare handler does {REFERENCE:,.0f}", rate, RATE))
    fast = results["to a fast receiver"].ratio(bare)
    report.targets.append(Target("to a fast receiver, fraction of the bare handler", fast, OF_BARE))
    return report


@dataclass
class _Arrivals:
    """The webhooks received so far. They are checked after the last one, because checking would slow the receiver."""

    expected: int
    times: list[float] = field(default_factory=list)
    webhooks: list[tuple[bytes, bytes]] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, head: bytes, raw: bytes) -> None:
        self.times.append(time.perf_counter())
        self.webhooks.append((head, raw))
        self.begun.set()
        if len(self.times) == self.expected:
            self.complete.set()

    @property
    def rate(self) -> float:
        skipped = len(self.times) // 10
        return (len(self.times) - 1 - skipped) / (self.times[-1] - self.times[skipped])

    def check(self) -> None:
        """Raises MeasurementFailed unless every webhook came once and is correct."""
        seen = set()
        for identifier, body in (read_webhook(head, raw) for head, raw in self.webhooks):
            if identifier in seen:
                raise MeasurementFailed(f"{identifier} came twice")
            if body["new_oauth_token"] != _token_of(identifier):
                raise MeasurementFailed(f"{identifier} has the body of another webhook")
            seen.add(identifier)


async def _delivered(testbed: Testbed, delay: float) -> dict[str, float]:
    arrivals = _Arrivals(int(PER_SECOND * testbed.seconds))
    server = await Receiver(arrivals.take, delay).listen()
    system = await testbed.new_system()
    async with system.opened() as deps:
        api = await notified_api(deps, server.sockets[0].getsockname()[1])
        await _fill(deps, api, system, arrivals.expected)
        cpu = await asyncio.to_thread(_run, testbed, notifier(system), arrivals, asyncio.get_running_loop())
        arrivals.check()
        latencies = await _recorded(deps, arrivals.expected)
    server.close()
    return {"rps": arrivals.rate, "cpu": cpu / arrivals.expected * 1e6, **quantiles(latencies)}


def notifier(system: System) -> Program:
    """A notifier that may send to loopback addresses."""
    return system.program("notifier", allow_private_destinations=True)


def _run(testbed: Testbed, program: Program, arrivals: _Arrivals, loop: asyncio.AbstractEventLoop) -> float:
    """Processor seconds of the notifier from the first webhook until it has stopped gracefully."""
    with testbed.serving(program) as running:
        asyncio.run_coroutine_threadsafe(arrivals.begun.wait(), loop).result(WITHIN)
        before = running.cpu_seconds()
        try:
            asyncio.run_coroutine_threadsafe(arrivals.complete.wait(), loop).result(WITHIN)
        except TimeoutError:
            raise MeasurementFailed(
                f"{len(arrivals.times)} of {arrivals.expected} webhooks came in {WITHIN:.0f} s"
            ) from None
        return running.cpu_seconds() - before


async def notified_api(deps: Deps, port: int, api_id: str = API_ID) -> Api:
    """Point the webhooks of the API (by default the demo's) at this port."""
    api = required(await deps.store.apis.get(api_id))
    oauth = required(api.oauth)
    address = Notifications(on_key_change_url=f"http://127.0.0.1:{port}/hook", shared_secret=SHARED_SECRET)
    moved = api.model_copy(update={"oauth": oauth.model_copy(update={"notifications": address})})
    return required(await deps.store.apis.replace(api, moved, deps.event_context("bench")))


async def _fill(deps: Deps, api: Api, system: System, commands: int) -> None:
    """Put this many commands in the notifier's queue."""
    sealer = Sealer(base64.b64decode(system.values["notifier_public_key"]))
    for start in range(0, commands, PUBLISHED_AT_ONCE):
        part = [_command(deps, api, sealer) for _ in range(min(PUBLISHED_AT_ONCE, commands - start))]
        if not all(await deps.bus.publish(part)):
            raise MeasurementFailed("RabbitMQ did not confirm the commands")


def _token_of(identifier: str) -> str:
    return f"tw_at_{identifier}".ljust(82, "x")


def _command(deps: Deps, api: Api, sealer: Sealer) -> Message:
    now = deps.now()
    identifier = new_event_id(now)
    data = TokenData(
        grant_id=identifier,
        api_id=api.api_id,
        client_id=CLIENT_ID,
        grant_type=GrantType.AUTHORIZATION_CODE,
        token_id=f"{identifier}.1",
        expires_at=now,
        notify=True,
    )
    event = TokenNew(
        id=identifier, source="urn:tokenwire:token", time=now, subject=identifier, sequence=sequence_text(2), data=data
    )
    body = TokenNotification(
        auth_code="tw_ac_".ljust(82, "x"),
        new_oauth_token=_token_of(identifier),
        refresh_token="tw_rt_".ljust(82, "x"),
        notification_type="new",
    )
    sealed = sealer.seal(orjson.dumps(body.model_dump()))
    _, command = messages_of(pending(event, api.api_id, identifier, sealed))
    return command


async def _recorded(deps: Deps, expected: int) -> list[float]:
    """Latencies of the attempts in seconds.

    Raises MeasurementFailed unless every delivery succeeded at its first attempt and its event is published.
    """
    deps.outbox.watch(deps.store.deliveries)  # publishes what the notifier had not published when it stopped
    deliveries, deadline = deps.store.mongo["deliveries"], time.monotonic() + WITHIN
    delivered: dict[str, object] = {"state": "delivered", "pending_since": None}
    # The outbox does not report when it has published the last event, so poll.
    while await deliveries.count_documents(delivered) < expected and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    attempts = await deliveries.find(delivered, {"attempts": 1}).to_list(None)
    if len(attempts) != expected or any(len(each["attempts"]) != 1 for each in attempts):
        raise MeasurementFailed(
            f"{len(attempts)} of {expected} deliveries are recorded as delivered with their event published"
        )
    return [each["attempts"][0]["latency_ms"] / 1000 for each in attempts]
