"""Acknowledgements of one channel: gathered while handlers run, and sent in batches."""

import asyncio
import itertools
from collections.abc import Sequence

import structlog
from aio_pika.abc import AbstractIncomingMessage

log = structlog.get_logger()

GATHER = 0.002
"""Seconds for which finished messages are gathered, because each acknowledgement is a write to the socket."""


class Acknowledger:
    """Every message that the broker delivered on one channel and that is not settled yet.

    A message is settled once it was acknowledged, or rejected to be redelivered or dead-lettered.
    After `close` nothing more is sent: the broker delivers unsettled messages again, to any consumer of the queue.
    """

    def __init__(self) -> None:
        self._unsettled: dict[int, AbstractIncomingMessage] = {}
        """By delivery tag, in the order of delivery."""
        self._acknowledged: set[int] = set()
        """Delivery tags for the next batch."""
        self._rejected: list[tuple[int, bool]] = []
        self._next_tag = 1
        self._gapless = True
        """Whether every delivery so far has reached us; without that, no batch may be acknowledged as one."""
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._closed = False

    @property
    def idle(self) -> bool:
        """True when every delivered message is settled, or the channel is closed."""
        return self._closed or not self._unsettled

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def delivered(self, message: AbstractIncomingMessage) -> int:
        """Register a delivery; returns its delivery tag."""
        tag = message.delivery_tag or 0
        if tag != self._next_tag and self._gapless:
            # The broker numbers the deliveries of a channel 1, 2, 3, … A missing one was lost inside the client
            # library. `multiple=True` on a later one would acknowledge it, too, and the message would be lost.
            self._gapless = False
            log.error("bus_delivery_missing", expected=self._next_tag, found=tag)
        self._next_tag = tag + 1
        self._unsettled[tag] = message
        return tag

    def acknowledge(self, tag: int) -> None:
        """Have the broker forget this message, with the next batch."""
        self._acknowledged.add(tag)
        self._wake.set()

    def reject(self, tag: int, requeue: bool) -> None:
        """Have the broker put this message back into its queue, or else into the dead-letter queue."""
        self._rejected.append((tag, requeue))
        self._wake.set()

    async def run(self) -> None:
        """Send batches until cancelled. Raises AMQPError when the channel is gone."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER)
            await self.flush()

    async def flush(self) -> None:
        """Send everything that was acknowledged or rejected so far."""
        async with self._flushing:
            self._wake.clear()
            if not self._closed:
                await self._send()

    def close(self) -> None:
        """Send nothing more."""
        self._closed = True

    async def _send(self) -> None:
        # Rejections first: acknowledging a later message with `multiple=True` would acknowledge these, too.
        rejected, self._rejected = self._rejected, []
        for tag, requeue in rejected:
            if (message := self._unsettled.get(tag)) is not None:
                # Reject, not nack: since RabbitMQ 4.3 only a reject counts towards the delivery limit.
                await message.reject(requeue=requeue)
                del self._unsettled[tag]
        acknowledged, self._acknowledged = self._acknowledged, set()
        if batch := self._batch(acknowledged):
            await self._unsettled[batch[-1]].ack(multiple=True)
        for tag in acknowledged.difference(batch) & self._unsettled.keys():
            await self._unsettled[tag].ack()
        for tag in acknowledged:
            self._unsettled.pop(tag, None)

    def _batch(self, acknowledged: set[int]) -> Sequence[int]:
        """The oldest unsettled messages, up to the first that is not acknowledged.

        Acknowledging the last of them with `multiple=True` settles all of them.
        """
        return list(itertools.takewhile(acknowledged.__contains__, self._unsettled)) if self._gapless else []
