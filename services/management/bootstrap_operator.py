"""Creates the operator `bootstrap` from the settings: without a first operator, no operator could ever be created."""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog
from aiohttp import web
from pydantic import SecretStr

from contracts.operators import BOOTSTRAP_OPERATOR_ID, Operator, Permission
from libs.event_encoding import EventContext
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import Conflict
from libs.store.operators import Operators, key_digest
from libs.supervision import LoggedReasons, Supervisor

FIRST_DELAY, MAX_DELAY = 0.2, 5.0
"""Seconds between attempts; the delay doubles (backoff)."""
_PERMISSIONS = (Permission.ADMIN,)

log = structlog.get_logger("management")


class BootstrapOperator:
    """Ensures, as soon as MongoDB is reachable, that the operator `bootstrap` has this key and permission `admin`."""

    def __init__(self, key: SecretStr | None, operators: Operators, event_context: Callable[[], EventContext]) -> None:
        self._digest = key_digest(key.get_secret_value()) if key else None
        self._operators = operators
        self._event_context = event_context
        self._logged = LoggedReasons()
        self._missing = "the operator 'bootstrap' does not exist yet" if key else ""

    def add_to(self, app: web.Application, supervisor: Supervisor) -> None:
        """Run in the background, so that the service can start without MongoDB."""
        if self._digest is not None:
            run = partial(self._retry_until_done, self._digest)
            supervisor.start_with(app, lambda: supervisor.start("bootstrap-operator", run))

    async def ping(self) -> None:
        """Readiness check. Raises TemporarilyUnavailable with the reason while the operator is not as configured."""
        if self._missing:
            raise TemporarilyUnavailable(self._missing)

    async def _retry_until_done(self, digest: str) -> None:
        delay = FIRST_DELAY
        while not await self._try_once(digest):
            await asyncio.sleep(delay)
            delay = min(2 * delay, MAX_DELAY)

    async def _try_once(self, digest: str) -> bool:
        try:
            done = await self._ensured(digest)
        except TemporarilyUnavailable as error:
            if self._logged.is_new(error.detail or error.description):
                log.warning("bootstrap_operator_postponed", error=error.detail)
            return False
        except Conflict:
            self._missing = "the key of the bootstrap operator is already the key of another operator"
            log.warning("bootstrap_operator_conflict")
            return False
        if done:
            self._missing = ""
        return done

    async def _ensured(self, digest: str) -> bool:
        """Raises Conflict if the key belongs to another operator."""
        try:
            return await self._ensure(digest)
        except Conflict:
            return await self._ensure(digest)  # finds it if another instance or worker was faster

    async def _ensure(self, digest: str) -> bool:
        ctx = self._event_context()
        operator = await self._operators.get(BOOTSTRAP_OPERATOR_ID)
        if operator is None:
            await self._operators.add(_first_operator(digest, ctx), ctx)
            log.info("bootstrap_operator_created")
            return True
        changes: dict[str, object] = {}
        if operator.key_digest != digest:
            changes |= {"key_digest": digest, "key_created_at": ctx.now, "previous": None}
        if Permission.ADMIN not in operator.permissions:
            changes["permissions"] = _PERMISSIONS
        if not changes:
            return True
        edited = await self._operators.edit(operator, changes, ctx)
        if edited is not None:
            log.info("bootstrap_operator_changed", fields=sorted(changes))
        return edited is not None


def _first_operator(digest: str, ctx: EventContext) -> Operator:
    return Operator(
        operator_id=BOOTSTRAP_OPERATOR_ID,
        name="bootstrap",
        permissions=_PERMISSIONS,
        key_digest=digest,
        created_at=ctx.now,
        updated_at=ctx.now,
    )
