"""Operations: alive, ready, measured. The edge exposes none of the three."""

import asyncio
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from libs.http.errors import json_bytes
from libs.oauth.errors import TemporarilyUnavailable
from libs.telemetry import exposition

Ping = Callable[[], Awaitable[None]]
PING_TIMEOUT = 2.0


class Health:
    """Whoever registers a resource registers its ping."""

    def __init__(self) -> None:
        self._pings: dict[str, Ping] = {}

    def register(self, name: str, ping: Ping) -> None:
        """Make readiness depend on this; the same name twice is the same resource."""
        self._pings[name] = ping

    async def healthz(self, _request: web.Request) -> web.Response:
        """Alive; touches nothing."""
        return json_bytes(b'{"status":"ok"}')

    async def readyz(self, _request: web.Request) -> web.Response:
        """Ready, or 503; each dependency by name."""
        names = list(self._pings)
        states = dict(zip(names, await asyncio.gather(*(self._state(name) for name in names)), strict=True))
        ready = all(state == "ok" for state in states.values())
        body = orjson.dumps({"status": "ok" if ready else "unavailable", **states})
        return json_bytes(body, 200 if ready else 503)

    async def _state(self, name: str) -> str:
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await self._pings[name]()
        except TimeoutError:
            return "no answer in time"
        except TemporarilyUnavailable as error:
            return error.description
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a dependency is its state
            return str(error) or type(error).__name__
        return "ok"

    async def metrics(self, _request: web.Request) -> web.Response:
        """Prometheus' text format."""
        return web.Response(body=exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    def add_to(self, app: web.Application) -> None:
        """Routes, with and without trailing slash."""
        for path, handler in (("/healthz", self.healthz), ("/readyz", self.readyz), ("/metrics", self.metrics)):
            app.router.add_get(path, handler)
            app.router.add_get(f"{path}/", handler)
