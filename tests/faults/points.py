"""The places at which a process can be made to die, and how: by wrapping methods, from outside the production code.

The numbers are those of the crash points in docs/faults.md.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from pymongo import monitoring

from libs.bus.port import Message
from libs.bus.rabbit.bus import RabbitBus
from libs.bus.rabbit.publisher import _Sending
from libs.store.deliveries import Deliveries
from libs.store.grants import Grants
from libs.store.ledger import Ledger
from services.notifier.courier import Courier
from services.notifier.posting import Poster
from services.notifier.sender import Outcome, Sender
from services.revocation.revoker import Revoker

ANSWERED_WITHIN = 0.2
"""Seconds in which a response that is ready has left the process."""
ON_ITS_WAY = 0.001
"""Seconds after a write was handed to the driver: sent, and not yet journaled by a majority."""
IN_FLIGHT = 0.05
"""Seconds after which a webhook is at its receiver."""


def die() -> NoReturn:
    """Gone, as by a power cut: nothing of this process runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemError("SIGKILL returned")


class Fuse:
    """Burns at the nth passage."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def burns(self) -> bool:
        """True at the nth call."""
        self._left -= 1
        return self._left == 0

    def passed(self) -> None:
        """Returns, unless this is the nth passage."""
        if self.burns():
            die()


Arm = Callable[[Fuse], None]


@dataclass(frozen=True)
class Point:
    """One label: where the process dies."""

    numbers: str
    what: str
    arm: Arm
    latest: int = 1000
    """A process passes here seldom: it dies at one of so many first passages."""


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
    """After a call whose result counts; most tell by it whether they did anything."""

    def around(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
        async def wrapped(*arguments: Any, **named: Any) -> Any:
            result = await inner(*arguments, **named)
            if counts(result):
                fuse.passed()
            return result

        return wrapped

    return _wrapped(owner, method, around)


class _WriteSent(monitoring.CommandListener):
    """Dies when a write of a record has left, whether or not it arrives."""

    def __init__(self, fuse: Fuse, collection: str) -> None:
        self._fuse = fuse
        self._collection = collection

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if self._is_ours(event) and self._fuse.burns():
            threading.Thread(target=self._soon).start()

    def _is_ours(self, event: monitoring.CommandStartedEvent) -> bool:
        if event.command.get(event.command_name) != self._collection:
            return False
        # A transition is told from the clearing of events by the version that it expects.
        return event.command_name == "insert" or (
            event.command_name == "update" and any("version" in each["q"] for each in event.command["updates"])
        )

    def _soon(self) -> None:
        time.sleep(ON_ITS_WAY)
        die()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing."""


def _write_sent(collection: str) -> Arm:
    return lambda fuse: monitoring.register(_WriteSent(fuse, collection))


def _answered(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
    async def publish(self: RabbitBus, messages: list[Message]) -> Any:
        if fuse.burns():
            await asyncio.sleep(ANSWERED_WITHIN)
            die()
        return await inner(self, messages)

    return publish


def _public_copy_only(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
    async def publish(self: RabbitBus, messages: list[Message]) -> Any:
        if any(_is_sealed(message) for message in messages) and fuse.burns():
            await inner(self, [message for message in messages if not _is_sealed(message)])
            die()
        return await inner(self, messages)

    return publish


def _is_sealed(message: Message) -> bool:
    return message.id.endswith(":n")


def _confirmation_unseen(fuse: Fuse) -> None:
    inner = _Sending.set_result

    def set_result(self: _Sending, result: object) -> None:
        fuse.passed()
        inner(self, result)

    _Sending.set_result = set_result  # type: ignore[method-assign, assignment]


def _posting(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
    async def once(*arguments: Any) -> Any:
        if fuse.burns():
            task = asyncio.ensure_future(inner(*arguments))
            await asyncio.wait((task,), timeout=IN_FLIGHT)
            die()
        return await inner(*arguments)

    return once


def _posted(fuse: Fuse, inner: Callable[..., Awaitable[Any]]) -> Any:
    async def record(self: Courier, delivery: Any, outcome: Outcome) -> Any:
        if outcome.arrived:
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
    "confirmed": Point("7", "both copies confirmed, before the event is cleared", _before(Ledger, "clear")),
    "cleared": Point("8", "the event cleared", _after(Ledger, "clear", _anything)),
    "leading": Point("4", "leading the sweep of what another left, before publishing it", _after(Ledger, "lead"), 1),
    "before-add": Point("9", "a command taken from the queue, no delivery written", _before(Deliveries, "add")),
    "add-sent": Point("9", "the write of a delivery sent, no reply", _write_sent(Deliveries.name)),
    "added": Point(
        "10", "the delivery written, before the command is acknowledged", _after(Deliveries, "add", _anything)
    ),
    "handing-over": Point(
        "10", "deliveries written, before the grants forget their commands", _before(Ledger, "handed_over"), 2
    ),
    "before-post": Point("11", "the lease taken, before the POST", _before(Sender, "send")),
    "claimed": Point("11", "due deliveries leased, none of them started", _after(Deliveries, "claim", _some), 2),
    "posting": Point("12", "the POST in flight", _wrapped(Poster, "_answered", _posting)),
    "posted": Point("12", "answered 2xx, not recorded", _wrapped(Courier, "_record", _posted)),
    "recorded": Point("12", "recorded as delivered, before that event is published", _after(Deliveries, "delivered")),
    "failure-recorded": Point("13", "a failure recorded with the next attempt's time", _after(Deliveries, "failed"), 4),
    "reacted": Point(
        "15", "every grant of a client ended, before revoke_all's event is acknowledged", _after(Revoker, "end_all"), 1
    ),
}
