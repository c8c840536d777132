"""Confirmed publishing: what waits is written together, and every message ends as routed or not.

aio-pika's own publish costs about 100 µs of work a message. Here the frames of everything that waits go out in one
write, on the channel beneath (aiormq, pinned): its numbering of publishes, its table of confirmations and its queue to
the socket are used directly. Nothing else publishes on that channel, so the numbers cannot get out of step.
"""

import asyncio
from collections.abc import Sequence
from typing import cast

import aiormq.abc
import structlog
from aiormq.channel import Channel

from libs.bus.port import Exchange, Message
from libs.bus.rabbit import frames
from libs.bus.rabbit.declarations import ensure
from libs.bus.rabbit.link import Link, closing, keep, until
from libs.bus.rabbit.topology import Topology

log = structlog.get_logger()

MOST_IN_FLIGHT = 20_000
"""Messages waiting for their confirmation; more are refused."""


class Publisher:
    """Publishes over a link while it is up, and says False at once while it is not."""

    def __init__(self, link: Link, topology: Topology, *, declare: bool, within: float) -> None:
        self._link = link
        self._topology = topology
        self._declare = declare
        self._within = within
        self._line: _Line | None = None

    @property
    def ready(self) -> bool:
        """True while messages can be taken."""
        return self._line is not None

    @property
    def in_flight(self) -> int:
        """Messages that wait for their confirmation."""
        return len(self._line.in_flight) if self._line is not None else 0

    async def publish(self, messages: Sequence[Message]) -> list[bool]:
        """Which of `messages` were routed and confirmed; after `within` seconds the unknown count as not."""
        line = self._line
        if line is None:
            return [False] * len(messages)
        sendings = [line.send(message) for message in messages]
        await self._settled(sendings)
        return [sending.routed is True for sending in sendings]

    async def run(self) -> None:
        """Keep a line open for ever."""
        await keep(self._session, "publisher")

    async def _session(self) -> None:
        connection = await self._link.connected()
        await ensure(connection, self._topology, declare=self._declare)
        async with connection.channel(publisher_confirms=True, on_return_raises=True) as channel:
            lost = closing(channel)
            line = self._line = _Line(await channel.get_underlay_channel())
            try:
                await until(lost, line.write())
            finally:
                self._line = None
                line.fail()

    async def _settled(self, sendings: Sequence["_Sending"]) -> None:
        wait = _Wait()
        for sending in sendings:
            wait.add(sending)
        try:
            async with asyncio.timeout(self._within):
                await wait.ended()
        except TimeoutError:
            log.warning("bus_confirmations_missing", messages=sum(sending.routed is None for sending in sendings))
        finally:
            wait.leave(sendings)


class _Sending:
    """A message on its way, standing in aiormq's table where the future of its own publish would."""

    __slots__ = ("_line", "id", "routed", "waits")

    def __init__(self, line: "_Line", message_id: str) -> None:
        self._line = line
        self.id = message_id
        self.routed: bool | None = None
        self.waits: list[_Wait] = []

    def done(self) -> bool:
        return self.routed is not None

    def cancelled(self) -> bool:
        return False

    def set_result(self, _: object) -> None:
        self.settle(True)

    def set_exception(self, _: BaseException) -> None:
        self.settle(False)

    def settle(self, routed: bool) -> None:
        if self.routed is not None:
            return
        self.routed = routed
        self._line.forget(self)
        for wait in self.waits:
            wait.one_less()


class _Wait:
    """A call of publish, waiting for all its messages."""

    __slots__ = ("_missing", "_over")

    def __init__(self) -> None:
        self._missing = 0
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ended(self) -> None:
        if self._missing:
            await self._over

    def add(self, sending: _Sending) -> None:
        if not sending.done():
            self._missing += 1
            sending.waits.append(self)

    def one_less(self) -> None:
        self._missing -= 1
        if self._missing == 0 and not self._over.done():
            self._over.set_result(None)

    def leave(self, sendings: Sequence[_Sending]) -> None:
        for sending in sendings:
            if self in sending.waits:
                sending.waits.remove(self)


class _Line:
    """One channel's life: everything sent on it is settled by the broker or by `fail`."""

    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        self._channel = cast(Channel, channel)
        self._frame_max = channel.connection.connection_tune.frame_max
        self._waiting: list[tuple[_Sending, bytes]] = []
        self._wake = asyncio.Event()
        self.in_flight: dict[str, _Sending] = {}
        """By message id. Returned messages are told apart by it alone, so an id is on its way once; who publishes it
        again meanwhile shares its outcome."""

    def send(self, message: Message) -> _Sending:
        if (sending := self.in_flight.get(message.id)) is not None:
            return sending
        sending = _Sending(self, message.id)
        payload = self._encoded(message)
        if payload is None or len(self.in_flight) >= MOST_IN_FLIGHT:
            sending.settle(False)
            return sending
        self.in_flight[message.id] = sending
        self._waiting.append((sending, payload))
        self._wake.set()
        return sending

    def _encoded(self, message: Message) -> bytes | None:
        # Nobody may be listening to an event, and that is no failure. A notification without its queue is one.
        mandatory = message.exchange is Exchange.NOTIFY
        try:
            return frames.publish(message, channel=self._channel.number, mandatory=mandatory, frame_max=self._frame_max)
        except ValueError as error:
            log.error("message_cannot_be_sent", message_id=message.id, type=message.type, reason=str(error))
            return None

    async def write(self) -> None:
        """Write what waits, as long as the channel lives; never more than the socket takes."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            drained = asyncio.get_running_loop().create_future()
            for sending, _ in waiting:
                self._number(sending)
            payload = b"".join(payload for _, payload in waiting)
            await self._channel.write_queue.put(
                aiormq.abc.ChannelFrame(payload, should_close=False, drain_future=drained)
            )
            await drained

    def _number(self, sending: _Sending) -> None:
        channel = self._channel
        channel.delivery_tag += 1
        channel.confirmations[channel.delivery_tag] = cast("asyncio.Future[object]", sending)
        channel.message_id_delivery_tag[sending.id] = channel.delivery_tag

    def forget(self, sending: _Sending) -> None:
        if self.in_flight.get(sending.id) is sending:
            del self.in_flight[sending.id]
            self._channel.message_id_delivery_tag.pop(sending.id, None)

    def fail(self) -> None:
        """The channel is gone: nothing is known about what was on its way."""
        for sending in list(self.in_flight.values()):
            sending.settle(False)
