"""Who hears what the system says: a resource owner service that keeps webhooks, and a subscriber that keeps events."""

import asyncio
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
from tests.notifications import Behaviour, answering

QUEUE = "faults.recorder"
TRAP = "/trap"
"""Where a redirect leads; nobody may follow it."""

TAKING = answering(204)


async def redirecting(request: web.Request) -> web.StreamResponse:
    """An endpoint that sends its callers elsewhere."""
    return web.Response(status=307, headers={"Location": f"{TRAP}{request.path}"})


@dataclass(frozen=True)
class Webhook:
    """One POST as it came."""

    id: str
    path: str
    body: dict[str, str]
    taken: bool
    """Whether it was answered, or was about to be, with 2xx."""
    at: float
    """time.time()."""


@dataclass(frozen=True)
class Endpoint:
    """What a path does to its callers for a while, once or again and again; otherwise it takes everything."""

    behaviour: Behaviour
    takes: bool
    """Whether the behaviour is a 2xx."""
    seconds: float
    again: bool
    """After twice as long."""
    since: float

    def troubled(self, now: float) -> bool:
        """Whether it does it now."""
        passed = now - self.since
        return (passed % (3 * self.seconds) if self.again else passed) < self.seconds


@dataclass
class Receiver:
    """A resource owner service on the loopback that keeps every webhook."""

    webhooks: list[Webhook] = field(default_factory=list)
    trapped: list[str] = field(default_factory=list)
    """Paths at which somebody followed a redirect."""
    delay: float = 0.0
    """Seconds before each answer."""
    port: int = 0
    _endpoints: dict[str, Endpoint] = field(default_factory=dict)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def behave(
        self, path: str, behaviour: Behaviour, seconds: float, *, takes: bool = False, again: bool = False
    ) -> None:
        """For so long from now on, and where it does it again, of every three times as long."""
        self._endpoints[path] = Endpoint(behaviour, takes, seconds, again, time.time())

    def take_everything(self) -> None:
        """From now on, everywhere."""
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
        except ConnectionResetError:  # the other side has had enough of it
            return web.Response(status=204)


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver on a free port."""
    recording = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", recording.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    recording.port = runner.addresses[0][1]
    yield recording
    await runner.cleanup()


@dataclass(frozen=True)
class Heard:
    """One message as it came."""

    id: str
    stem: str
    """The type without vendor prefix."""
    subject: str
    sequence: int
    data: dict[str, Any]
    at: float
    """time.time()."""


@dataclass
class Recorder:
    """A downstream system with a durable queue of its own, which comes back whenever the broker does."""

    amqp_url: str
    heard: list[Heard] = field(default_factory=list)
    bound: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Listen for ever."""
        while True:
            try:
                await self._listen()
            except (AMQPError, OSError, RuntimeError):
                self.bound.clear()
                await asyncio.sleep(0.1)

    async def _listen(self) -> None:
        connection = aio_pika.Connection(URL(self.amqp_url))
        async with connection:  # closed, too, when it cannot be made
            await connection.connect(timeout=5)
            lost = asyncio.Event()
            connection.close_callbacks.add(lambda *_: lost.set())
            channel = await connection.channel()
            channel.close_callbacks.add(lambda *_: lost.set())
            await channel.set_qos(prefetch_count=500)
            queue = await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
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
async def recorder(amqp_url: str) -> AsyncIterator[Recorder]:
    """A recorder whose queue is bound."""
    recording = Recorder(amqp_url)
    task = asyncio.create_task(recording.run(), name="recorder")
    try:
        async with asyncio.timeout(30):
            await recording.bound.wait()
        yield recording
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
