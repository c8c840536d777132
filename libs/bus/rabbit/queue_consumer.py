"""One subscription: a queue, a channel that consumes it, and the handlers that run."""

import asyncio
import secrets
from functools import partial

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue

from libs.bus.handling import Ending, backoff, handle
from libs.bus.port import TICK, Delivery, Exchange, Message, Mode, Subscription
from libs.bus.rabbit.acknowledger import Acknowledger
from libs.bus.rabbit.connection import ReconnectingConnection, closed_event, supervise
from libs.bus.rabbit.declarations import ensure
from libs.bus.rabbit.topology import BROADCASTS, Pool, topology
from libs.cancellation import cancel_and_wait
from libs.supervision import spawn

log = structlog.get_logger()

ORIGINAL_ROUTING_KEY = "tokenwire_routing_key"
"""Header of a redriven message: the routing key with which it was published. Its current one is its queue's name."""


class Consumer:
    """Keeps one subscription consuming, whatever is deleted, closed or restarted on the broker."""

    def __init__(
        self,
        subscription: Subscription,
        connection: ReconnectingConnection,
        *,
        instance_name: str,
        declare: bool,
        delivery_limit: int,
        first_backoff: float,
    ) -> None:
        self.subscription = subscription
        self.queue: str | None = None
        """Name of the queue that is consumed now; None while there is none."""
        self._connection = connection
        self._instance_name = instance_name
        self._declare = declare
        self._delivery_limit = delivery_limit
        self._first_backoff = first_backoff
        self._slots = asyncio.Semaphore(subscription.prefetch)
        self._running: set[asyncio.Task[None]] = set()
        self._acknowledger: Acknowledger | None = None
        self._interrupt = asyncio.Event()
        self._stopping = False
        self._cancelled_at_broker = asyncio.Event()
        """Set while the broker sends nothing to this consumer."""
        self._cancelled_at_broker.set()

    @property
    def idle(self) -> bool:
        """True when every message that was delivered here is settled."""
        return not self._running and (self._acknowledger is None or self._acknowledger.idle)

    async def run(self) -> None:
        """Consume until cancelled, starting again whenever the queue, the channel or the connection is lost."""
        await supervise(self._session, self.subscription.name)

    async def stop(self) -> None:
        """Take no new messages; returns once the running handlers have ended and their messages are settled.

        If this is cancelled, so are the handlers; their messages go back to the queue when the channel closes.
        """
        self._stopping = True
        self._interrupt.set()
        try:
            await self._cancelled_at_broker.wait()
            if self._running:
                await asyncio.wait(self._running)
            if self._acknowledger is not None:
                await self._acknowledger.flush()
        finally:
            await cancel_and_wait(*self._running)

    async def _session(self) -> None:
        connection = await self._connection.connected()
        if self._stopping:
            await asyncio.Event().wait()
        async with connection.channel(publisher_confirms=False) as channel:
            interrupt = self._interrupt = closed_event(channel)
            queue = await self._prepared_queue(connection, channel)
            await self._consume(queue, channel, interrupt)

    async def _consume(self, queue: AbstractQueue, channel: AbstractChannel, interrupt: asyncio.Event) -> None:
        acknowledger = self._acknowledger = Acknowledger()
        acknowledging = asyncio.create_task(acknowledger.run(), name="bus-acknowledging")
        acknowledging.add_done_callback(lambda _: interrupt.set())
        tag = f"{self.subscription.name}.{self._instance_name}.{secrets.token_hex(4)}"
        try:
            # The broker cancels a consumer whose queue is deleted or moved; the channel stays open.
            beneath = await channel.get_underlay_channel()
            beneath.on_consumer_cancel_callbacks.add(lambda _: interrupt.set())
            await channel.set_qos(prefetch_count=self.subscription.prefetch)
            await queue.consume(partial(self._on_message, acknowledger), consumer_tag=tag)
            self.queue = queue.name
            self._cancelled_at_broker.clear()
            self._report_gap()
            log.info("bus_consuming", queue=queue.name)
            await interrupt.wait()
            if acknowledging.done():
                acknowledging.result()  # raises what ended it: without it no message would be acknowledged any more
            if self._stopping:
                await queue.cancel(tag)
                self._cancelled_at_broker.set()
                # Stay on the channel while handlers still run and are acknowledged; `run` is cancelled after that.
                await asyncio.Event().wait()
        finally:
            self.queue = None
            self._cancelled_at_broker.set()
            acknowledger.close()
            await cancel_and_wait(acknowledging)

    async def _prepared_queue(self, connection: AbstractConnection, channel: AbstractChannel) -> AbstractQueue:
        subscription = self.subscription
        if subscription.mode is Mode.POOL:
            pool = Pool(subscription.name, subscription.exchange, subscription.keys)
            await ensure(connection, topology((pool,), delivery_limit=self._delivery_limit), declare=self._declare)
            return await channel.get_queue(pool.queue, ensure=False)
        await ensure(connection, topology(()), declare=self._declare)
        # A new name each time: the broker may not have noticed yet that the connection of the last queue is gone.
        name = ".".join((BROADCASTS, subscription.name, self._instance_name, secrets.token_hex(4)))
        queue = await channel.declare_queue(
            name, exclusive=True, auto_delete=True, arguments={"x-queue-type": "classic"}
        )
        for key in subscription.keys:
            await queue.bind(subscription.exchange.value, key)
        if subscription.pulse is not None:
            await queue.bind(Exchange.TICKS.value, self._instance_name)
        return queue

    def _report_gap(self) -> None:
        if self.subscription.mode is Mode.BROADCAST and self.subscription.on_gap is not None:
            self.subscription.on_gap()

    async def _on_message(self, acknowledger: Acknowledger, message: AbstractIncomingMessage) -> None:
        """Start the handler in a task of its own: aiormq cancels the task of this callback when the channel closes."""
        if self._stopping or acknowledger.closed:
            return  # not settled, so it goes back to the queue when the channel closes
        tag = acknowledger.delivered(message)
        if self.subscription.pulse is not None:
            self.subscription.pulse.heard()
            if message.type == TICK:
                acknowledger.acknowledge(tag)
                return
        task = spawn("bus-message", self._settle(acknowledger, tag, message))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _settle(self, acknowledger: Acknowledger, tag: int, message: AbstractIncomingMessage) -> None:
        delivery = self._delivery(message)
        if self.subscription.mode is Mode.BROADCAST:
            await self._handle_until_done(delivery)
            acknowledger.acknowledge(tag)
            return
        match await self._handle(delivery):
            case Ending.DONE:
                acknowledger.acknowledge(tag)
            case Ending.RETRY:
                # Held here during the backoff, unsettled: if this process dies, the broker redelivers it at once.
                delay = backoff(_delivery_count(message), self._first_backoff)
                asyncio.get_running_loop().call_later(delay, acknowledger.reject, tag, True)
            case Ending.DEAD_LETTER:
                acknowledger.reject(tag, False)

    async def _handle(self, delivery: Delivery) -> Ending:
        # The broker's prefetch limits this already; after a reconnect, handlers from before it count as well.
        async with self._slots:
            return await handle(self.subscription.handler, delivery, self.subscription.name)

    async def _handle_until_done(self, delivery: Delivery) -> None:
        """Retry here, because the queue belongs to this instance alone. A message given up on counts as missed."""
        for attempt in range(self._delivery_limit + 1):
            match await self._handle(delivery):
                case Ending.DONE:
                    return
                case Ending.DEAD_LETTER:
                    break
                case Ending.RETRY:
                    await asyncio.sleep(backoff(attempt, self._first_backoff))
        self._report_gap()

    def _delivery(self, message: AbstractIncomingMessage) -> Delivery:
        headers = {
            name: value
            for name, value in message.headers.items()
            if isinstance(value, str) and not name.startswith("x-")
        }
        return Delivery(
            Message(
                id=message.message_id or "",
                exchange=self.subscription.exchange,
                key=headers.pop(ORIGINAL_ROUTING_KEY, "") or message.routing_key or "",
                body=message.body,
                headers=headers,
                content_type=message.content_type or "",
                type=message.type or "",
            ),
            redelivered=bool(message.redelivered),
        )


def _delivery_count(message: AbstractIncomingMessage) -> int:
    """How often the broker has delivered this message before."""
    count = message.headers.get("x-delivery-count", 0)
    return count if isinstance(count, int) else 0
