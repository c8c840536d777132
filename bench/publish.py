"""Publishing to RabbitMQ with the publish encoder against aio-pika alone: processor time for one confirmed message.

The messages are those of a token with a webhook: an event with its CloudEvents headers, and its sealed companion.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence

from bench.report import Figures, MeasurementFailed, Report, Target, quantiles
from bench.testbed import Testbed
from contracts.events import PendingEvent, TokenNew
from libs.bus.outbox import BATCH, messages_of
from libs.bus.port import BusUnavailable, Message
from libs.bus.rabbit import RabbitBus
from libs.event_encoding import EventContext, encode_event, new_event_id
from libs.runtime import utc_now
from tests.eventually import eventually

ENCODER, LIBRARY = "publish encoder", "aio-pika alone"
SAVING = 3.0
"""How many times less processor time the encoder must take; if it does not, it is not worth its file."""


def measure(testbed: Testbed) -> Report:
    """Both ways in turn, in this process. Raises MeasurementFailed if a message was not confirmed."""
    system = asyncio.run(testbed.new_system())
    results = {name: Figures() for name in (ENCODER, LIBRARY)}
    for _ in range(testbed.rounds):
        for name, figures in results.items():
            figures.rounds.append(asyncio.run(_round(system.values["amqp_url"], name == ENCODER, testbed.seconds)))
    report = Report("Publishing with confirmation")
    report.heading(f"batches of {BATCH} events")
    for name in (LIBRARY, ENCODER):
        report.row(name, results[name], results[LIBRARY])
    saving = 1 / results[ENCODER].ratio(results[LIBRARY], "cpu")
    report.targets.append(Target("processor time of aio-pika alone, times the encoder's", saving, SAVING))
    return report


async def _round(url: str, encoder: bool, seconds: float) -> dict[str, float]:
    bus = RabbitBus(url, instance_name="bench", use_publish_encoder=encoder)
    await bus.open()
    try:
        await eventually(lambda: _ready(bus))
        await _publish(bus, _messages())
        count, latencies, began, used = 0, list[float](), time.monotonic(), time.process_time()
        made = 0.0
        while (started := time.monotonic()) - began < seconds:
            making = time.process_time()
            messages = _messages()
            made += time.process_time() - making
            await _publish(bus, messages)
            count += len(messages)
            latencies.append(time.monotonic() - started)
        cpu = (time.process_time() - used - made) / count * 1_000_000
        return {"rps": count / (time.monotonic() - began), "cpu": cpu, **quantiles(latencies)}
    finally:
        await bus.close()


def _messages() -> Sequence[Message]:
    """Two for each event of a batch; all ids are new."""
    now, found = utc_now(), list[Message]()
    ctx = EventContext("urn:tokenwire:token", now, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    for _ in range(BATCH):
        event_id, owner = new_event_id(now), secrets.token_hex(16)
        data = {"grant_id": owner, "api_id": "orders", "client_id": "shop", "grant_type": "authorization_code"}
        body = encode_event(TokenNew, event_id, ctx, owner, 1, data | {"token_id": owner, "expires_at": now})
        sealed = secrets.token_bytes(300)
        found += messages_of(PendingEvent(event_id, owner, "token.new.orders", body, now, sealed))
    return found


async def _publish(bus: RabbitBus, messages: Sequence[Message]) -> None:
    if not all(await bus.publish(messages)):
        raise MeasurementFailed("a message was not confirmed")


async def _ready(bus: RabbitBus) -> bool:
    try:
        await bus.ping()
    except BusUnavailable:
        return False
    return True
