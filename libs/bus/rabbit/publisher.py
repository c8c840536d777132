"""Publishing with publisher confirms: every message ends with an outcome.

The messages are written by one of two writers: `LibraryWriter` below, on aio-pika's public API, or the faster one of
`publish_encoder`, where the installed versions of the libraries are among those it was proven with.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, DeliveryError

from libs.bus.port import LONGEST_KEY, PROBE_KEY, TICK_ID, Exchange, Message, Outcome
from libs.bus.rabbit import publish_encoder
from libs.bus.rabbit.connection import ReconnectingConnection, closed_event, run_until, supervise
from libs.bus.rabbit.declarations import ensure
from libs.bus.rabbit.topology import Topology
from libs.cancellation import cancel_and_wait

log = structlog.get_logger()

MAX_IN_FLIGHT = 20_000
"""Messages that may wait for their confirmation; the outcome of more is UNKNOWN."""
_MANDATORY = frozenset({Exchange.NOTIFY, Exchange.POOLS})
"""Exchanges on which a message without a queue is REFUSED, as is a probe. An event on EVENTS may have no subscriber."""
_FRAME_OVERHEAD, _FIXED_PROPERTIES = 8, 24
"""Bytes of a frame around its payload, and of a content header around the texts in it."""


class Writer(Protocol):
    """Writes the messages of one channel and settles each with the broker's confirmation."""

    def write(self, message: Message, confirmation: "Confirmation", *, mandatory: bool) -> None:
        """Send a message soon. Raises ValueError if AMQP cannot say it; then nothing was sent."""

    def forget(self, message_id: str) -> None:
        """This message is settled."""

    async def run(self) -> None:
        """Send what was written, until cancelled."""


class Publisher:
    """Publishes while there is a connection; without one, every outcome is UNKNOWN at once."""

    def __init__(
        self,
        connection: ReconnectingConnection,
        topology: Topology,
        *,
        declare: bool,
        timeout: float,
        use_encoder: bool = True,
    ) -> None:
        self._connection = connection
        self._topology = topology
        self._declare = declare
        self._timeout = timeout
        self._use_encoder = use_encoder
        self._channel: _PublishChannel | None = None

    @property
    def ready(self) -> bool:
        """True while messages are accepted."""
        return self._channel is not None

    @property
    def in_flight(self) -> int:
        """Messages that wait for their confirmation. Ticks do not count: during an alarm they are never confirmed."""
        channel = self._channel
        return sum(not id.startswith(TICK_ID) for id in channel.in_flight) if channel is not None else 0

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """The outcome of each message; UNKNOWN if the broker has not confirmed or refused it within the timeout."""
        channel = self._channel
        if channel is None:
            return [Outcome.UNKNOWN] * len(messages)
        confirmations = [channel.send(message) for message in messages]
        await self._wait(confirmations)
        return [Outcome.UNKNOWN if each.outcome is None else each.outcome for each in confirmations]

    def send(self, message: Message) -> "Confirmation | None":
        """Send a message without waiting, unless one with its id is in flight; None while there is no connection."""
        return self._channel.send(message) if self._channel is not None else None

    async def run(self) -> None:
        """Keep a channel open until cancelled."""
        await supervise(self._session, "publisher")

    async def _session(self) -> None:
        connection = await self._connection.connected()
        await ensure(connection, self._topology, declare=self._declare)
        async with connection.channel(publisher_confirms=True, on_return_raises=True) as channel:
            closed = closed_event(channel)
            writer = await self._writer(channel)
            self._channel = _PublishChannel(writer)
            try:
                await run_until(closed, writer.run())
            finally:
                publishing, self._channel = self._channel, None
                publishing.fail()

    async def _writer(self, channel: AbstractChannel) -> Writer:
        beneath = await channel.get_underlay_channel()
        if self._use_encoder and publish_encoder.is_supported():
            return publish_encoder.EncodingWriter(beneath)
        exchanges = {each: await channel.get_exchange(each.value, ensure=False) for each in Exchange}
        return LibraryWriter(exchanges, beneath.connection.connection_tune.frame_max)

    async def _wait(self, confirmations: "Sequence[Confirmation]") -> None:
        waiter = _Waiter()
        for confirmation in confirmations:
            waiter.add(confirmation)
        try:
            async with asyncio.timeout(self._timeout):
                await waiter.wait()
        except TimeoutError:
            missing = sum(confirmation.outcome is None for confirmation in confirmations)
            log.warning("bus_confirmations_missing", messages=missing)
        finally:
            waiter.leave(confirmations)


class Confirmation:
    """A message in flight. It has the methods of a future that aiormq calls when the broker confirms or refuses."""

    __slots__ = ("_channel", "id", "outcome", "waiters")

    def __init__(self, channel: "_PublishChannel", message_id: str) -> None:
        self._channel = channel
        self.id = message_id
        self.outcome: Outcome | None = None
        """None until the broker has confirmed or refused."""
        self.waiters: list[_Waiter] = []

    def done(self) -> bool:
        """Whether there is an outcome."""
        return self.outcome is not None

    def cancelled(self) -> bool:
        """Never."""
        return False

    def set_result(self, _: object) -> None:
        """The broker acknowledged the message."""
        self.on_confirmed(Outcome.CONFIRMED)

    def set_exception(self, error: BaseException) -> None:
        """The broker refused or returned the message (DeliveryError), or the channel ended before it was confirmed."""
        self.on_confirmed(Outcome.REFUSED if isinstance(error, DeliveryError) else Outcome.UNKNOWN)

    def on_confirmed(self, outcome: Outcome) -> None:
        """Set the outcome and wake the callers that wait for it. The first outcome counts."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self._channel.forget(self)
        for waiter in self.waiters:
            waiter.one_done()


class _Waiter:
    """A call of publish that waits for all its messages; cheaper than a future for each."""

    __slots__ = ("_done", "_missing")

    def __init__(self) -> None:
        self._missing = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        if self._missing:
            await self._done

    def add(self, confirmation: Confirmation) -> None:
        if not confirmation.done():
            self._missing += 1
            confirmation.waiters.append(self)

    def one_done(self) -> None:
        self._missing -= 1
        if self._missing == 0 and not self._done.done():
            self._done.set_result(None)

    def leave(self, confirmations: Sequence[Confirmation]) -> None:
        for confirmation in confirmations:
            if self in confirmation.waiters:
                confirmation.waiters.remove(self)


class _PublishChannel:
    """The messages in flight on one channel. Each gets an outcome from the broker, or from `fail`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.in_flight: dict[str, Confirmation] = {}
        """By message id. The broker returns a message by its id alone, so no id is in flight twice; a second call that
        publishes it shares the outcome of the first."""

    def send(self, message: Message) -> Confirmation:
        if (confirmation := self.in_flight.get(message.id)) is not None:
            return confirmation
        confirmation = Confirmation(self, message.id)
        if len(self.in_flight) >= MAX_IN_FLIGHT:
            confirmation.on_confirmed(Outcome.UNKNOWN)
            return confirmation
        try:
            self._writer.write(message, confirmation, mandatory=_is_mandatory(message))
        except ValueError as error:
            log.error("message_cannot_be_sent", message_id=message.id, type=message.type, reason=str(error))
            confirmation.on_confirmed(Outcome.REFUSED)
        else:
            self.in_flight[message.id] = confirmation
        return confirmation

    def forget(self, confirmation: Confirmation) -> None:
        if self.in_flight.get(confirmation.id) is confirmation:
            del self.in_flight[confirmation.id]
            self._writer.forget(confirmation.id)

    def fail(self) -> None:
        """The channel is closed: the outcome of every message in flight is UNKNOWN."""
        for confirmation in list(self.in_flight.values()):
            confirmation.on_confirmed(Outcome.UNKNOWN)


def _is_mandatory(message: Message) -> bool:
    return message.exchange in _MANDATORY or message.key == PROBE_KEY


class LibraryWriter:
    """Publishes each message with aio-pika, in a task of its own."""

    def __init__(self, exchanges: dict[Exchange, AbstractExchange], frame_max: int) -> None:
        self._exchanges = exchanges
        self._frame_max = frame_max
        self._publishing: set[asyncio.Task[None]] = set()

    def write(self, message: Message, confirmation: Confirmation, *, mandatory: bool) -> None:
        """Send a message soon. Raises ValueError if AMQP cannot say it; then nothing was sent."""
        _check_lengths(message, self._frame_max)
        task = asyncio.create_task(self._publish(message, confirmation, mandatory), name="bus-publish")
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    def forget(self, message_id: str) -> None:
        """Nothing to do: aiormq forgets its own confirmations."""

    async def run(self) -> None:
        """Wait until cancelled; then stop the publications that still wait."""
        try:
            await asyncio.Event().wait()
        finally:
            await cancel_and_wait(*self._publishing)

    async def _publish(self, message: Message, confirmation: Confirmation, mandatory: bool) -> None:
        outgoing = aio_pika.Message(
            message.body,
            headers=dict(message.headers),
            content_type=message.content_type,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=message.id,
            type=message.type,
            app_id=message.headers.get("cloudEvents_source", ""),
        )
        try:
            await self._exchanges[message.exchange].publish(outgoing, message.key, mandatory=mandatory)
        except (DeliveryError, *CONNECTION_EXCEPTIONS) as error:
            confirmation.set_exception(error)
        else:
            confirmation.set_result(None)


def _check_lengths(message: Message, frame_max: int) -> None:
    """Raises ValueError for a message that the library would send and the broker would close the connection for."""
    texts = (message.key, message.id, message.content_type, message.type, *message.headers)
    if any(len(text.encode()) > LONGEST_KEY for text in texts):
        raise ValueError(f"a text of message {message.id} is longer than {LONGEST_KEY} bytes")
    headers = sum(6 + len(name.encode()) + len(value.encode()) for name, value in message.headers.items())
    source = message.headers.get("cloudEvents_source", "")
    texts = (message.id, message.content_type, message.type, source)
    if headers + sum(1 + len(text.encode()) for text in texts) + _FIXED_PROPERTIES > frame_max - _FRAME_OVERHEAD:
        raise ValueError(f"headers of message {message.id} exceed a frame")
