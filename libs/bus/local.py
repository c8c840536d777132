"""The bus inside one process: the same promises as the broker's, kept in memory, for `python -m services`.

A broker confirms a message once it is on disk. Here nothing is on disk, so a message to a pool is confirmed only once
its handler acknowledged it (or it was parked, which is logged): until then the outbox keeps it, and a crash at any
moment loses nothing. A publish that gives up waiting says False, and the same id published again joins the copy that is
still being handled. Broadcasts are confirmed at once: what they are for, caches, dies with the process, too.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from libs.bus.endings import Ending, handle, pause_before_return
from libs.bus.port import LONGEST_KEY, BusUnavailable, Delivery, Exchange, Message, Mode, Subscription
from libs.bus.topics import matches

DELIVERY_LIMIT = 20
"""How often a message may come back before it is parked."""
FIRST_PAUSE = 0.1
"""Seconds that a message is held the first time it is put back."""
PUBLISH_WITHIN = 5.0
"""Seconds after which a publish whose handlers have not ended counts as unknown."""
STOP_WITHIN = 3.0
"""Seconds that running handlers get to end."""


class LocalBroker:
    """The queues. Every LocalBus given the same one is another instance on the same bus."""

    def __init__(self) -> None:
        self.queues: dict[str, _Queue] = {}

    def pool(self, subscription: Subscription) -> "_Queue":
        """The pool's queue; it is there from the first subscription on, and takes in the keys of all of them."""
        queue = self.queues.setdefault(subscription.name, _Queue())
        queue.bind(subscription)
        return queue

    def broadcast(self, subscription: Subscription) -> "_Queue":
        """A queue for one instance; `forget` it when the instance stops."""
        queue = _Queue(confirms=False)
        queue.bind(subscription)
        self.queues[f"{subscription.name}.{id(queue)}"] = queue
        return queue

    def forget(self, queue: "_Queue") -> None:
        """Nothing is routed to this queue any more."""
        self.queues = {name: other for name, other in self.queues.items() if other is not queue}

    def route(self, message: Message) -> "list[_Copy] | None":
        """The copies that must be handled before the message counts as safe; None when it cannot be."""
        if len(message.key.encode(errors="replace")) > LONGEST_KEY:
            return None
        queues = [queue for queue in self.queues.values() if queue.takes(message)]
        if not queues and message.exchange is Exchange.NOTIFY:
            return None
        copies = [queue.put(message) for queue in queues]
        return [copy for queue, copy in zip(queues, copies, strict=True) if queue.confirms]


class LocalBus:
    """One instance on a broker in memory; without a broker of its own to share, the only one."""

    def __init__(
        self,
        broker: LocalBroker | None = None,
        *,
        delivery_limit: int = DELIVERY_LIMIT,
        first_pause: float = FIRST_PAUSE,
        publish_within: float = PUBLISH_WITHIN,
    ) -> None:
        self._broker = broker or LocalBroker()
        self._delivery_limit = delivery_limit
        self._first_pause = first_pause
        self._publish_within = publish_within
        self._consumers: list[_Consumer] = []
        self._opened = False

    async def open(self) -> None:
        """Return at once; consuming has begun."""
        if not self._opened:
            self._opened = True
            for consumer in self._consumers:
                consumer.start(self._broker)

    async def close(self) -> None:
        """Stop consuming, let running handlers end (bounded). Idempotent."""
        await self.stop_consuming()
        self._opened = False

    def subscribe(self, subscription: Subscription) -> None:
        """Register a consumer; before or after `open`."""
        consumer = _Consumer(subscription, self._delivery_limit, self._first_pause)
        self._consumers.append(consumer)
        if self._opened:
            consumer.start(self._broker)

    async def stop_consuming(self) -> None:
        """Take no new messages; returns when running handlers have ended or after STOP_WITHIN."""
        await asyncio.gather(*(consumer.stop(self._broker) for consumer in self._consumers))

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Route all and wait for the pools' handlers; True where everybody who must have the message handled it."""
        if not self._opened:
            return [False] * len(messages)
        routed = [self._broker.route(message) for message in messages]
        await self._handled(copy for copies in routed if copies for copy in copies)
        return [copies is not None and all(copy.safe.done() for copy in copies) for copies in routed]

    async def ping(self) -> None:
        """Return when open and every subscription has its consumer; raise BusUnavailable with what is missing."""
        if not self._opened:
            raise BusUnavailable("not open")
        for consumer in self._consumers:
            if not consumer.consuming:
                raise BusUnavailable(f"no consumer for {consumer.subscription.name}")

    async def drain(self) -> None:
        """Return when nothing waits for the handlers of this instance."""
        while busy := [
            consumer.queue for consumer in self._consumers if consumer.consuming and consumer.queue.unsettled
        ]:
            await busy[0].settled.wait()

    @property
    def pools(self) -> Sequence[str]:
        """The names of the pools that are subscribed to here."""
        subscriptions = (consumer.subscription for consumer in self._consumers)
        return [subscription.name for subscription in subscriptions if subscription.mode is Mode.POOL]

    async def waiting(self, name: str) -> int:
        """How many messages of pool `name` nobody handles yet. Raises BusUnavailable."""
        return self._pool(name).waiting.qsize()

    async def parked(self, name: str) -> int:
        """How many messages of pool `name` are parked. Raises BusUnavailable."""
        return len(self._pool(name).parked)

    async def redrive(self, name: str, limit: int) -> int:
        """Put up to `limit` parked messages of pool `name` back to work; how many. Raises BusUnavailable."""
        queue = self._pool(name)
        moved = min(limit, len(queue.parked))
        for _ in range(moved):
            queue.put(queue.parked.popleft())
        return moved

    def _pool(self, name: str) -> "_Queue":
        queue = self._broker.queues.get(name)
        if queue is None:
            raise BusUnavailable(f"no parked queue of {name}")
        return queue

    async def _handled(self, copies: "Iterable[_Copy]") -> None:
        if waiting := [copy.safe for copy in copies if not copy.safe.done()]:
            await asyncio.wait(waiting, timeout=self._publish_within)


class _Copy:
    """A message in one queue."""

    __slots__ = ("message", "returned", "safe")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.returned = 0
        self.safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Queue:
    """Copies that wait, those that somebody handles now, and the parked."""

    def __init__(self, *, confirms: bool = True) -> None:
        self.confirms = confirms
        """True when a message is safe only once it is handled from here."""
        self.waiting: asyncio.Queue[_Copy] = asyncio.Queue()
        self.unsettled: dict[str, _Copy] = {}
        self.settled = asyncio.Event()
        self.parked: deque[Message] = deque()
        self._bindings: set[tuple[Exchange, str]] = set()

    def bind(self, subscription: Subscription) -> None:
        self._bindings |= {(subscription.exchange, key) for key in subscription.keys}

    def takes(self, message: Message) -> bool:
        return any(exchange is message.exchange and _takes(exchange, key, message) for exchange, key in self._bindings)

    def put(self, message: Message) -> _Copy:
        """The copy of `message` that waits here, or is handled from here already."""
        if (copy := self.unsettled.get(message.id)) is None:
            copy = self.unsettled[message.id] = _Copy(message)
            self.settled.clear()
            self.waiting.put_nowait(copy)
        return copy

    def put_back(self, copy: _Copy) -> None:
        copy.returned += 1
        self.waiting.put_nowait(copy)

    def park(self, copy: _Copy) -> None:
        self.parked.append(copy.message)
        self.settle(copy)

    def settle(self, copy: _Copy) -> None:
        del self.unsettled[copy.message.id]
        if not copy.safe.done():
            copy.safe.set_result(None)
        if not self.unsettled:
            self.settled.set()


class _Consumer:
    """One subscription: takes copies from its queue, as many at once as the prefetch allows."""

    def __init__(self, subscription: Subscription, delivery_limit: int, first_pause: float) -> None:
        self.subscription = subscription
        self.queue = _Queue(confirms=False)
        self._delivery_limit = delivery_limit
        self._first_pause = first_pause
        self._slots = asyncio.Semaphore(subscription.prefetch)
        self._taking: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._held: dict[_Copy, asyncio.TimerHandle] = {}

    @property
    def consuming(self) -> bool:
        return self._taking is not None and not self._taking.done()

    def start(self, broker: LocalBroker) -> None:
        subscription = self.subscription
        broadcast = subscription.mode is Mode.BROADCAST
        self._slots = asyncio.Semaphore(subscription.prefetch)
        self.queue = broker.broadcast(subscription) if broadcast else broker.pool(subscription)
        self._taking = asyncio.create_task(self._take())
        self._note_gap()

    async def stop(self, broker: LocalBroker) -> None:
        """Nothing more is taken; what does not end in time goes back to the queue."""
        if self._taking is None:
            return
        taking, self._taking = self._taking, None
        taking.cancel()
        await asyncio.wait((taking, *self._running), timeout=STOP_WITHIN)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for copy in list(self._held):
            self._release(copy)
        if self.subscription.mode is Mode.BROADCAST:
            broker.forget(self.queue)

    async def _take(self) -> None:
        while True:
            await self._slots.acquire()
            copy = await self.queue.waiting.get()
            task = asyncio.create_task(self._settle(copy))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _settle(self, copy: _Copy) -> None:
        delivery = Delivery(copy.message, redelivered=copy.returned > 0)
        try:
            ending = await handle(self.subscription.handler, delivery, self.subscription.name)
        except asyncio.CancelledError:
            self._slots.release()
            self.queue.put_back(copy)
            raise
        if ending is Ending.AGAIN and copy.returned < self._delivery_limit:
            self._hold(copy)
            return
        self._slots.release()
        if ending is Ending.DONE:
            self.queue.settle(copy)
        elif self.subscription.mode is Mode.POOL:
            self.queue.park(copy)
        else:
            self.queue.settle(copy)
            self._note_gap()

    def _hold(self, copy: _Copy) -> None:
        pause = pause_before_return(copy.returned, self._first_pause)
        self._held[copy] = asyncio.get_running_loop().call_later(pause, self._release, copy)

    def _release(self, copy: _Copy) -> None:
        self._held.pop(copy).cancel()
        self._slots.release()
        self.queue.put_back(copy)

    def _note_gap(self) -> None:
        if self.subscription.mode is Mode.BROADCAST and self.subscription.on_gap is not None:
            self.subscription.on_gap()


def _takes(exchange: Exchange, binding: str, message: Message) -> bool:
    return matches(binding, message.key) if exchange is Exchange.EVENTS else binding == message.key
