"""The bus as the services see it: messages are published with confirmation, and delivered to pools or to everyone."""

import enum
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from libs.supervision import Supervisor

TICK_INTERVAL = 0.5
"""Seconds between two ticks that every instance publishes to its own broadcast queues."""
SILENT_AFTER = 0.9
"""Seconds without any message after which the bus counts as away."""
TICK = "tokenwire.tick"
"""The message type of a tick; handlers never see one."""
TICK_ID = "tick:"
"""Prefix of the message id of a tick."""
PROBE_KEY = "probe"
"""Routing key, on TICKS, of a queue that never fills up. A broker that refuses a message to it refuses all of them."""

LONGEST_KEY = 255
"""Bytes of a routing key; a message with a longer one is never routed."""


class Exchange(enum.StrEnum):
    """Where a message is published to."""

    EVENTS = "tokenwire.events"
    """Topic exchange of public CloudEvents; downstream systems bind their own queues here."""
    NOTIFY = "tokenwire.notify"
    """Direct exchange of sealed notification commands; only the notifier may read them."""
    POOLS = "tokenwire.pools"
    """Topic exchange to which only Tokenwire's own pools are bound, with the same keys as on EVENTS.

    An event that a queue on EVENTS refused is published here again: no subscriber gets it twice. If this exchange
    confirms it, a subscriber's queue was the one that refused.
    """
    TICKS = "tokenwire.ticks"
    """Direct exchange of the ticks that an instance publishes to its own broadcasts; the key is the instance's name.

    With PROBE_KEY, a message goes to the probe queue.
    """


class Pulse:
    """Detects within SILENT_AFTER seconds that nothing arrives from the bus any more.

    Ticks go through the same queue as the events, so it notices a broker that is away and a connection that hangs.
    """

    __slots__ = ("_clock", "silent_from")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.silent_from = -math.inf
        """From when on the bus counts as away, unless another message arrives before; in the clock's seconds."""

    def heard(self) -> None:
        """A message has arrived."""
        self.silent_from = self._clock() + SILENT_AFTER

    def is_silent(self, now: float) -> bool:
        """Whether no message has arrived for SILENT_AFTER seconds; `now` is in the clock's seconds."""
        return now > self.silent_from


class Outcome(enum.Enum):
    """What happened to a published message; true when it needs no further attempt."""

    CONFIRMED = "confirmed"
    """Every queue that it was routed to has stored it."""
    REFUSED = "refused"
    """A queue did not accept it, a required queue is not bound, or it cannot be encoded.

    Queues that accepted it keep it, so every further attempt is a duplicate for them.
    """
    UNKNOWN = "unknown"
    """The broker was away, or did not respond in time."""

    def __bool__(self) -> bool:
        return self is Outcome.CONFIRMED


class Message(NamedTuple):
    """One message on the bus. Every attempt to publish it sends the same bytes."""

    id: str
    """Unique among the messages in flight: the event id, or `<event id>:n` for its sealed companion."""
    exchange: Exchange
    key: str
    """Routing key, at most 255 bytes: `<type>.<api id>` on EVENTS and POOLS, `notify` on NOTIFY."""
    body: bytes
    headers: Mapping[str, str] = {}
    content_type: str = "application/cloudevents+json; charset=utf-8"
    type: str = ""


class Delivery(NamedTuple):
    """A message as a consumer sees it."""

    message: Message
    redelivered: bool
    """True if the broker has delivered it before. A first delivery may still be a duplicate of another message."""


class Retry(Exception):
    """Raised by a handler: deliver the message again after a backoff, until the delivery limit dead-letters it."""


class Drop(Exception):
    """Raised by a handler: the message can never be handled; move it to the dead-letter queue at once."""


class Mode(enum.Enum):
    """Which instances get a message."""

    POOL = "pool"
    """One instance gets it, whichever is free. Messages are kept while all instances are down."""
    BROADCAST = "broadcast"
    """Every running instance gets it. Nothing is kept for an instance that is down."""


Handler = Callable[[Delivery], Awaitable[None]]
"""Returns to acknowledge; raises Retry or Drop. Any other exception is a bug: logged, and the message dead-lettered."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer wants. `name` names the pool (`notifier`), and is the same in every instance."""

    name: str
    exchange: Exchange
    keys: tuple[str, ...]
    """Binding keys; on EVENTS with the wildcards `*` (one word) and `#` (any number of words)."""
    handler: Handler
    mode: Mode = Mode.POOL
    prefetch: int = 32
    """How many messages may be in the handler at once."""
    on_gap: Callable[[], None] | None = None
    """BROADCAST only: called whenever messages may have been missed (first connect, reconnect, new queue)."""
    pulse: Pulse | None = None
    """BROADCAST only: called for every message, and for a tick every TICK_INTERVAL seconds while the bus works."""


class BusUnavailable(Exception):
    """The bus cannot be used now; the text says what is missing."""


class PoolQueues(Protocol):
    """The work queue and the dead-letter queue of each pool.

    Every method raises BusUnavailable, also if there is no pool of that name.
    """

    async def waiting(self, name: str) -> int:
        """Messages in the work queue of pool `name`, without those in a handler."""

    async def dead_letters(self, name: str) -> int:
        """Messages in the dead-letter queue of pool `name`."""

    async def redrive(self, name: str, limit: int) -> int:
        """Move up to `limit` dead letters back to the work queue, with a new delivery count; how many."""


class Bus(PoolQueues, Protocol):
    """Publishes with confirmation, delivers at least once."""

    async def open(self, supervisor: Supervisor | None = None) -> None:
        """Start connecting in the background, under this supervisor, and return at once. It never gives up."""

    async def close(self) -> None:
        """Stop consuming, wait a few seconds for running handlers, close the connection. Idempotent."""

    def subscribe(self, subscription: Subscription) -> None:
        """Register a consumer; before or after `open`."""

    @property
    def pools(self) -> Sequence[str]:
        """Names of the pools that this process consumes."""

    async def stop_consuming(self) -> None:
        """Take no new messages; returns once running handlers have ended, or after a few seconds."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        """Publish the messages together and wait for the broker's confirmations; the outcome of each.

        An event without subscribers is confirmed; a notification without a queue is refused. Never raises for a fault
        of the broker or of a message, and returns within seconds even if the broker is away. A message whose id is in
        flight is not sent again: both calls get its outcome.
        """

    @property
    def confirming_for(self) -> float:
        """Seconds for which every publication was confirmed or refused within about a second; 0 while one is not."""

    async def ping(self) -> None:
        """Return if connected and every subscription has its consumer. Raises BusUnavailable with what is missing."""

    async def drain(self) -> None:
        """Return once every message published through this object has been handled here (tests, local bus)."""
