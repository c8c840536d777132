"""What has to exist on the broker: three exchanges, and for every pool its work queue and its parked queue.

Everything is set by queue *arguments*, nothing by policies. A queue that is declared again with other arguments is
refused (406), so there must be one source of them, and this module is it: `RabbitBus(declare=True)` declares what
`topology()` says, and a definitions file for the broker is the same dictionaries written down. With definitions the
services declare passively, which compares no arguments and needs no right to configure. Policies would not do for the
first case (AMQP cannot set them) and a mixture would be the 406. An operator may still lower `max-length` by policy:
the smaller value counts.

Per pool `<name>`:

- `tokenwire.<name>`, the work queue, bound to the pool's exchange by the pool's keys. Quorum, so that a confirmed
  message is on the disks of a majority. It comes back at most `delivery_limit` times, then it is parked.
  `reject-publish` is what at-least-once dead-lettering demands; a full queue therefore refuses, and the publisher's
  outbox keeps the event, instead of the oldest being lost.
- `tokenwire.<name>.dead`, the parked queue. No TTL, no limit that a handful of redrives could reach (the default of
  RabbitMQ 4 is 20).
- Both are bound to `tokenwire.dlx` (direct) by their own names: the broker dead-letters by the parked queue's name, and
  a redrive goes back by the work queue's. So nobody needs the right to write to the default exchange, which would let
  it write to any queue.

Nothing here differs between RabbitMQ 3.10 and 4.x. On a node upgraded to 3.10 the feature flag `stream_queue` must be
enabled: at-least-once dead-lettering needs it, and falls back to at-most-once silently.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

from libs.bus.port import Exchange

DEAD_LETTERS = "tokenwire.dlx"
"""Direct exchange of parked messages, and of those that go back."""
BROADCASTS = "tokenwire.broadcast"
"""First part of the names of the queues that instances make for themselves, with the right to configure them."""
DELIVERY_LIMIT = 20
"""How often a message may come back: far more than crashes in a row, few enough to end."""
MAX_LENGTH = 1_000_000
"""Messages waiting in one work queue before it refuses more."""
NEVER = 1_000_000_000
"""A delivery limit that is none; -1 says so only since RabbitMQ 4."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Consumers that share one queue."""

    name: str
    exchange: Exchange
    keys: tuple[str, ...]

    @property
    def queue(self) -> str:
        """The work queue's name."""
        return f"tokenwire.{self.name}"

    @property
    def parked(self) -> str:
        """The parked queue's name."""
        return f"{self.queue}.dead"


POOLS = (
    Pool("notifier", Exchange.NOTIFY, ("notify",)),
    Pool("revocation", Exchange.EVENTS, ("client.deleted.#", "client.tokens_revoked.#")),
    Pool("management", Exchange.EVENTS, ("api.deleted.#",)),
    Pool("audit", Exchange.EVENTS, ("#",)),
)
"""The pools whose messages must be kept from the first event on, even before their first consumer ever ran.

Publishers make sure that they exist. A pool nobody consumes any more must leave this list: its queue would fill up, and
then refuse every event it is bound to.
"""


class ExchangeDefinition(TypedDict):
    """An exchange as a definitions file writes it."""

    name: str
    vhost: str
    type: str
    durable: bool
    auto_delete: bool
    internal: bool
    arguments: dict[str, Any]


class QueueDefinition(TypedDict):
    """A queue as a definitions file writes it."""

    name: str
    vhost: str
    durable: bool
    auto_delete: bool
    arguments: dict[str, Any]


class BindingDefinition(TypedDict):
    """A binding as a definitions file writes it."""

    source: str
    vhost: str
    destination: str
    destination_type: str
    routing_key: str
    arguments: dict[str, Any]


class Topology(TypedDict):
    """The three sections of a definitions file that this module fills."""

    exchanges: list[ExchangeDefinition]
    queues: list[QueueDefinition]
    bindings: list[BindingDefinition]


def topology(
    pools: Iterable[Pool] = POOLS,
    *,
    vhost: str = "/",
    delivery_limit: int = DELIVERY_LIMIT,
    max_length: int = MAX_LENGTH,
) -> Topology:
    """All that `pools` need, ready for a definitions file and for declaring one by one in this order."""
    pools = tuple(pools)
    return {
        "exchanges": [_exchange(name, kind, vhost) for name, kind in _EXCHANGES],
        "queues": [
            queue
            for pool in pools
            for queue in (_work_queue(pool, vhost, delivery_limit, max_length), _parked_queue(pool, vhost))
        ],
        "bindings": [binding for pool in pools for binding in _bindings(pool, vhost)],
    }


_EXCHANGES = ((Exchange.EVENTS.value, "topic"), (Exchange.NOTIFY.value, "direct"), (DEAD_LETTERS, "direct"))


def _exchange(name: str, kind: str, vhost: str) -> ExchangeDefinition:
    return {
        "name": name,
        "vhost": vhost,
        "type": kind,
        "durable": True,
        "auto_delete": False,
        "internal": False,
        "arguments": {},
    }


def _work_queue(pool: Pool, vhost: str, delivery_limit: int, max_length: int) -> QueueDefinition:
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": delivery_limit,
        "x-dead-letter-exchange": DEAD_LETTERS,
        "x-dead-letter-routing-key": pool.parked,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-max-length": max_length,
    }
    return {"name": pool.queue, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": arguments}


def _parked_queue(pool: Pool, vhost: str) -> QueueDefinition:
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": NEVER}
    return {"name": pool.parked, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": arguments}


def _bindings(pool: Pool, vhost: str) -> list[BindingDefinition]:
    # The parked queue first: a message must never find the dead-letter exchange without it.
    ways = [(DEAD_LETTERS, pool.parked, pool.parked), (DEAD_LETTERS, pool.queue, pool.queue)]
    ways += [(pool.exchange.value, pool.queue, key) for key in pool.keys]
    return [
        {
            "source": source,
            "vhost": vhost,
            "destination": queue,
            "destination_type": "queue",
            "routing_key": key,
            "arguments": {},
        }
        for source, queue, key in ways
    ]
