"""The first operator: without one, nobody could make any."""

import asyncio
from collections.abc import AsyncIterator, Callable

import structlog
from aiohttp import web
from pydantic import SecretStr

from contracts.operators import Operator, Permission
from libs.events import Origin
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import Conflict
from libs.store.operators import Operators, key_digest

OPERATOR_ID = "bootstrap"
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds between attempts, doubling."""
_PERMISSIONS = (Permission.ADMIN,)

log = structlog.get_logger("management")


class Bootstrap:
    """Sees to it, as soon as MongoDB is there, that the operator `bootstrap` has this key and permission admin."""

    def __init__(self, key: SecretStr | None, operators: Operators, origin: Callable[[], Origin]) -> None:
        self._digest = key_digest(key.get_secret_value()) if key else None
        self._operators = operators
        self._origin = origin
        self._missing = "the operator 'bootstrap' is not made yet" if key else ""

    async def running(self, _app: web.Application) -> AsyncIterator[None]:
        """In the background, so that the service starts without MongoDB."""
        if self._digest is None:
            yield
            return
        task = asyncio.create_task(self._until_settled(self._digest), name="bootstrap-operator")
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def ping(self) -> None:
        """Return when there is nothing left to do. Raises TemporarilyUnavailable with what is missing."""
        if self._missing:
            raise TemporarilyUnavailable(self._missing)

    async def _until_settled(self, digest: str) -> None:
        pause = FIRST_PAUSE
        while not await self._settled(digest):
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _settled(self, digest: str) -> bool:
        try:
            done = await self._settle(digest)
        except TemporarilyUnavailable as error:
            log.warning("bootstrap_operator_waits", error=error.detail)
            return False
        except Conflict:
            # Another instance was first, which the next look shows; or this key is the key of another operator.
            self._missing = "the bootstrap operator's key is the key of another operator"
            log.warning("bootstrap_operator_conflict")
            return False
        if done:
            self._missing = ""
        return done

    async def _settle(self, digest: str) -> bool:
        at = self._origin()
        operator = await self._operators.get(OPERATOR_ID)
        if operator is None:
            await self._operators.add(_first_operator(digest, at), at)
            log.info("bootstrap_operator_made")
            return True
        changes: dict[str, object] = {}
        if operator.key_digest != digest:
            changes["key_digest"] = digest
        if Permission.ADMIN not in operator.permissions:
            changes["permissions"] = _PERMISSIONS
        if not changes:
            return True
        edited = await self._operators.edit(operator, changes, at)
        if edited is not None:
            log.info("bootstrap_operator_changed", fields=sorted(changes))
        return edited is not None


def _first_operator(digest: str, at: Origin) -> Operator:
    return Operator(
        operator_id=OPERATOR_ID,
        name="bootstrap",
        permissions=_PERMISSIONS,
        key_digest=digest,
        created_at=at.now,
        updated_at=at.now,
    )
