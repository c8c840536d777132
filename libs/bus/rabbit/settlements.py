"""Acknowledging: what handlers finished since the last time, neighbours in one frame."""

import asyncio

from aiormq.abc import AbstractChannel


class Settlements:
    """What is delivered on one channel and not settled yet. After `close` the broker gives it to somebody else."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self._unsettled: dict[int, None] = {}
        """Delivery tags in the order of delivery."""
        self._finished: set[int] = set()
        self._refused: list[tuple[int, bool]] = []
        self._wake = asyncio.Event()
        self._telling = asyncio.Lock()
        self._closed = False

    @property
    def idle(self) -> bool:
        """True when everything delivered is settled, or the channel gone."""
        return self._closed or not self._unsettled

    @property
    def closed(self) -> bool:
        """True when nothing is settled any more."""
        return self._closed

    def delivered(self, tag: int) -> None:
        """The broker waits for `tag` from now on."""
        self._unsettled[tag] = None

    def acknowledge(self, tag: int) -> None:
        """`tag` is done with; the broker hears of it at the next opportunity."""
        self._finished.add(tag)
        self._wake.set()

    def reject(self, tag: int, requeue: bool) -> None:
        """`tag` goes back to its queue, or to the parked ones."""
        self._refused.append((tag, requeue))
        self._wake.set()

    async def run(self) -> None:
        """Tell the broker, as long as the channel lives."""
        while True:
            await self._wake.wait()
            await self.flush()

    async def flush(self) -> None:
        """The broker was told of everything so far."""
        async with self._telling:
            self._wake.clear()
            if not self._closed:
                await self._tell()

    async def _tell(self) -> None:
        # Refusals first: the acknowledgement of a later tag takes in all unsettled ones before it.
        refused, self._refused = self._refused, []
        for tag, requeue in refused:
            self._unsettled.pop(tag, None)
            # Reject, not nack: since RabbitMQ 4.3 only a reject counts towards the delivery limit.
            await self._channel.basic_reject(tag, requeue=requeue, wait=False)
        if (last := self._finished_run()) is not None:
            await self._channel.basic_ack(last, multiple=True, wait=False)
        finished, self._finished = self._finished, set()
        for tag in finished:
            self._unsettled.pop(tag, None)
            await self._channel.basic_ack(tag, wait=False)

    def close(self) -> None:
        """Nothing is settled any more."""
        self._closed = True

    def _finished_run(self) -> int | None:
        """The last of the finished tags before the first that is not; they are settled with it."""
        last = None
        while (first := next(iter(self._unsettled), None)) is not None and first in self._finished:
            last = first
            del self._unsettled[first]
            self._finished.discard(first)
        return last
