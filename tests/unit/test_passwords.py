"""Passwords: argon2id in a bounded number of threads."""

import asyncio
import threading
from collections.abc import Iterator

import argon2
import pytest
from argon2 import Type, extract_parameters

from libs.oauth.errors import TemporarilyUnavailable
from libs.passwords import MEMORY_KIB, PasswordHasher


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    """One thread, and one waiting call."""
    hasher = PasswordHasher(threads=1, max_waiting_per_thread=1)
    yield hasher
    hasher.close()


async def test_a_hash_is_argon2id_with_the_stated_cost(hasher: PasswordHasher) -> None:
    """A hash is argon2id with two passes over 19 MiB, one lane, and a random salt."""
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
    """Only the exact password matches; no input raises."""
    assert await hasher.verify(await hasher.hash("correct horse"), presented) is valid


async def test_an_unknown_user_costs_what_a_wrong_password_costs(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown user costs one argon2 with the same parameters, so the time does not reveal who exists."""
    computed: list[tuple[object, ...]] = []
    verify_secret = argon2.low_level.verify_secret

    def counted(hash: bytes, secret: bytes, type: Type) -> bool:
        cost = extract_parameters(hash.decode())  # time, memory, lanes, and the lengths of salt and hash
        computed.append((cost, len(secret), type))
        return verify_secret(hash, secret, type)

    # Every verification starts its computation here.
    monkeypatch.setattr(argon2._password_hasher, "verify_secret", counted)
    known = await hasher.hash("correct horse")
    for password_hash in (known, None, known, None):
        assert not await hasher.verify(password_hash, "wrong")
    assert len(computed) == 4
    assert all(work == computed[0] for work in computed)


async def test_the_event_loop_goes_on_while_a_password_is_hashed(hasher: PasswordHasher) -> None:
    """Hashing runs in another thread."""
    hashing = asyncio.ensure_future(hasher.hash("correct horse"))
    await asyncio.sleep(0)
    assert not hashing.done()
    assert any(thread.name.startswith("argon2") for thread in threading.enumerate())
    await hashing


async def test_too_many_at_once_are_refused_until_there_is_capacity(hasher: PasswordHasher) -> None:
    """Too many concurrent hashes get 503; afterwards all is normal."""
    outcomes = await asyncio.gather(*(hasher.verify(None, "flood") for _ in range(10)), return_exceptions=True)
    assert sum(outcome is False for outcome in outcomes) == 2
    assert sum(isinstance(outcome, TemporarilyUnavailable) for outcome in outcomes) == 8
    assert await hasher.verify(await hasher.hash("correct horse"), "correct horse")


async def test_a_disconnected_caller_frees_no_slot_early(hasher: PasswordHasher) -> None:
    """A cancelled call still counts until its hash is computed, so cancelling cannot exceed the bound."""
    gate = threading.Event()
    hasher._pool.submit(gate.wait)  # occupies the only thread until the gate opens
    left = [asyncio.ensure_future(hasher.hash("gone")) for _ in range(2)]
    await asyncio.sleep(0)
    for hashing in left:
        hashing.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    with pytest.raises(TemporarilyUnavailable):
        await hasher.hash("next")
    gate.set()


def test_a_machine_with_many_cores_does_not_exceed_a_containers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 64 cores, as many passwords are hashed at once as fit into a third of a container's 512 MiB."""
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    many = PasswordHasher()
    try:
        assert many._pool._max_workers * MEMORY_KIB * 1024 <= 512 * 2**20 / 3
    finally:
        many.close()


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, 1, 7), (8, 2, 3), (8, 8, 1), (64, 4, 2), (1, 2, 1)])
def test_workers_divide_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int) -> None:
    """Workers of one service have together no more threads than one process, except that each has one."""
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    hasher = PasswordHasher(workers=workers)
    try:
        assert hasher._pool._max_workers == threads
    finally:
        hasher.close()
