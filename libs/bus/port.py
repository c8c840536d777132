"""The bus as the services see it: facts go out confirmed, and come in to pools or to everyone."""

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

LONGEST_KEY = 255
"""Bytes of a routing key; a message with a longer one is never routed."""


class Exchange(enum.StrEnum):
    """Where a message goes."""

    EVENTS = "tokenwire.events"
    """Topic exchange of public CloudEvents; downstream systems bind their own queues here."""
    NOTIFY = "tokenwire.notify"
    """Direct exchange of sealed notification commands; only the notifier may read what it routes."""


class Message(NamedTuple):
    """One message as it crosses the wire: the very same bytes on every attempt to publish it."""

    id: str
    """Unique among the messages in flight: the event id, or `<event id>:n` for its sealed companion."""
    exchange: Exchange
    key: str
    """Routing key, at most 255 bytes: `<type>.<api id>` on EVENTS, `notify` on NOTIFY."""
    body: bytes
    headers: Mapping[str, str] = {}
    content_type: str = "application/cloudevents+json; charset=utf-8"
    type: str = ""


class Delivery(NamedTuple):
    """A message as a consumer sees it."""

    message: Message
    redelivered: bool
    """True when the broker says that it was delivered before; a first delivery may still be a duplicate."""


class Retry(Exception):
    """Raised by a handler: put the message back; it comes again until the delivery limit parks it."""


class Drop(Exception):
    """Raised by a handler: this message can never be handled; park it in the dead-letter queue at once."""


class Mode(enum.Enum):
    """Who gets a copy."""

    POOL = "pool"
    """Every message once, to whichever instance is free; survives all instances being down."""
    BROADCAST = "broadcast"
    """Every message to every instance that is up; nothing is kept for one that is down."""


Handler = Callable[[Delivery], Awaitable[None]]
"""Returns to acknowledge; raises Retry or Drop. Anything else is a bug: logged, then parked."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer wants. `name` is the pool's queue name stem (`notifier`), the same in every instance."""

    name: str
    exchange: Exchange
    keys: tuple[str, ...]
    """Binding keys; on EVENTS with the wildcards `*` (one word) and `#` (any number)."""
    handler: Handler
    mode: Mode = Mode.POOL
    prefetch: int = 32
    """How many messages may be in the handler at once."""
    on_gap: Callable[[], None] | None = None
    """BROADCAST only: called whenever messages may have been missed (first connect, reconnect, re-subscribe)."""


class BusUnavailable(Exception):
    """The bus cannot take messages now; nothing is known about those in flight."""


class Parking(Protocol):
    """What waits in a pool's queues, and the messages that it gave up on or that nobody may handle.

    Each method raises BusUnavailable, also for a name that no pool has.
    """

    async def waiting(self, name: str) -> int:
        """How many messages of pool `name` nobody handles yet."""

    async def parked(self, name: str) -> int:
        """How many messages of pool `name` are parked."""

    async def redrive(self, name: str, limit: int) -> int:
        """Put up to `limit` of them back to work, counted anew; how many."""


class Bus(Parking, Protocol):
    """Publishes with confirmation, delivers at least once."""

    async def open(self) -> None:
        """Return at once; connecting goes on in the background and never gives up."""

    async def close(self) -> None:
        """Stop consuming, let running handlers end (bounded), close the connection. Idempotent."""

    def subscribe(self, subscription: Subscription) -> None:
        """Register a consumer; before or after `open`."""

    @property
    def pools(self) -> Sequence[str]:
        """The names of the pools that are subscribed to here."""

    async def stop_consuming(self) -> None:
        """Take no new messages; returns when running handlers have ended or after a few seconds."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Publish all together and wait for the broker's confirmations; True where a message is safely routed.

        False means refused, returned as unroutable or unknown: publish it again later. An event that nobody listens to
        is routed; a notification that nobody would get is not. Never raises for a fault of the broker or of a message,
        and never waits longer than a bounded time (seconds) while the broker is away. An id that is on its way already
        is not sent again: both calls get its outcome.
        """

    async def ping(self) -> None:
        """Return when connected and every subscription has its consumer; raise BusUnavailable with what is missing."""

    async def drain(self) -> None:
        """Return when nothing published through this object is waiting for its handlers here (tests, local bus)."""
