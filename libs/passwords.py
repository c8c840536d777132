"""Passwords of resource owners: argon2id beside the event loop, no more at once than the machine has room for."""

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

ITERATIONS = 2
MEMORY_KIB = 19 * 1024
"""With ITERATIONS, the least for argon2id in OWASP's guidance on password storage."""
WAITING_EACH = 16
"""How many may wait for each thread; at some 20 ms a hash, the last one waits a third of a second."""

_DECOY = f"$argon2id$v=19$m={MEMORY_KIB},t={ITERATIONS},p=1$c29tZSByYW5kb20gc2FsdA$" + "A" * 43
"""Costs what a real hash costs, and no password is known for it."""

R = TypeVar("R")


class PasswordHasher:
    """Hashes and verifies; a hash is a PHC string that carries its parameters."""

    def __init__(self, threads: int | None = None, waiting_each: int = WAITING_EACH) -> None:
        self._threads = threads or max(1, (os.cpu_count() or 2) - 1)
        self._room = self._threads * (1 + waiting_each)
        self._taken = 0
        self._argon2 = Argon2(time_cost=ITERATIONS, memory_cost=MEMORY_KIB, parallelism=1, type=Type.ID)

    async def hash(self, password: str) -> str:
        """The hash to keep. Raises TemporarilyUnavailable when too many wait."""
        return await self._beside_the_loop(lambda: self._argon2.hash(_bytes(password)))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the hash is of this password; None, for an unknown user, costs the same and is never true.

        Raises TemporarilyUnavailable when too many wait, whoever the user.
        """
        matches = await self._beside_the_loop(lambda: self._matches(password_hash or _DECOY, password))
        return matches and password_hash is not None

    def close(self) -> None:
        """Start nothing more; what runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="argon2")

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._argon2.verify(password_hash, _bytes(password))
        except (VerificationError, InvalidHashError):
            return False

    async def _beside_the_loop(self, work: Callable[[], R]) -> R:
        if self._taken >= self._room:
            raise TemporarilyUnavailable("too many passwords are being checked")
        self._taken += 1
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        # Counted until the thread is done with it: a caller that went away does not make room.
        running.add_done_callback(self._released)
        return await asyncio.shield(running)

    def _released(self, _: asyncio.Future[R]) -> None:
        self._taken -= 1


def _bytes(password: str) -> bytes:
    # A JSON body may hold half a surrogate pair; it is a wrong password like any other.
    return password.encode(errors="surrogatepass")
