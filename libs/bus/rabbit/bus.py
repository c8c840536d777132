"""RabbitBus: the Bus protocol on RabbitMQ."""

import asyncio
import math
from collections.abc import Sequence

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError

from libs.bus.port import TICK, TICK_ID, TICK_INTERVAL, BusUnavailable, Exchange, Message, Mode, Outcome, Subscription
from libs.bus.rabbit.connection import CLOSE_TIMEOUT, PUBLISHING, ReconnectingConnection, is_blocked
from libs.bus.rabbit.dead_letters import RabbitPoolQueues
from libs.bus.rabbit.publisher import Publisher
from libs.bus.rabbit.queue_consumer import Consumer
from libs.bus.rabbit.topology import DELIVERY_LIMIT, POOLS, topology
from libs.cancellation import cancel_and_wait
from libs.supervision import BackgroundTask, Supervisor

PUBLISH_TIMEOUT = 5.0
"""Seconds after which the outcome of a publish without a confirmation is UNKNOWN."""
STOP_TIMEOUT = 3.0
"""Seconds that running handlers get to end."""
PING_TIMEOUT = 2.0
"""Seconds that the broker has to respond to a ping."""
FIRST_BACKOFF = 0.1
"""Seconds until a message is delivered again after its first Retry; the delay doubles with each further one."""
CONFIRM_TIMEOUT = 1.2
"""Seconds without a confirmation after which the broker counts as not responding."""
POLL_INTERVAL = 0.02
"""Seconds between two polls of `drain`."""


class RabbitBus:
    """Publishes and consumes on two connections: a broker that is short of memory stops reading from connections that
    publish, and acknowledgements on the same connection would be stuck behind the messages.

    `url` may have the URLs of several nodes (`parse_amqp_urls`). `instance_name` identifies this process in the
    broker's listings. With `declare=False` the topology must exist already. `delivery_limit` applies to queues that
    this object declares; `first_backoff` is in seconds. `use_publish_encoder=False` publishes with aio-pika alone.
    """

    def __init__(
        self,
        url: str,
        *,
        instance_name: str,
        declare: bool = True,
        delivery_limit: int = DELIVERY_LIMIT,
        first_backoff: float = FIRST_BACKOFF,
        publish_timeout: float = PUBLISH_TIMEOUT,
        use_publish_encoder: bool = True,
    ) -> None:
        self._instance_name = instance_name
        self._declare = declare
        self._delivery_limit = delivery_limit
        self._first_backoff = first_backoff
        self._publishing = ReconnectingConnection(url, instance_name, PUBLISHING)
        self._consuming = ReconnectingConnection(url, instance_name, "consuming")
        self._publisher = Publisher(
            self._publishing,
            topology(POOLS, delivery_limit=delivery_limit),
            declare=declare,
            timeout=publish_timeout,
            use_encoder=use_publish_encoder,
        )
        self._pool_queues = RabbitPoolQueues(self._connection)
        self._consumers: list[Consumer] = []
        self._tasks: list[BackgroundTask] = []
        self._supervisor = Supervisor()
        self._opened = False
        self._confirming_since = math.inf
        """The loop's time since which every publication was confirmed or refused."""

    async def open(self, supervisor: Supervisor | None = None) -> None:
        """Return at once; connecting goes on in the background, under this supervisor, and never gives up."""
        if self._opened:
            return
        self._opened = True
        self._supervisor = supervisor or self._supervisor
        self._publishing.open(self._supervisor)
        self._tasks.append(self._supervisor.start("bus-publisher", self._publisher.run))
        self._tasks.append(self._supervisor.start("bus-tick", self._tick, essential=False))
        for consumer in self._consumers:
            self._start(consumer)

    async def close(self) -> None:
        """Stop consuming, let running handlers end (bounded), close the connections. Idempotent."""
        await self.stop_consuming()
        await _cancel_within_timeout(self._tasks)
        await asyncio.gather(self._consuming.close(), self._publishing.close())
        self._tasks.clear()
        self._opened = False

    def subscribe(self, subscription: Subscription) -> None:
        """Register a consumer; before or after `open`."""
        consumer = Consumer(
            subscription,
            self._consuming,
            instance_name=self._instance_name,
            declare=self._declare,
            delivery_limit=self._delivery_limit,
            first_backoff=self._first_backoff,
        )
        self._consumers.append(consumer)
        if self._opened:
            self._start(consumer)

    async def stop_consuming(self) -> None:
        """Take no new messages; returns when running handlers have ended or after STOP_TIMEOUT."""
        stops = [asyncio.create_task(consumer.stop()) for consumer in self._consumers]
        if stops:
            await asyncio.wait(stops, timeout=STOP_TIMEOUT)
            await cancel_and_wait(*stops)

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        """Publish all together and wait for the broker's confirmations; the outcome of each message."""
        return await self._publisher.publish(messages)

    @property
    def confirming_for(self) -> float:
        """Seconds for which every publication was confirmed or refused within about a second; 0 while one is not."""
        return max(0.0, asyncio.get_running_loop().time() - self._confirming_since)

    async def ping(self) -> None:
        """Return when connected, the topology in place and every subscription consumed, as the broker sees it."""
        if not self._publisher.ready:
            connected = self._publishing.current is not None
            raise BusUnavailable("topology missing" if connected else self._publishing.last_error or "not connected")
        if await is_blocked(self._connection()):
            raise BusUnavailable("RabbitMQ has raised an alarm (memory or disk) and accepts no messages")
        for consumer in self._consumers:
            if consumer.queue is None:
                raise BusUnavailable(f"no consumer for {consumer.subscription.name}")
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await self._check_consumers()
        except (AMQPError, OSError, RuntimeError) as error:
            raise BusUnavailable(f"the broker does not respond: {type(error).__name__}") from error

    async def drain(self) -> None:
        """Return when everything published here is confirmed and the queues consumed here are empty.

        For tests: it waits for messages of other publishers in these queues, too.
        """
        # AMQP has no notification for an empty queue, so this polls. A message that the broker has put back and sends
        # again is in no queue and not here yet, so a queue must be found empty twice.
        empty = 0
        while empty < 2:
            empty = empty + 1 if self._idle() and await self._queues_are_empty() and self._idle() else 0
            await asyncio.sleep(POLL_INTERVAL)

    @property
    def pools(self) -> Sequence[str]:
        """Names of the pools that this process consumes."""
        subscriptions = (consumer.subscription for consumer in self._consumers)
        return [subscription.name for subscription in subscriptions if subscription.mode is Mode.POOL]

    async def waiting(self, name: str) -> int:
        """Messages in the work queue of pool `name`, without those in a handler. Raises BusUnavailable."""
        return await self._pool_queues.waiting(name)

    async def dead_letters(self, name: str) -> int:
        """Messages in the dead-letter queue of pool `name`. Raises BusUnavailable."""
        return await self._pool_queues.dead_letters(name)

    async def redrive(self, name: str, limit: int) -> int:
        """Move up to `limit` dead letters of pool `name` back to its work queue; how many. Raises BusUnavailable."""
        return await self._pool_queues.redrive(name, limit)

    def _start(self, consumer: Consumer) -> None:
        self._consuming.open(self._supervisor)
        self._tasks.append(self._supervisor.start(f"bus-consumer-{consumer.subscription.name}", consumer.run))

    async def _tick(self) -> None:
        """Publish a tick to this instance's own broadcast queues every TICK_INTERVAL seconds.

        A tick that is not confirmed means that publications are not confirmed; one that does not arrive means that
        events do not arrive either (`Pulse`).
        """
        tick = Message(f"{TICK_ID}{self._instance_name}", Exchange.TICKS, self._instance_name, b"", type=TICK)
        now, confirmed_at = asyncio.get_running_loop().time, -math.inf
        while True:
            confirmation = self._publisher.send(tick)
            await asyncio.sleep(TICK_INTERVAL)
            if confirmation is not None and confirmation.outcome is Outcome.CONFIRMED:
                confirmed_at = now()
                self._confirming_since = min(self._confirming_since, confirmed_at)
            elif now() - confirmed_at > CONFIRM_TIMEOUT:
                self._confirming_since = math.inf

    def _connection(self) -> AbstractConnection:
        connection = self._publishing.current
        if connection is None:
            raise BusUnavailable("not connected")
        return connection

    def _idle(self) -> bool:
        return self._publisher.in_flight == 0 and all(consumer.idle for consumer in self._consumers)

    async def _check_consumers(self) -> None:
        await _consumers_and_messages(self._connection(), None)
        if not self._consumers:
            return
        connection = await self._consuming.connected()
        for consumer in self._consumers:
            consumers, _ = await _consumers_and_messages(connection, consumer.queue)
            if consumers == 0:
                raise BusUnavailable(f"no consumer for {consumer.subscription.name}")

    async def _queues_are_empty(self) -> bool:
        connection = await self._consuming.connected() if self._consumers else None
        for consumer in self._consumers:
            if connection is None or consumer.queue is None:
                return False
            _, messages = await _consumers_and_messages(connection, consumer.queue)
            if messages:
                return False
        return True


async def _consumers_and_messages(connection: AbstractConnection, queue: str | None) -> tuple[int, int]:
    """A queue's consumers and its messages that are ready. Without a queue: (0, 0), after a round trip."""
    async with connection.channel(publisher_confirms=False) as channel:
        if queue is None:
            return 0, 0
        found = await channel.declare_queue(queue, passive=True)
        return (found.declaration_result.consumer_count or 0, found.declaration_result.message_count or 0)


async def _cancel_within_timeout(tasks: Sequence[BackgroundTask]) -> None:
    """Cancel the tasks and wait until they have closed their channels, for CLOSE_TIMEOUT at most."""
    running = [task.task for task in tasks]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=CLOSE_TIMEOUT)
