"""Passwords: argon2id, beside the event loop, in bounded number."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from argon2 import Type, extract_parameters

from libs.oauth.errors import TemporarilyUnavailable
from libs.passwords import PasswordHasher


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    """One thread, and one more that may wait."""
    hasher = PasswordHasher(threads=1, waiting_each=1)
    yield hasher
    hasher.close()


async def test_a_hash_is_argon2id_with_the_stated_cost(hasher: PasswordHasher) -> None:
    """Two passes over 19 MiB in one lane, with a salt of its own each time."""
    first, second = await hasher.hash("correct horse"), await hasher.hash("correct horse")
    parameters = extract_parameters(first)
    assert (parameters.type, parameters.time_cost, parameters.memory_cost, parameters.parallelism) == (
        Type.ID,
        2,
        19 * 1024,
        1,
    )
    assert first != second


@pytest.mark.parametrize(
    ("presented", "valid"),
    [
        pytest.param("correct horse", True, id="right"),
        pytest.param("Correct horse", False, id="wrong"),
        pytest.param("correct horse\0", False, id="nul-at-the-end"),
        pytest.param("", False, id="empty"),
        pytest.param("\ud800", False, id="half-a-surrogate-pair"),
    ],
)
async def test_only_the_password_is_valid(hasher: PasswordHasher, presented: str, valid: bool) -> None:
    """Nothing but the very password matches its hash, and nothing presented is an error."""
    assert await hasher.verify(await hasher.hash("correct horse"), presented) is valid


async def test_an_unknown_user_costs_what_a_wrong_password_costs(hasher: PasswordHasher) -> None:
    """Both verify a hash of the same cost, so that the time does not tell who exists."""

    async def cost(password_hash: str | None) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            assert not await hasher.verify(password_hash, "wrong")
            times.append(time.perf_counter() - started)
        return min(times)

    known, unknown = await cost(await hasher.hash("correct horse")), await cost(None)
    assert 0.5 < unknown / known < 2


async def test_the_event_loop_goes_on_while_a_password_is_hashed(hasher: PasswordHasher) -> None:
    """The work is done on another thread."""
    hashing = asyncio.ensure_future(hasher.hash("correct horse"))
    await asyncio.sleep(0)
    assert not hashing.done()
    assert any(thread.name.startswith("argon2") for thread in threading.enumerate())
    await hashing


async def test_too_many_at_once_are_refused_and_room_comes_back(hasher: PasswordHasher) -> None:
    """A flood of logins is answered with 503 and cannot pile up; afterwards everything is as before."""
    outcomes = await asyncio.gather(*(hasher.verify(None, "flood") for _ in range(10)), return_exceptions=True)
    assert sum(outcome is False for outcome in outcomes) == 2
    assert sum(isinstance(outcome, TemporarilyUnavailable) for outcome in outcomes) == 8
    assert await hasher.verify(await hasher.hash("correct horse"), "correct horse")


async def test_a_caller_that_went_away_does_not_make_room(hasher: PasswordHasher) -> None:
    """Its hash is still computed, so it still counts: cancelled requests cannot be used to get past the bound."""
    gate = threading.Event()
    hasher._pool.submit(gate.wait)  # the only thread is busy until the gate opens
    left = [asyncio.ensure_future(hasher.hash("gone")) for _ in range(2)]
    await asyncio.sleep(0)
    for hashing in left:
        hashing.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    with pytest.raises(TemporarilyUnavailable):
        await hasher.hash("next")
    gate.set()
