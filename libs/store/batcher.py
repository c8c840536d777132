"""`Batcher`: single reads and writes that wait at the same time share one round trip to MongoDB (ADR 28)."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from libs.oauth.errors import TemporarilyUnavailable
from libs.supervision import spawn

MAX_BATCH = 512
"""Items in one batch, at most."""

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Collects items while a batch is in flight and sends them together in the next one.

    There is no timer: an idle batcher sends an item at once, alone, and a busy one batches whatever arrived during the
    last round trip. Each caller gets the outcome of its own item. A caller that is cancelled gives up only its outcome;
    the batch goes on, because others share it.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        in_flight: int = 1,
        max_batch: int = MAX_BATCH,
        unique_key: Callable[[T], Hashable] | None = None,
    ) -> None:
        """`send` returns one outcome for each item, in the same order; an exception fails that item alone.

        If `send` raises, every item of the batch fails with that exception. If it raises TemporarilyUnavailable, the
        items that still wait fail too, without being sent. At most `in_flight` batches are sent at the same time. With
        `unique_key`, no batch contains two items with the same key; the later one waits for a later batch.
        """
        self._name = name
        self._send = send
        self._in_flight = in_flight
        self._max_batch = max_batch
        self._unique_key = unique_key
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._senders: set[asyncio.Task[None]] = set()
        """Tasks that have started and will look at `_waiting` at least once more."""

    async def submit(self, item: T) -> R:
        """The outcome of this item. Raises the exception that `send` returned for it, or raised for its batch."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._senders) < self._in_flight:
            self._senders.add(spawn(self._name, self._send_all()))
        return await future

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                await self._send_batch(self._next_batch())
        finally:
            # No await between the last look at `_waiting` and this line: an item that is submitted right after it must
            # start a sender of its own rather than count on this one. A done callback would run too late for that.
            if (task := asyncio.current_task()) is not None:
                self._senders.discard(task)

    def _next_batch(self) -> list[tuple[T, asyncio.Future[R]]]:
        waiting = self._waiting
        if self._unique_key is None:
            batch, self._waiting = waiting[: self._max_batch], waiting[self._max_batch :]
            return batch
        chosen: dict[Hashable, tuple[T, asyncio.Future[R]]] = {}
        self._waiting = []
        for entry in waiting:
            key = self._unique_key(entry[0])
            if len(chosen) < self._max_batch and key not in chosen:
                chosen[key] = entry
            else:
                self._waiting.append(entry)
        return list(chosen.values())

    async def _send_batch(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            outcomes = await self._send([item for item, _ in batch])
            if len(outcomes) != len(batch):
                raise RuntimeError(f"{self._name}: {len(outcomes)} outcomes for {len(batch)} items")
        except TemporarilyUnavailable as outage:
            # `send` has already retried for as long as a caller may wait. Those who came meanwhile would only wait as
            # long again for the same error.
            _fail(batch + self._waiting, outage)
            self._waiting = []
        except Exception as error:  # noqa: BLE001 - raised at each caller, which would otherwise wait forever
            _fail(batch, error)
        except BaseException:
            # This task was cancelled, so the event loop is being closed: the callers must not hang.
            for _, future in batch:
                future.cancel()
            raise
        else:
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue  # its caller was cancelled
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)


def _fail(batch: Sequence[tuple[T, asyncio.Future[R]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
