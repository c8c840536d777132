"""Handlers that record deliveries, and messages for them."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from libs.bus.port import Delivery, Exchange, Message


class Recorder:
    """A handler that records every delivery, then does as told."""

    def __init__(self, then: Callable[[Delivery], Awaitable[None]] | None = None) -> None:
        self.deliveries: list[Delivery] = []
        self._then = then

    @property
    def ids(self) -> list[str]:
        return [delivery.message.id for delivery in self.deliveries]

    @property
    def messages(self) -> list[Message]:
        return [delivery.message for delivery in self.deliveries]

    async def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self._then is not None:
            await self._then(delivery)


class Gate:
    """A handler step that waits until released, and counts those waiting."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self._open = asyncio.Event()

    async def __call__(self, _: Delivery) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self._open.wait()
        finally:
            self.inside -= 1

    def open(self) -> None:
        self._open.set()


def raising(error: BaseException) -> Callable[[Delivery], Awaitable[None]]:
    """A handler step that raises `error`."""

    async def step(_: Delivery) -> None:
        raise error

    return step


def notification(key: str = "work", body: bytes = b"sealed") -> Message:
    """A message to the direct exchange."""
    return Message(id=secrets.token_hex(8), exchange=Exchange.NOTIFY, key=key, body=body)


def event(key: str = "token.new.api-1") -> Message:
    """A message to the topic exchange."""
    return Message(
        id=secrets.token_hex(8),
        exchange=Exchange.EVENTS,
        key=key,
        body=b"{}",
        headers={"cloudEvents_type": "token.new", "traceparent": "00-é-01"},
        type="token.new",
    )
