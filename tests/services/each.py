"""Each of the six services alone in this process, as `python -m services.<name>` would run it."""

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from aiohttp import web
from aiohttp.test_utils import TestClient

from libs.bus.port import Bus
from libs.runtime import Deps, new_deps
from libs.settings import Settings
from libs.supervision import Backoff, Supervisor
from services.authorization import app as authorization
from services.authorization.settings import AuthorizationSettings
from services.gateway import app as gateway
from services.gateway.settings import GatewaySettings
from services.management import __main__ as management
from services.management.settings import ManagementSettings
from services.notifier import app as notifier
from services.notifier.settings import NotifierSettings
from services.revocation import app as revocation
from services.revocation.settings import RevocationSettings
from services.token import app as token
from services.token.settings import TokenSettings
from tests.builders import NOTIFIER_KEY, NOTIFIER_PUBLIC_KEY, Caller, Response, Served, settings

SERVICES: dict[str, tuple[type[Settings], Callable[..., web.Application]]] = {
    "authorization": (AuthorizationSettings, authorization.create_app),
    "token": (TokenSettings, token.create_app),
    "revocation": (RevocationSettings, revocation.create_app),
    "notifier": (NotifierSettings, notifier.create_app),
    "management": (ManagementSettings, management.create_app),
    "gateway": (GatewaySettings, gateway.create_app),
}
_KEYS = {
    "notifier_private_keys": base64.b64encode(NOTIFIER_KEY).decode(),
    "notifier_public_key": NOTIFIER_PUBLIC_KEY,
    "bootstrap_operator_key": "the-first-operators-key-of-the-tests",
}


@dataclass(frozen=True)
class Started:
    """A running service."""

    deps: Deps
    call: Caller

    async def readyz(self) -> Response:
        """The body of `/readyz`."""
        return await self.call("GET", "/readyz")

    async def has_status(self, status: str) -> bool:
        """Whether `/readyz` has this status, with the matching status code."""
        response = await self.readyz()
        assert response.status == (503 if response.body["status"] == "unavailable" else 200)
        return bool(response.body["status"] == status)


@asynccontextmanager
async def started(
    service: str, mongodb_url: str, database_name: str, bus: Bus, backoff: Backoff | None = None
) -> AsyncIterator[Started]:
    """Start the service; stop it when the block ends."""
    kind, create = SERVICES[service]
    loaded = settings(kind, mongodb_url, database_name, **_KEYS)
    deps = replace(new_deps(loaded, service, bus), supervisor=Supervisor(backoff))
    async with TestClient(Served(create(loaded, deps))) as http:
        yield Started(deps, Caller(http))
