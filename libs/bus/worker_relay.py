"""The in-process bus of several workers: each handles the events of its own, and broadcasts reach all of them.

A pool needs one consumer anywhere, and the worker that publishes an event has one itself. A broadcast invalidates the
caches of every worker, so its events go to the others through the parent process.
"""

from typing import Any

from libs.bus.local import LocalBroker, LocalBus
from libs.bus.port import Exchange, Message
from libs.workers.worker_process import Worker


def bus_of(worker: Worker) -> LocalBus:
    """The bus of this worker."""
    broker = LocalBroker(lambda message: worker.relay(_as_json(message)))
    worker.relayed = lambda data: broker.relayed(_from_json(data))
    return LocalBus(broker)


def _as_json(message: Message) -> list[object]:
    return [*message[:3], message.body.decode(), dict(message.headers), message.content_type, message.type]


def _from_json(data: Any) -> Message:
    id_, exchange, key, body, headers, content_type, type_ = data
    return Message(id_, Exchange(exchange), key, body.encode(), headers, content_type, type_)
