"""The witnesses outside the system: a webhook receiver that keeps webhooks, and a subscriber that keeps events."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPError
from aiohttp import web
from yarl import URL

from libs.bus.port import Exchange
from libs.bus.rabbit import split_amqp_urls
from tests.notifications import Behaviour, answering

QUEUE = "faults.recorder"
TRAP = "/trap"
"""Target of redirects; no request may arrive here."""

TAKING = answering(204)


async def redirecting(request: web.Request) -> web.StreamResponse:
    """An endpoint that redirects."""
    return web.Response(status=307, headers={"Location": f"{TRAP}{request.path}"})


@dataclass(frozen=True)
class Webhook:
    """One POST as it arrived."""

    id: str
    path: str
    body: dict[str, str]
    taken: bool
    """Whether its response was 2xx, or was about to be."""
    at: float
    """time.time()."""


@dataclass(frozen=True)
class Endpoint:
    """The behaviour of a path for a while, once or repeatedly; at other times it responds 204."""

    behaviour: Behaviour
    takes: bool
    """Whether the behaviour is a 2xx response."""
    seconds: float
    again: bool
    """Repeat after twice this time."""
    since: float

    def troubled(self, now: float) -> bool:
        """Whether the behaviour applies now."""
        passed = now - self.since
        return (passed % (3 * self.seconds) if self.again else passed) < self.seconds


@dataclass
class Receiver:
    """A webhook receiver that keeps every webhook."""

    address: str = "127.0.0.1"

    webhooks: list[Webhook] = field(default_factory=list)
    trapped: list[str] = field(default_factory=list)
    """Paths from which a redirect was followed."""
    delay: float = 0.0
    """Seconds before each response."""
    port: int = 0
    _endpoints: dict[str, Endpoint] = field(default_factory=dict)

    def url(self, path: str) -> str:
        return f"http://{self.address}:{self.port}{path}"

    def behave(
        self, path: str, behaviour: Behaviour, seconds: float, *, takes: bool = False, again: bool = False
    ) -> None:
        """Behave like this for so many seconds from now; if repeated, for a third of the time."""
        self._endpoints[path] = Endpoint(behaviour, takes, seconds, again, time.time())

    def take_everything(self) -> None:
        """From now on, respond 204 on every path."""
        self._endpoints.clear()

    async def receive(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith(TRAP):
            self.trapped.append(request.path.removeprefix(TRAP))
            return web.Response(status=204)
        raw = await request.read()
        endpoint = self._endpoints.get(request.path)
        troubled = endpoint is not None and endpoint.troubled(time.time())
        taken = not troubled or (endpoint is not None and endpoint.takes)
        identifier = request.headers.get("webhook-id", "")
        self.webhooks.append(Webhook(identifier, request.path, orjson.loads(raw), taken, time.time()))
        if self.delay:
            await asyncio.sleep(self.delay)
        behaviour = endpoint.behaviour if endpoint is not None and troubled else TAKING
        try:
            return await behaviour(request)
        except ConnectionResetError:  # the client closed the connection
            return web.Response(status=204)


@asynccontextmanager
async def receiver(address: str = "127.0.0.1") -> AsyncIterator[Receiver]:
    """A receiver on a free port of this address."""
    recording = Receiver(address)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", recording.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, address, 0, backlog=1024).start()
    recording.port = runner.addresses[0][1]
    try:
        yield recording
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Heard:
    """One message as it arrived."""

    id: str
    stem: str
    """The event type without the vendor prefix."""
    subject: str
    sequence: int
    data: dict[str, Any]
    at: float
    """time.time()."""


@dataclass
class Recorder:
    """A subscriber with a durable queue, which reconnects whenever the broker returns."""

    amqp_url: str
    """One URL, or one for each node of a cluster."""
    queue: str
    heard: list[Heard] = field(default_factory=list)
    bound: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Consume until cancelled."""
        for url in itertools.cycle(split_amqp_urls(self.amqp_url)):
            try:
                await self._listen(URL(url))
            except (AMQPError, OSError, RuntimeError):
                self.bound.clear()
                await asyncio.sleep(0.1)

    async def _listen(self, url: URL) -> None:
        connection = aio_pika.Connection(url)
        async with connection:  # closes it even if connecting failed
            await connection.connect(timeout=30)
            lost = asyncio.Event()
            connection.close_callbacks.add(lambda *_: lost.set())
            channel = await connection.channel()
            channel.close_callbacks.add(lambda *_: lost.set())
            await channel.set_qos(prefetch_count=500)
            queue = await channel.declare_queue(self.queue, durable=True, arguments={"x-queue-type": "quorum"})
            await queue.bind(Exchange.EVENTS, "#")
            await queue.consume(self._take)
            self.bound.set()
            await lost.wait()
        raise ConnectionResetError

    async def _take(self, message: AbstractIncomingMessage) -> None:
        event = orjson.loads(message.body)
        stem = event["type"].removeprefix("io.tokenwire.")
        self.heard.append(
            Heard(event["id"], stem, event["subject"], int(event["sequence"]), event["data"], time.time())
        )
        await message.ack()


@asynccontextmanager
async def recorder(amqp_url: str, queue: str = QUEUE) -> AsyncIterator[Recorder]:
    """A recorder whose queue is bound."""
    recording = Recorder(amqp_url, queue)
    task = asyncio.create_task(recording.run(), name="recorder")
    try:
        async with asyncio.timeout(180):
            await recording.bound.wait()
        yield recording
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
