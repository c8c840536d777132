"""The bus inside one process, for `python -m services`: the same guarantees as RabbitMQ's, in memory.

A broker confirms a message once it is on disk. Here nothing is on disk, so a message to a pool is confirmed only after
its handler has acknowledged it (or it became a dead letter, which is logged). Until then the outbox keeps the event, so
a crash at any moment loses nothing. A publish that stops waiting returns UNKNOWN; if the same id is published again, it
joins the copy that is still being handled. Broadcasts are confirmed at once, because they only invalidate caches, and
those end with the process.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from libs.bus.handling import Ending, backoff, handle
from libs.bus.port import (
    LONGEST_KEY,
    PROBE_KEY,
    TICK_INTERVAL,
    BusUnavailable,
    Delivery,
    Exchange,
    Message,
    Mode,
    Outcome,
    Subscription,
)
from libs.bus.topics import matches
from libs.cancellation import cancel_and_wait
from libs.supervision import BackgroundTask, Supervisor, spawn

DELIVERY_LIMIT = 20
"""How often a message may be redelivered before it becomes a dead letter."""
FIRST_BACKOFF = 0.1
"""Seconds until a message is delivered again after its first Retry; the delay doubles with each further one."""
PUBLISH_TIMEOUT = 5.0
"""Seconds after which the outcome of a publish whose handlers have not ended is UNKNOWN."""
STOP_TIMEOUT = 3.0
"""Seconds that running handlers get to end."""


class LocalBroker:
    """The queues. Every LocalBus on the same LocalBroker is another instance on the same bus."""

    def __init__(self, relay: Callable[[Message], None] | None = None) -> None:
        self.queues: dict[str, _Queue] = {}
        self._relay = relay
        """Called with each event, to bring it to the broadcasts of other processes."""

    def pool(self, subscription: Subscription) -> "_Queue":
        """The pool's queue, created at the first subscription, bound to the keys of every subscription."""
        queue = self.queues.setdefault(subscription.name, _Queue())
        queue.bind(subscription)
        return queue

    def broadcast(self, subscription: Subscription) -> "_Queue":
        """A new queue for one instance; call `forget` when the instance stops."""
        queue = _Queue(confirms=False)
        queue.bind(subscription)
        self.queues[f"{subscription.name}.{id(queue)}"] = queue
        return queue

    def forget(self, queue: "_Queue") -> None:
        """Route nothing to this queue any more."""
        self.queues = {name: other for name, other in self.queues.items() if other is not queue}

    def route(self, message: Message) -> "list[_Copy] | None":
        """Put the message into every queue that it matches; the copies that must be handled before it is confirmed.

        None if the message is refused.
        """
        if len(message.key.encode(errors="replace")) > LONGEST_KEY:
            return None
        queues = [queue for queue in self.queues.values() if queue.matches(message)]
        if not queues and message.exchange is not Exchange.EVENTS and message.key != PROBE_KEY:
            return None
        copies = [queue.put(message) for queue in queues]
        if self._relay is not None and message.exchange is Exchange.EVENTS:
            self._relay(message)
        return [copy for queue, copy in zip(queues, copies, strict=True) if queue.confirms]

    def relayed(self, message: Message) -> None:
        """Put an event of another process into the broadcasts; the pools of that process handle it."""
        for queue in self.queues.values():
            if not queue.confirms and queue.matches(message):
                queue.put(message)


class LocalBus:
    """One instance on a broker in memory; without `broker`, on a broker of its own."""

    def __init__(
        self,
        broker: LocalBroker | None = None,
        *,
        delivery_limit: int = DELIVERY_LIMIT,
        first_backoff: float = FIRST_BACKOFF,
        publish_timeout: float = PUBLISH_TIMEOUT,
    ) -> None:
        self._broker = broker or LocalBroker()
        self._delivery_limit = delivery_limit
        self._first_backoff = first_backoff
        self._publish_timeout = publish_timeout
        self._consumers: list[_Consumer] = []
        self._supervisor = Supervisor()
        self._opened = False

    async def open(self, supervisor: Supervisor | None = None) -> None:
        """Start consuming, under this supervisor, and return at once."""
        if not self._opened:
            self._opened = True
            self._supervisor = supervisor or self._supervisor
            for consumer in self._consumers:
                consumer.start(self._broker, self._supervisor)

    async def close(self) -> None:
        """Stop consuming and wait STOP_TIMEOUT at most for running handlers. Idempotent."""
        await self.stop_consuming()
        self._opened = False

    def subscribe(self, subscription: Subscription) -> None:
        """Register a consumer; before or after `open`."""
        consumer = _Consumer(subscription, self._delivery_limit, self._first_backoff)
        self._consumers.append(consumer)
        if self._opened:
            consumer.start(self._broker, self._supervisor)

    async def stop_consuming(self) -> None:
        """Take no new messages; returns once running handlers have ended, or after STOP_TIMEOUT."""
        await asyncio.gather(*(consumer.stop(self._broker) for consumer in self._consumers))

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        """Route the messages and wait for the pools' handlers; CONFIRMED if every pool has handled its copy."""
        if not self._opened:
            return [Outcome.UNKNOWN] * len(messages)
        routed = [self._broker.route(message) for message in messages]
        await self._handled(copy for copies in routed if copies for copy in copies)
        return [_outcome(copies) for copies in routed]

    @property
    def confirming_for(self) -> float:
        """Infinite while open, 0 while not: there is no broker that might not respond."""
        return math.inf if self._opened else 0.0

    async def ping(self) -> None:
        """Return if open and every subscription has its consumer; else raise BusUnavailable with what is missing."""
        if not self._opened:
            raise BusUnavailable("not open")
        for consumer in self._consumers:
            if not consumer.consuming:
                raise BusUnavailable(f"no consumer for {consumer.subscription.name}")

    async def drain(self) -> None:
        """Return once the queues of this instance are empty and its handlers have ended."""
        while busy := [
            consumer.queue for consumer in self._consumers if consumer.consuming and consumer.queue.unsettled
        ]:
            await busy[0].settled.wait()

    @property
    def pools(self) -> Sequence[str]:
        """Names of the pools that this process consumes."""
        subscriptions = (consumer.subscription for consumer in self._consumers)
        return [subscription.name for subscription in subscriptions if subscription.mode is Mode.POOL]

    async def waiting(self, name: str) -> int:
        """Messages in the work queue of pool `name`, without those in a handler. Raises BusUnavailable."""
        return self._pool(name).waiting.qsize()

    async def dead_letters(self, name: str) -> int:
        """Messages in the dead-letter queue of pool `name`. Raises BusUnavailable."""
        return len(self._pool(name).dead_letters)

    async def redrive(self, name: str, limit: int) -> int:
        """Move up to `limit` dead letters of pool `name` back to its work queue; how many. Raises BusUnavailable."""
        queue = self._pool(name)
        moved = min(limit, len(queue.dead_letters))
        for _ in range(moved):
            queue.put(queue.dead_letters.popleft())
        return moved

    def _pool(self, name: str) -> "_Queue":
        queue = self._broker.queues.get(name)
        if queue is None:
            raise BusUnavailable(f"no pool named {name}")
        return queue

    async def _handled(self, copies: "Iterable[_Copy]") -> None:
        if waiting := [copy.safe for copy in copies if not copy.safe.done()]:
            await asyncio.wait(waiting, timeout=self._publish_timeout)


class _Copy:
    """A message in one queue."""

    __slots__ = ("message", "returned", "safe")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.returned = 0
        self.safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Queue:
    """A work queue with its dead letters, and the copies that are being handled."""

    def __init__(self, *, confirms: bool = True) -> None:
        self.confirms = confirms
        """True for a pool: a message is confirmed only after it was handled from this queue."""
        self.waiting: asyncio.Queue[_Copy | None] = asyncio.Queue()
        """None is a tick."""
        self.unsettled: dict[str, _Copy] = {}
        self.settled = asyncio.Event()
        self.dead_letters: deque[Message] = deque()
        self._bindings: set[tuple[Exchange, str]] = set()

    def bind(self, subscription: Subscription) -> None:
        self._bindings |= {(subscription.exchange, key) for key in subscription.keys}
        if subscription.mode is Mode.POOL and subscription.exchange is Exchange.EVENTS:
            self._bindings |= {(Exchange.POOLS, key) for key in subscription.keys}

    def matches(self, message: Message) -> bool:
        return any(
            exchange is message.exchange and _matches(exchange, key, message) for exchange, key in self._bindings
        )

    def put(self, message: Message) -> _Copy:
        """Put `message` into the queue, unless a copy with its id already waits here or is being handled; that copy."""
        if (copy := self.unsettled.get(message.id)) is None:
            copy = self.unsettled[message.id] = _Copy(message)
            self.settled.clear()
            self.waiting.put_nowait(copy)
        return copy

    def requeue(self, copy: _Copy) -> None:
        copy.returned += 1
        self.waiting.put_nowait(copy)

    def dead_letter(self, copy: _Copy) -> None:
        self.dead_letters.append(copy.message)
        self.settle(copy)

    def settle(self, copy: _Copy) -> None:
        del self.unsettled[copy.message.id]
        if not copy.safe.done():
            copy.safe.set_result(None)
        if not self.unsettled:
            self.settled.set()


class _Consumer:
    """One subscription: handles copies from its queue, as many at once as the prefetch allows."""

    def __init__(self, subscription: Subscription, delivery_limit: int, first_backoff: float) -> None:
        self.subscription = subscription
        self.queue = _Queue(confirms=False)
        self._delivery_limit = delivery_limit
        self._first_backoff = first_backoff
        self._slots = asyncio.Semaphore(subscription.prefetch)
        self._consuming: BackgroundTask | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._held: dict[_Copy, asyncio.TimerHandle] = {}
        self._ticking: asyncio.TimerHandle | None = None

    @property
    def consuming(self) -> bool:
        return self._consuming is not None and self._consuming.failure is None

    def start(self, broker: LocalBroker, supervisor: Supervisor) -> None:
        subscription = self.subscription
        broadcast = subscription.mode is Mode.BROADCAST
        self._slots = asyncio.Semaphore(subscription.prefetch)
        self.queue = broker.broadcast(subscription) if broadcast else broker.pool(subscription)
        self._consuming = supervisor.start(f"bus-consumer-{subscription.name}", self._consume)
        self._report_gap()
        if subscription.pulse is not None:
            self._tick()

    def _tick(self) -> None:
        """Put a tick into an empty queue now and every TICK_INTERVAL seconds."""
        if self.queue.waiting.empty():
            self.queue.waiting.put_nowait(None)
        self._ticking = asyncio.get_running_loop().call_later(TICK_INTERVAL, self._tick)

    async def stop(self, broker: LocalBroker) -> None:
        """Take no more copies; cancel handlers after STOP_TIMEOUT, which puts their copies back into the queue."""
        if self._consuming is None:
            return
        if self._ticking is not None:
            self._ticking.cancel()
        consuming, self._consuming = self._consuming, None
        consuming.task.cancel()
        await asyncio.wait((consuming.task, *self._running), timeout=STOP_TIMEOUT)
        await cancel_and_wait(consuming.task, *self._running)
        for copy in list(self._held):
            self._release(copy)
        if self.subscription.mode is Mode.BROADCAST:
            broker.forget(self.queue)

    async def _consume(self) -> None:
        while True:
            await self._slots.acquire()
            try:
                copy = await self.queue.waiting.get()
            except BaseException:
                self._slots.release()
                raise
            if self.subscription.pulse is not None:
                self.subscription.pulse.heard()
            if copy is None:
                self._slots.release()
                continue
            task = spawn("bus-message", self._settle(copy))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _settle(self, copy: _Copy) -> None:
        delivery = Delivery(copy.message, redelivered=copy.returned > 0)
        try:
            ending = await handle(self.subscription.handler, delivery, self.subscription.name)
        except asyncio.CancelledError:
            self._slots.release()
            self.queue.requeue(copy)
            raise
        if ending is Ending.RETRY and copy.returned < self._delivery_limit:
            self._hold(copy)
            return
        self._slots.release()
        if ending is Ending.DONE:
            self.queue.settle(copy)
        elif self.subscription.mode is Mode.POOL:
            self.queue.dead_letter(copy)
        else:
            self.queue.settle(copy)
            self._report_gap()

    def _hold(self, copy: _Copy) -> None:
        delay = backoff(copy.returned, self._first_backoff)
        self._held[copy] = asyncio.get_running_loop().call_later(delay, self._release, copy)

    def _release(self, copy: _Copy) -> None:
        self._held.pop(copy).cancel()
        self._slots.release()
        self.queue.requeue(copy)

    def _report_gap(self) -> None:
        if self.subscription.mode is Mode.BROADCAST and self.subscription.on_gap is not None:
            self.subscription.on_gap()


def _matches(exchange: Exchange, binding: str, message: Message) -> bool:
    return binding == message.key if exchange is Exchange.NOTIFY else matches(binding, message.key)


def _outcome(copies: "Sequence[_Copy] | None") -> Outcome:
    if copies is None:
        return Outcome.REFUSED
    return Outcome.CONFIRMED if all(copy.safe.done() for copy in copies) else Outcome.UNKNOWN
