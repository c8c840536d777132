"""A bus that traces what it publishes and what its pools process; wraps the real one where tracing is on.

Spans are named and described as the semantic conventions for messaging say. A message carries the context of the span
that published it in its header `traceparent`; the CloudEvents attribute of that name stays what it is, the context of
the request that caused the event.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from libs.bus.port import Bus, Delivery, Exchange, Message, Mode, Outcome, Subscription
from libs.supervision import Supervisor
from libs.tracing.spans import TRACEPARENT, Attributes, Kind, Span, Tracer

_CLOUD_EVENT = {f"cloudEvents_{name}": f"cloudevents.event_{name}" for name in ("id", "source", "type")}


@dataclass(frozen=True, slots=True)
class TracedBus:
    """The bus beneath, with a span for each message. Broadcasts are not traced: they only invalidate caches."""

    bus: Bus
    tracer: Tracer

    async def open(self, supervisor: Supervisor | None = None) -> None:
        """As the bus beneath."""
        await self.bus.open(supervisor)

    async def close(self) -> None:
        """As the bus beneath."""
        await self.bus.close()

    def subscribe(self, subscription: Subscription) -> None:
        """Register a consumer; its handler runs in a span if it is a pool's."""
        if subscription.mode is Mode.POOL:
            subscription = replace(subscription, handler=_TracedHandler(subscription, self.tracer))
        self.bus.subscribe(subscription)

    @property
    def pools(self) -> Sequence[str]:
        """As the bus beneath."""
        return self.bus.pools

    async def stop_consuming(self) -> None:
        """As the bus beneath."""
        await self.bus.stop_consuming()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        """Publish the messages, each with the context of its span, which ends with the broker's answer."""
        spans = [self._publishing(message) for message in messages]
        sent = [_with_context(message, span) for message, span in zip(messages, spans, strict=True)]
        outcomes: Sequence[Outcome] = ()
        try:
            outcomes = await self.bus.publish(sent)
        finally:
            for index, span in enumerate(spans):
                outcome = outcomes[index] if outcomes else Outcome.UNKNOWN
                span.end(error=None if outcome else outcome.value)
        return outcomes

    @property
    def confirming_for(self) -> float:
        """As the bus beneath."""
        return self.bus.confirming_for

    async def ping(self) -> None:
        """As the bus beneath."""
        await self.bus.ping()

    async def drain(self) -> None:
        """As the bus beneath."""
        await self.bus.drain()

    async def waiting(self, name: str) -> int:
        """As the bus beneath."""
        return await self.bus.waiting(name)

    async def dead_letters(self, name: str) -> int:
        """As the bus beneath."""
        return await self.bus.dead_letters(name)

    async def redrive(self, name: str, limit: int) -> int:
        """As the bus beneath."""
        return await self.bus.redrive(name, limit)

    def _publishing(self, message: Message) -> Span:
        about = _described(message, "send", "publish")
        return self.tracer.start(Kind.PRODUCER, f"publish {message.exchange}", _context_of(message), about)


@dataclass(frozen=True, slots=True)
class _TracedHandler:
    """Runs the handler of a pool in a span, whose context is the message's `traceparent` for the handler."""

    subscription: Subscription
    tracer: Tracer

    async def __call__(self, delivery: Delivery) -> None:
        message, pool = delivery.message, self.subscription
        about = {**_described(message, "process", "process"), "messaging.consumer.group.name": pool.name}
        span = self.tracer.start(Kind.CONSUMER, f"process {message.exchange}", _context_of(message), about)
        try:
            await pool.handler(delivery._replace(message=_with_context(message, span)))
        except BaseException as error:
            span.end(error=type(error).__name__)
            raise
        span.end()


def _described(message: Message, operation_type: str, operation: str) -> Attributes:
    cloud_event = {ours: message.headers[header] for header, ours in _CLOUD_EVENT.items() if header in message.headers}
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.type": operation_type,
        "messaging.operation.name": operation,
        "messaging.destination.name": f"{message.exchange}:{message.key}",
        "messaging.destination.template": message.exchange.value,
        "messaging.rabbitmq.destination.routing_key": message.key,
        "messaging.message.id": message.id,
        "messaging.message.body.size": len(message.body),
        **cloud_event,
    }


def _with_context(message: Message, span: Span) -> Message:
    return message._replace(headers={**message.headers, TRACEPARENT: span.traceparent})


def _context_of(message: Message) -> str | None:
    """The context that the message carries; that of its event where a notification has no header."""
    if (context := message.headers.get(TRACEPARENT)) is not None or message.exchange is not Exchange.NOTIFY:
        return context
    try:
        context = orjson.loads(message.body)["event"].get(TRACEPARENT)
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return None  # the handler finds out what is wrong with the message
    return context if isinstance(context, str) else None
