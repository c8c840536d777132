"""When the notifier begins and how it ends."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web

from services.notifier.claims import Claims
from services.notifier.courier import Courier
from services.notifier.sender import Sender

STOP_WITHIN = 7.0
"""Seconds that attempts under way get to end."""


@dataclass(frozen=True, slots=True)
class Lifespan:
    """Claims from the start of the application on; stops claiming first, then sending."""

    claims: Claims
    courier: Courier
    sender: Sender

    def add_to(self, app: web.Application) -> None:
        """Begin and end with the application."""
        app.on_shutdown.append(self._stop_claiming)
        app.cleanup_ctx.append(self._run)

    async def _stop_claiming(self, _: web.Application) -> None:
        self.claims.stop()

    async def _run(self, _: web.Application) -> AsyncIterator[None]:
        self.claims.open()
        yield
        await self.claims.close()
        await self.courier.stop(STOP_WITHIN)
        await self.sender.close()
