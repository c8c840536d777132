"""One subscription: a queue, a channel on it, and the handlers that run."""

import asyncio
import secrets
from functools import partial

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import AbstractChannel as Channel
from aiormq.abc import DeliveredMessage

from libs.bus.endings import Ending, handle, pause_before_return
from libs.bus.port import Delivery, Message, Mode, Subscription
from libs.bus.rabbit.arrivals import Arrival, TakingConnection
from libs.bus.rabbit.declarations import ensure
from libs.bus.rabbit.link import Link, cancelled, closing, keep
from libs.bus.rabbit.settlements import Settlements
from libs.bus.rabbit.topology import BROADCASTS, Pool, topology

log = structlog.get_logger()

KEY_BEFORE_PARKING = "tokenwire_routing_key"
"""Header of a message that went back to its pool: the routing key it came with first."""


class Consumer:
    """Keeps one subscription consuming over a link, whatever is deleted, closed or restarted under it."""

    def __init__(
        self,
        subscription: Subscription,
        link: Link,
        *,
        instance_name: str,
        declare: bool,
        delivery_limit: int,
        first_pause: float,
    ) -> None:
        self.subscription = subscription
        self.queue: str | None = None
        """The queue consumed now, None while there is none."""
        self._link = link
        self._instance_name = instance_name
        self._declare = declare
        self._delivery_limit = delivery_limit
        self._first_pause = first_pause
        self._slots = asyncio.Semaphore(subscription.prefetch)
        self._running: set[asyncio.Task[None]] = set()
        self._settlements: Settlements | None = None
        self._interrupt = asyncio.Event()
        self._stopping = False
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def idle(self) -> bool:
        """True when nothing that was delivered here is unsettled."""
        return not self._running and (self._settlements is None or self._settlements.idle)

    async def run(self) -> None:
        """Consume until `stop`, beginning anew whenever the queue, the channel or the connection goes."""
        await keep(self._session, self.subscription.name)

    async def stop(self) -> None:
        """No new messages; returns when the running handlers have ended and are settled. Cancelled: they are, too."""
        self._stopping = True
        self._interrupt.set()
        try:
            await self._quiet.wait()
            if self._running:
                await asyncio.wait(self._running)
            if self._settlements is not None:
                await self._settlements.flush()
        finally:
            await cancelled(*self._running)

    async def _session(self) -> None:
        connection = await self._link.connected()
        if self._stopping:
            await asyncio.Event().wait()
        async with connection.channel(publisher_confirms=False) as channel:
            interrupt = self._interrupt = closing(channel)
            queue = await self._prepared_queue(connection, channel)
            await self._consume(connection, queue, await channel.get_underlay_channel(), interrupt)

    async def _consume(
        self, connection: TakingConnection, queue: str, channel: Channel, interrupt: asyncio.Event
    ) -> None:
        settlements = self._settlements = Settlements(channel)
        settling = asyncio.create_task(settlements.run())
        tag = f"{self.subscription.name}.{self._instance_name}.{secrets.token_hex(4)}"
        try:
            channel.on_consumer_cancel_callbacks.add(lambda _: interrupt.set())
            await channel.basic_qos(prefetch_count=self.subscription.prefetch)
            connection.take(channel.number, partial(self._deliver, settlements))
            await channel.basic_consume(queue, _passed_by, consumer_tag=tag)
            self.queue = queue
            self._quiet.clear()
            self._note_gap()
            log.info("bus_consuming", queue=queue)
            await interrupt.wait()
            if self._stopping:
                await channel.basic_cancel(tag)
                self._quiet.set()
                await asyncio.Event().wait()  # acknowledging what still runs; `run` is cancelled when that is over
        finally:
            self.queue = None
            self._quiet.set()
            settlements.close()
            await cancelled(settling)

    async def _prepared_queue(self, connection: AbstractConnection, channel: AbstractChannel) -> str:
        subscription = self.subscription
        if subscription.mode is Mode.POOL:
            pool = Pool(subscription.name, subscription.exchange, subscription.keys)
            await ensure(connection, topology((pool,), delivery_limit=self._delivery_limit), declare=self._declare)
            return pool.queue
        await ensure(connection, topology(()), declare=self._declare)
        # A new name each time: the broker may take a while to notice that the connection of the last one is gone.
        name = ".".join((BROADCASTS, subscription.name, self._instance_name, secrets.token_hex(4)))
        queue = await channel.declare_queue(
            name, exclusive=True, auto_delete=True, arguments={"x-queue-type": "classic"}
        )
        for key in subscription.keys:
            await queue.bind(subscription.exchange.value, key)
        return name

    def _note_gap(self) -> None:
        if self.subscription.mode is Mode.BROADCAST and self.subscription.on_gap is not None:
            self.subscription.on_gap()

    def _deliver(self, settlements: Settlements, arrival: Arrival) -> None:
        if self._stopping or settlements.closed:
            return  # unsettled, so it goes back with the channel
        settlements.delivered(arrival.tag)
        task = asyncio.create_task(self._settle(settlements, arrival))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _settle(self, settlements: Settlements, arrival: Arrival) -> None:
        if self.subscription.mode is Mode.BROADCAST:
            await self._handle_until_done(self._delivery(arrival))
            settlements.acknowledge(arrival.tag)
            return
        match await self._handle(self._delivery(arrival)):
            case Ending.DONE:
                settlements.acknowledge(arrival.tag)
            case Ending.AGAIN:
                # Held here for the pause, un-acked: when this process dies, the broker puts it back at once.
                pause = pause_before_return(_returned(arrival), self._first_pause)
                asyncio.get_running_loop().call_later(pause, settlements.reject, arrival.tag, True)
            case Ending.PARKED:
                settlements.reject(arrival.tag, False)

    async def _handle(self, delivery: Delivery) -> Ending:
        # The broker's prefetch bounds this already; after a reconnect the handlers of before count, too.
        async with self._slots:
            return await handle(self.subscription.handler, delivery, self.subscription.name)

    async def _handle_until_done(self, delivery: Delivery) -> None:
        """A broadcast is this instance's own, so it is tried again here; what cannot be handled was missed."""
        for attempt in range(self._delivery_limit + 1):
            match await self._handle(delivery):
                case Ending.DONE:
                    return
                case Ending.PARKED:
                    break
                case Ending.AGAIN:
                    await asyncio.sleep(pause_before_return(attempt, self._first_pause))
        self._note_gap()

    def _delivery(self, arrival: Arrival) -> Delivery:
        properties = arrival.properties
        headers = {
            name: value
            for name, value in properties.headers.items()
            if isinstance(value, str) and not name.startswith("x-")
        }
        message = Message(
            id=properties.message_id,
            exchange=self.subscription.exchange,
            key=headers.pop(KEY_BEFORE_PARKING, "") or arrival.key,
            body=arrival.body,
            headers=headers,
            content_type=properties.content_type,
            type=properties.type,
        )
        return Delivery(message, redelivered=arrival.redelivered)


def _returned(arrival: Arrival) -> int:
    """How often the broker says that this message came back."""
    count = arrival.properties.headers.get("x-delivery-count", 0)
    return count if isinstance(count, int) else 0


async def _passed_by(_: DeliveredMessage) -> None:
    """Nothing comes this way: the deliveries of the channel are taken."""
