"""What must exist on the broker: five exchanges, and for every pool its work queue and its dead-letter queue.

Everything is set by queue *arguments*, nothing by policies. The broker refuses to declare a queue again with other
arguments (406), so they have one source, this module: `RabbitBus(declare=True)` declares what `topology()` returns, and
the broker's definitions file holds the same dictionaries. With a definitions file the services declare passively, which
compares no arguments and needs no right to configure. AMQP cannot set policies, so they would not work without a
definitions file, and a mixture of both would lead to 406. An operator may still lower `max-length` by policy: the
smaller value counts.

Per pool `<name>`:

- `tokenwire.<name>`, the work queue, bound to the pool's exchange by the pool's keys; where that is `tokenwire.events`,
  also to `tokenwire.pools`, on which no subscriber may bind a queue. Quorum, so that a confirmed
  message is on the disks of a majority. After `delivery_limit` redeliveries a message becomes a dead letter.
  At-least-once dead-lettering requires `reject-publish`: a full queue refuses new messages, and the publisher's outbox
  keeps the event, instead of the oldest message being dropped.
- `tokenwire.<name>.dead`, the dead-letter queue. No TTL, and no delivery limit that a few redrives could reach (the
  default of RabbitMQ 4 is 20).
- Both are bound to `tokenwire.dlx` (direct) by their own names: the broker dead-letters with the dead-letter queue's
  name as the routing key, and a redrive uses the work queue's. So no user needs the right to write to the default
  exchange, which would allow writing to any queue.

`tokenwire.probe` is a quorum queue without a consumer, bound to `tokenwire.ticks`. It keeps its latest message and
drops the one before, so it is never full: if it refuses a message, the broker refuses everything, as with a full disk.

Nothing here differs between RabbitMQ 3.10 and 4.x. On a node upgraded to 3.10 the feature flag `stream_queue` must be
enabled: at-least-once dead-lettering needs it, and falls back to at-most-once silently.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

from libs.bus.port import PROBE_KEY, Exchange

DEAD_LETTER_EXCHANGE = "tokenwire.dlx"
"""Direct exchange for dead letters, and for those that are redriven."""
BROADCASTS = "tokenwire.broadcast"
"""Prefix of the names of the queues that instances declare for their own broadcasts."""
PROBE_QUEUE = "tokenwire.probe"
"""The queue that is never full."""
DELIVERY_LIMIT = 20
"""How often a message may be redelivered: more than any likely number of crashes in a row."""
MAX_LENGTH = 1_000_000
"""Messages waiting in one work queue before it refuses more."""
UNLIMITED = 1_000_000_000
"""A delivery limit that is never reached; RabbitMQ knows -1 for that only since version 4."""


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
    def dead_letter_queue(self) -> str:
        """The dead-letter queue's name."""
        return f"{self.queue}.dead"


POOLS = (
    Pool("notifier", Exchange.NOTIFY, ("notify",)),
    Pool("revocation", Exchange.EVENTS, ("client.deleted.#", "client.tokens_revoked.#", "user.tokens_revoked.#")),
    Pool("management", Exchange.EVENTS, ("api.deleted.#",)),
    Pool("event_log", Exchange.EVENTS, ("#",)),
)
"""The pools whose messages are kept from the first event on, even before their first consumer has ever run.

Publishers declare them. Remove a pool that is no longer consumed: its queue would fill up and then refuse every event
that is routed to it.
"""


class ExchangeDefinition(TypedDict):
    """An exchange in the form of a definitions file."""

    name: str
    vhost: str
    type: str
    durable: bool
    auto_delete: bool
    internal: bool
    arguments: dict[str, Any]


class QueueDefinition(TypedDict):
    """A queue in the form of a definitions file."""

    name: str
    vhost: str
    durable: bool
    auto_delete: bool
    arguments: dict[str, Any]


class BindingDefinition(TypedDict):
    """A binding in the form of a definitions file."""

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
    """Everything that `pools` need, for a definitions file, or to be declared in this order."""
    pools = tuple(pools)
    return {
        "exchanges": [_exchange(name, kind, vhost) for name, kind in _EXCHANGES],
        "queues": [
            queue
            for pool in pools
            for queue in (_work_queue(pool, vhost, delivery_limit, max_length), _dead_letter_queue(pool, vhost))
        ]
        + [_probe_queue(vhost)],
        "bindings": [binding for pool in pools for binding in _bindings(pool, vhost)]
        + [_binding(Exchange.TICKS.value, PROBE_QUEUE, PROBE_KEY, vhost)],
    }


_EXCHANGES = (
    (Exchange.EVENTS.value, "topic"),
    (Exchange.NOTIFY.value, "direct"),
    (Exchange.POOLS.value, "topic"),
    (Exchange.TICKS.value, "direct"),
    (DEAD_LETTER_EXCHANGE, "direct"),
)


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
        "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
        "x-dead-letter-routing-key": pool.dead_letter_queue,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-max-length": max_length,
    }
    return {"name": pool.queue, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": arguments}


def _dead_letter_queue(pool: Pool, vhost: str) -> QueueDefinition:
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": UNLIMITED}
    return {
        "name": pool.dead_letter_queue,
        "vhost": vhost,
        "durable": True,
        "auto_delete": False,
        "arguments": arguments,
    }


def _bindings(pool: Pool, vhost: str) -> list[BindingDefinition]:
    # The dead-letter queue first: the exchange would discard a dead letter that has no queue to go to.
    bindings = [(DEAD_LETTER_EXCHANGE, queue, queue) for queue in (pool.dead_letter_queue, pool.queue)]
    exchanges = (pool.exchange, Exchange.POOLS) if pool.exchange is Exchange.EVENTS else (pool.exchange,)
    bindings += [(exchange.value, pool.queue, key) for exchange in exchanges for key in pool.keys]
    return [_binding(source, queue, key, vhost) for source, queue, key in bindings]


def _binding(source: str, queue: str, key: str, vhost: str) -> BindingDefinition:
    return {
        "source": source,
        "vhost": vhost,
        "destination": queue,
        "destination_type": "queue",
        "routing_key": key,
        "arguments": {},
    }


def _probe_queue(vhost: str) -> QueueDefinition:
    arguments = {"x-queue-type": "quorum", "x-overflow": "drop-head", "x-max-length": 1}
    return {"name": PROBE_QUEUE, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": arguments}
