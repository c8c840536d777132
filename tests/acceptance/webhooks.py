"""A webhook receiver that keeps requests byte for byte."""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
from aiohttp import web

from tests.eventually import eventually

TOLERANCE = 300
"""Allowed difference of a timestamp in seconds (Standard Webhooks 1.0.0)."""


@dataclass(frozen=True)
class Webhook:
    """One POST as it arrived."""

    path: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return orjson.loads(self.raw)

    def is_signed_with(self, shared_secret: str) -> bool:
        """Whether the signature (Standard Webhooks) of these exact bytes is valid and recent."""
        identifier, timestamp = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        signed = b".".join([identifier.encode(), timestamp.encode(), self.raw])
        tag = hmac.new(shared_secret.encode(), signed, hashlib.sha256).digest()
        recent = abs(time.time() - int(timestamp)) < TOLERANCE
        return recent and f"v1,{base64.b64encode(tag).decode()}" in self.headers["webhook-signature"].split(" ")


@dataclass
class Receiver:
    """Responds 204 to every POST. `async with` serves on a free port."""

    received: list[Webhook] = field(default_factory=list)
    _runner: web.AppRunner | None = None
    _port: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}{path}"

    def saying(self, path: str, **said: str) -> list[Webhook]:
        """The webhooks at this path whose body has these values."""
        return [webhook for webhook in self.received if webhook.path == path and said.items() <= webhook.body.items()]

    async def hears(self, path: str, **said: str) -> Webhook:
        """Wait for the only webhook at this path whose body has these values."""

        def there() -> Webhook | None:
            found = self.saying(path, **said)
            assert found, f"no such webhook at {path}"
            return found[0]

        webhook = await eventually(there)
        assert {found.headers["webhook-id"] for found in self.saying(path, **said)} == {webhook.headers["webhook-id"]}
        return webhook

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Webhook(request.path, headers, await request.read()))
        return web.Response(status=204)
