"""The points at which a process can be killed. Methods are wrapped from here; the product's code has no hooks for it.

The numbers are those of the crash points in docs/faults.md.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from pymongo import monitoring

from libs.bus.port import Message
from libs.bus.rabbit.bus import RabbitBus
from libs.bus.rabbit.publisher import Confirmation
from libs.store.checkpoints import Checkpoints
from libs.store.clients import Clients
from libs.store.deliveries import Deliveries
from libs.store.grants import Grants
from libs.store.outbox_collection import OutboxCollection
from services.notifier.client import Outcome, WebhookClient
from services.notifier.worker import DeliveryWorker
from services.revocation.revoker import Revoker

ANSWERED_WITHIN = 0.2
"""Seconds within which a finished response has left the process."""
ON_ITS_WAY = 0.001
"""Seconds after a write was passed to the driver when it is sent, but not yet journaled by a majority."""
IN_FLIGHT = 0.05
"""Seconds after which a webhook has reached its receiver."""


def die() -> NoReturn:
    """Kill this process at once with SIGKILL, as a power failure would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemError("SIGKILL returned")


class Fuse:
    """Triggers at the nth passage."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def triggers(self) -> bool:
        """True at the nth call."""
        self._left -= 1
        return self._left == 0

    def passed(self) -> None:
        """Kill the process if this is the nth passage."""
        if self.triggers():
            die()


Arm = Callable[[Fuse], None]


@dataclass(frozen=True)
class Point:
    """A label, and how to make the process die there."""

    numbers: str
    what: str
    arm: Arm
    latest: int = 1000
    """The process is killed at a random one of its first `latest` passages; rarely passed points need a low number."""


def _wrapped(owner: type, method: str, around: Callable[[Fuse, Callable[..., Awaitable[Any]]], Any]) -> Arm:
    def arm(fuse: Fuse) -> None:
        setattr(owner, method, around(fuse, getattr(owner, method)))

    return arm


def _before(owner: type, method: str) -> Arm:
    def around(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
        async def wrapped(*arguments: Any, **named: Any) -> Any:
            fuse.passed()
            return await inner(*arguments, **named)

        return wrapped

    return _wrapped(owner, method, around)


def _after(owner: type, method: str, counts: Callable[[Any], bool] = bool) -> Arm:
    """Die after a call with a relevant result. Most calls show by the result whether they changed anything."""

    def around(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
        async def wrapped(*arguments: Any, **named: Any) -> Any:
            result = await inner(*arguments, **named)
            if counts(result):
                fuse.passed()
            return result

        return wrapped

    return _wrapped(owner, method, around)


class _WriteSent(monitoring.CommandListener):
    """Die when a write has been sent, whether or not it arrives."""

    def __init__(self, fuse: Fuse, collection: str) -> None:
        self._fuse = fuse
        self._collection = collection

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if self._is_ours(event) and self._fuse.triggers():
            threading.Thread(target=self._soon).start()

    def _is_ours(self, event: monitoring.CommandStartedEvent) -> bool:
        if event.command.get(event.command_name) != self._collection:
            return False
        # A transition expects a version, which tells it from the clearing of events.
        return event.command_name == "insert" or (
            event.command_name == "update" and any("version" in each["q"] for each in event.command["updates"])
        )

    def _soon(self) -> None:
        time.sleep(ON_ITS_WAY)
        die()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """No action: only the start of a command matters."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """No action: only the start of a command matters."""


def _write_sent(collection: str) -> Arm:
    return lambda fuse: monitoring.register(_WriteSent(fuse, collection))


def _answered(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
    async def publish(self: RabbitBus, messages: list[Message]) -> Any:
        if fuse.triggers():
            await asyncio.sleep(ANSWERED_WITHIN)
            die()
        return await inner(self, messages)

    return publish


def _public_copy_only(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
    async def publish(self: RabbitBus, messages: list[Message]) -> Any:
        if any(_is_sealed(message) for message in messages) and fuse.triggers():
            await inner(self, [message for message in messages if not _is_sealed(message)])
            die()
        return await inner(self, messages)

    return publish


def _is_sealed(message: Message) -> bool:
    return message.id.endswith(":n")


def _checkpoint_due(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
    async def settle(self: Checkpoints, event_ids: Iterable[str]) -> Any:
        settled = list(event_ids)
        if any(map(self.is_recent, settled)):
            fuse.passed()
        return await inner(self, settled)

    return settle


def _confirmation_unseen(fuse: Fuse) -> None:
    inner = Confirmation.set_result

    def set_result(self: Confirmation, result: object) -> None:
        fuse.passed()
        inner(self, result)

    Confirmation.set_result = set_result  # type: ignore[method-assign, assignment]


def _posting(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
    async def once(*arguments: Any) -> Any:
        if fuse.triggers():
            task = asyncio.ensure_future(inner(*arguments))
            await asyncio.wait((task,), timeout=IN_FLIGHT)
            die()
        return await inner(*arguments)

    return once


def _posted(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
    async def record(self: DeliveryWorker, delivery: Any, outcome: Outcome) -> Any:
        if outcome.delivered:
            fuse.passed()
        return await inner(self, delivery, outcome)

    return record


def _anything(_: Any) -> bool:
    return True


def _some(claimed: Any) -> bool:
    return bool(claimed.deliveries)


POINTS = {
    "before-write": Point("1", "before the write of a grant", _before(Grants, "commit")),
    "write-sent": Point("2", "the write of a grant sent, no reply", _write_sent(Grants.name)),
    "committed": Point("3", "the grant written, before the HTTP response", _after(Grants, "commit")),
    "answered": Point(
        "4", "the response sent, before its event is published", _wrapped(RabbitBus, "publish", _answered)
    ),
    "published": Point("5", "published and safe at the broker, before the confirm is seen", _confirmation_unseen),
    "public-copy-only": Point(
        "6", "the public copy confirmed, the sealed one not sent", _wrapped(RabbitBus, "publish", _public_copy_only)
    ),
    "confirmed": Point("7", "both copies confirmed, before the event is cleared", _before(OutboxCollection, "_clear")),
    "cleared": Point("8", "the event cleared", _after(OutboxCollection, "_clear", _anything)),
    "checkpoint-due": Point(
        "7", "confirmed, before the checkpoint says so", _wrapped(Checkpoints, "settle", _checkpoint_due), 8
    ),
    "checkpoint-written": Point("8", "the checkpoint written", _after(Checkpoints, "settle", _anything)),
    "adopted": Point(
        "4",
        "what another left moved to the pending events of the records, before it is published",
        _after(OutboxCollection, "adopt", _anything),
        1,
    ),
    "leading": Point(
        "4", "leading the sweep of what another left, before publishing it", _after(OutboxCollection, "lead"), 1
    ),
    "before-add": Point("9", "a command taken from the queue, no delivery written", _before(Deliveries, "add")),
    "add-sent": Point("9", "the write of a delivery sent, no reply", _write_sent(Deliveries.name)),
    "added": Point(
        "10", "the delivery written, before the command is acknowledged", _after(Deliveries, "add", _anything)
    ),
    "handing-over": Point(
        "10", "deliveries written, before the grants forget their commands", _before(OutboxCollection, "handed_over"), 2
    ),
    "before-post": Point("11", "the lease taken, before the POST", _before(WebhookClient, "send")),
    "claimed": Point("11", "due deliveries leased, none of them started", _after(Deliveries, "claim", _some), 2),
    "posting": Point("12", "the POST in flight", _wrapped(WebhookClient, "post", _posting)),
    "posted": Point("12", "answered 2xx, not recorded", _wrapped(DeliveryWorker, "_record", _posted)),
    "recorded": Point("12", "recorded as delivered, before that event is published", _after(Deliveries, "delivered")),
    "failure-recorded": Point("13", "a failure recorded with the next attempt's time", _after(Deliveries, "failed"), 4),
    "registered": Point("3", "a client app written, before the HTTP response", _after(Clients, "register"), 4),
    "reacted": Point(
        "15",
        "every grant of a client ended, before revoke_all's event is acknowledged",
        _after(Revoker, "revoke_grants", _anything),  # the process before may have ended all of them in one write
        1,
    ),
}
