"""`Batcher`, without a database."""

import asyncio
from collections.abc import Sequence

import pytest

from libs.oauth.errors import TemporarilyUnavailable
from libs.store.batcher import Batcher


class Sender:
    """Answers each batch when told to: it doubles an item, and refuses a negative one."""

    def __init__(self) -> None:
        self.batches: list[Sequence[int]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def send(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        await self.go.wait()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return [ValueError(item) if item < 0 else 2 * item for item in items]


@pytest.fixture(name="sender")
async def _sender() -> Sender:
    return Sender()


async def submitted(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    """Callers that have submitted these items and wait."""
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_items_arriving_during_a_round_trip_share_the_next(sender: Sender) -> None:
    """The first item is sent alone and at once, without a timer; later ones share the next batch."""
    batcher: Batcher[int, int] = Batcher("test", sender.send)
    callers = await submitted(batcher, 1)
    callers += await submitted(batcher, 2, 3)
    sender.go.set()
    assert await asyncio.gather(*callers) == [2, 4, 6]
    assert sender.batches == [[1], [2, 3]]


async def test_a_batch_is_bounded(sender: Sender) -> None:
    """Items above the bound go with a later batch, in order of arrival."""
    sender.go.set()
    batcher: Batcher[int, int] = Batcher("test", sender.send, max_batch=2)
    assert await asyncio.gather(*(batcher.submit(item) for item in range(5))) == [0, 2, 4, 6, 8]
    assert sender.batches == [[0, 1], [2, 3], [4]]


async def test_no_more_batches_are_in_flight_than_allowed(sender: Sender) -> None:
    """With two batches in flight, a third caller waits for the first reply."""
    batcher: Batcher[int, int] = Batcher("test", sender.send, in_flight=2)
    callers = []
    for item in range(4):
        callers += await submitted(batcher, item)
    assert sender.batches == [[0], [1]]
    sender.go.set()
    assert await asyncio.gather(*callers) == [0, 2, 4, 6]
    assert sender.batches == [[0], [1], [2, 3]]


async def test_a_failing_item_does_not_fail_others(sender: Sender) -> None:
    """If one item fails, the others of its batch get their results."""
    sender.go.set()
    batcher: Batcher[int, int] = Batcher("test", sender.send)
    outcomes = await asyncio.gather(*(batcher.submit(item) for item in (1, -1, 2)), return_exceptions=True)
    assert [outcomes[0], type(outcomes[1]), outcomes[2]] == [2, ValueError, 4]


async def test_a_batch_that_fails_fails_every_caller_of_it_and_no_other(sender: Sender) -> None:
    """If a batch fails, all its callers fail, and the next batch is sent."""
    batcher: Batcher[int, int] = Batcher("test", sender.send, max_batch=2)
    sender.error = OSError("broken")
    sender.go.set()
    outcomes = await asyncio.gather(*(batcher.submit(item) for item in range(3)), return_exceptions=True)
    assert [type(outcomes[0]), type(outcomes[1]), outcomes[2]] == [OSError, OSError, 4]


async def test_an_outage_fails_those_that_still_wait_without_sending_them(sender: Sender) -> None:
    """After an outage waiting items fail without being sent; later ones are sent."""
    batcher: Batcher[int, int] = Batcher("test", sender.send)
    sender.error = TemporarilyUnavailable("down")
    callers = await submitted(batcher, 1)
    callers += await submitted(batcher, 2, 3)
    sender.go.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [TemporarilyUnavailable] * 3
    assert sender.batches == [[1]]
    assert await batcher.submit(4) == 8


async def test_a_cancelled_caller_does_not_cancel_the_batch(sender: Sender) -> None:
    """Cancelling a caller, waiting or in flight, does not cancel its item."""
    batcher: Batcher[int, int] = Batcher("test", sender.send)
    in_flight = await submitted(batcher, 1)
    waiting = await submitted(batcher, 2, 3)
    in_flight[0].cancel()
    waiting[0].cancel()
    await asyncio.sleep(0)
    sender.go.set()
    assert await waiting[1] == 6
    assert sender.batches == [[1], [2, 3]]
    assert (in_flight[0].cancelled(), waiting[0].cancelled()) == (True, True)


async def test_two_items_with_the_same_key_never_share_a_batch(sender: Sender) -> None:
    """Two items with the same key go with different batches; other items are not delayed."""
    batcher: Batcher[int, int] = Batcher("test", sender.send, unique_key=lambda item: item % 10)
    callers = await submitted(batcher, 5)
    callers += await submitted(batcher, 1, 11, 21, 2)
    sender.go.set()
    assert await asyncio.gather(*callers) == [10, 2, 22, 42, 4]
    assert sender.batches == [[5], [1, 2], [11], [21]]


async def test_a_missing_outcome_is_an_error_and_not_a_wait() -> None:
    """If the sender returns too few results, the callers get an error instead of waiting forever."""

    async def forgetful(items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    batcher: Batcher[int, int] = Batcher("test", forgetful)
    with pytest.raises(RuntimeError, match="1 outcomes for 2 items"):
        await asyncio.gather(batcher.submit(1), batcher.submit(2))
