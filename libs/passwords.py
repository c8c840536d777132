"""Password hashing for resource owners: argon2id in threads, bounded so that a flood of logins cannot exhaust them."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

from argon2 import PasswordHasher as Argon2
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from libs.oauth.errors import TemporarilyUnavailable
from libs.precis import prepare_password

ITERATIONS = 2
MEMORY_KIB = 19 * 1024
"""With ITERATIONS, the minimum for argon2id in OWASP's Password Storage Cheat Sheet."""
MAX_THREADS = 8
"""Each uses MEMORY_KIB while it hashes. One for each core of a large machine would exceed a container's memory."""
MAX_WAITING_PER_THREAD = 16
"""Hashes that may wait for each thread. At about 20 ms for a hash, the last one waits a third of a second."""

_DUMMY_HASH = f"$argon2id$v=19$m={MEMORY_KIB},t={ITERATIONS},p=1$c29tZSByYW5kb20gc2FsdA$" + "A" * 43
"""Takes as long to verify as a real hash; no password matches it."""

R = TypeVar("R")


class PasswordHasher:
    """Hashes and verifies passwords. A hash is a PHC string, which contains its parameters."""

    def __init__(
        self, threads: int | None = None, max_waiting_per_thread: int = MAX_WAITING_PER_THREAD, *, workers: int = 1
    ) -> None:
        """Without a number of threads, as many as one of so many `workers` may have."""
        self._threads = threads or max(1, min(MAX_THREADS, (os.cpu_count() or 2) - 1) // workers)
        self._capacity = self._threads * (1 + max_waiting_per_thread)
        self._in_use = 0
        self._argon2 = Argon2(time_cost=ITERATIONS, memory_cost=MEMORY_KIB, parallelism=1, type=Type.ID)

    async def hash(self, password: str) -> str:
        """The hash to store, of the password as `libs.precis` prepares it.

        Raises TemporarilyUnavailable if too many wait, and ValueError for a password that is not allowed.
        """
        return await self._in_thread(lambda: self._hashed(password))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether this is the password of the hash, in any spelling that `libs.precis` prepares to the same text.

        `password_hash` is None for an unknown user. That, and a password that is not allowed, take as long as a wrong
        password, so that the time does not tell which users exist. Raises TemporarilyUnavailable if too many wait.
        """
        matches = await self._in_thread(lambda: self._matches(password_hash or _DUMMY_HASH, password))
        return matches and password_hash is not None

    def close(self) -> None:
        """Start no more hashing; running threads end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="argon2")

    def _hashed(self, password: str) -> str:
        prepared = prepare_password(password)
        if prepared is None:
            raise ValueError("the password has characters that a password may not have")
        return self._argon2.hash(prepared)

    def _matches(self, password_hash: str, password: str) -> bool:
        prepared = prepare_password(password)
        try:
            matches = self._argon2.verify(password_hash, _bytes(password if prepared is None else prepared))
        except (VerificationError, InvalidHashError):
            return False
        return matches and prepared is not None

    async def _in_thread(self, work: Callable[[], R]) -> R:
        if self._in_use >= self._capacity:
            raise TemporarilyUnavailable("too many passwords are being checked")
        self._in_use += 1
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        # Counted until the thread is done: cancelling a caller does not free its thread.
        running.add_done_callback(self._released)
        return await asyncio.shield(running)

    def _released(self, _: asyncio.Future[R]) -> None:
        self._in_use -= 1


def _bytes(password: str) -> bytes:
    # A JSON body may contain a lone surrogate, which cannot be encoded. It must be a wrong password, not an error.
    return password.encode(errors="surrogatepass")
