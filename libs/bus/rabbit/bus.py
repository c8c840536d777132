"""The Bus protocol on RabbitMQ."""

import asyncio
from collections.abc import Sequence

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError

from libs.bus.port import BusUnavailable, Message, Mode, Subscription
from libs.bus.rabbit.consumer import Consumer
from libs.bus.rabbit.link import CLOSE_WITHIN, Link, cancelled
from libs.bus.rabbit.parking import Attendant
from libs.bus.rabbit.publisher import Publisher
from libs.bus.rabbit.topology import DELIVERY_LIMIT, POOLS, topology

PUBLISH_WITHIN = 5.0
"""Seconds after which a publish that nobody confirmed counts as unknown."""
STOP_WITHIN = 3.0
"""Seconds that running handlers get to end."""
PING_WITHIN = 2.0
"""Seconds that the broker gets to answer a ping."""
FIRST_PAUSE = 0.1
"""Seconds that a message is held the first time it is put back."""
POLL_EVERY = 0.02
"""Seconds between two looks of `drain`."""


class RabbitBus:
    """Publishes and consumes on two connections: a broker short of memory stops reading from publishers, and
    acknowledgements on the same connection would then be stuck with them.

    `instance_name` tells this process from its siblings in the broker's listings. With `declare=False` the topology is
    expected to exist. `delivery_limit` and `first_pause` are what a message put back meets; the limit is the queue's,
    set when it is declared.
    """

    def __init__(
        self,
        url: str,
        *,
        instance_name: str,
        declare: bool = True,
        delivery_limit: int = DELIVERY_LIMIT,
        first_pause: float = FIRST_PAUSE,
        publish_within: float = PUBLISH_WITHIN,
    ) -> None:
        self._instance_name = instance_name
        self._declare = declare
        self._delivery_limit = delivery_limit
        self._first_pause = first_pause
        self._publishing = Link(url, f"{instance_name} publishing")
        self._consuming = Link(url, f"{instance_name} consuming")
        self._publisher = Publisher(
            self._publishing, topology(POOLS, delivery_limit=delivery_limit), declare=declare, within=publish_within
        )
        self._attendant = Attendant(self._connection)
        self._consumers: list[Consumer] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._opened = False

    async def open(self) -> None:
        """Return at once; connecting goes on in the background and never gives up."""
        if self._opened:
            return
        self._opened = True
        self._publishing.open()
        self._tasks.append(asyncio.create_task(self._publisher.run()))
        for consumer in self._consumers:
            self._start(consumer)

    async def close(self) -> None:
        """Stop consuming, let running handlers end (bounded), close the connections. Idempotent."""
        await self.stop_consuming()
        await _cancelled_within(self._tasks)
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
            first_pause=self._first_pause,
        )
        self._consumers.append(consumer)
        if self._opened:
            self._start(consumer)

    async def stop_consuming(self) -> None:
        """Take no new messages; returns when running handlers have ended or after STOP_WITHIN."""
        stops = [asyncio.create_task(consumer.stop()) for consumer in self._consumers]
        if stops:
            await asyncio.wait(stops, timeout=STOP_WITHIN)
            await cancelled(*stops)

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Publish all together and wait for the broker's confirmations; True where a message is safely routed."""
        return await self._publisher.publish(messages)

    async def ping(self) -> None:
        """Return when connected, the topology in place and every subscription consumed, as the broker sees it."""
        if not self._publisher.ready:
            raise BusUnavailable("not connected" if self._publishing.connection is None else "topology missing")
        for consumer in self._consumers:
            if consumer.queue is None:
                raise BusUnavailable(f"no consumer for {consumer.subscription.name}")
        try:
            async with asyncio.timeout(PING_WITHIN):
                await self._ask_the_broker()
        except (AMQPError, OSError, RuntimeError) as error:
            raise BusUnavailable(f"the broker does not answer: {type(error).__name__}") from error

    async def drain(self) -> None:
        """Return when everything published is confirmed and our queues' messages are handled and settled here.

        For tests: it waits for what other publishers sent to these queues, too.
        """
        # The broker tells nobody when a queue is empty.
        while not (self._idle() and await self._queues_are_empty() and self._idle()):  # noqa: ASYNC110
            await asyncio.sleep(POLL_EVERY)

    @property
    def pools(self) -> Sequence[str]:
        """The names of the pools that are subscribed to here."""
        subscriptions = (consumer.subscription for consumer in self._consumers)
        return [subscription.name for subscription in subscriptions if subscription.mode is Mode.POOL]

    async def waiting(self, name: str) -> int:
        """How many messages of pool `name` nobody handles yet. Raises BusUnavailable."""
        return await self._attendant.waiting(name)

    async def parked(self, name: str) -> int:
        """How many messages of pool `name` are parked. Raises BusUnavailable."""
        return await self._attendant.parked(name)

    async def redrive(self, name: str, limit: int) -> int:
        """Put up to `limit` parked messages of pool `name` back to work; how many. Raises BusUnavailable."""
        return await self._attendant.redrive(name, limit)

    def _start(self, consumer: Consumer) -> None:
        self._consuming.open()
        self._tasks.append(asyncio.create_task(consumer.run()))

    def _connection(self) -> AbstractConnection:
        connection = self._publishing.connection
        if connection is None:
            raise BusUnavailable("not connected")
        return connection

    def _idle(self) -> bool:
        return self._publisher.in_flight == 0 and all(consumer.idle for consumer in self._consumers)

    async def _ask_the_broker(self) -> None:
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
    """How many consumers a queue has and how many messages wait in it; a round trip also without a queue."""
    async with connection.channel(publisher_confirms=False) as channel:
        if queue is None:
            return 0, 0
        found = await channel.declare_queue(queue, passive=True)
        return found.declaration_result.consumer_count or 0, found.declaration_result.message_count or 0


async def _cancelled_within(tasks: Sequence[asyncio.Task[None]]) -> None:
    """All tasks are cancelled, and over unless the broker does not answer their goodbye."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CLOSE_WITHIN)
