"""Endpoints under a listen path, for scripts of the origins that the API's definition names."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from contracts.apis import Cors
from libs.catalog import Catalog
from libs.http.context import current
from libs.http.cors import answer_headers, preflight_headers

_Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class CrossOrigin:
    """What a browser asks and is told around a request; the request itself is not decided about here."""

    catalog: Catalog

    def around(self, handler: _Handler) -> _Handler:
        """The handler, whose answers and refusals are for the API's scripts to read."""

        async def handle(request: web.Request) -> web.Response:
            origin = request.headers.get("Origin")
            if origin is not None:
                cors = await self._cors(request)
                if cors is not None:
                    current().answer_headers = answer_headers(cors, origin, request.method)
            return await handler(request)

        return handle

    async def preflight(self, request: web.Request) -> web.Response:
        """OPTIONS: 204 with what is allowed; 405 where the definition names no origins."""
        cors = await self._cors(request)
        if cors is None:
            raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        return web.Response(status=204, headers=preflight_headers(cors, request.headers))

    async def _cors(self, request: web.Request) -> Cors | None:
        api = await self.catalog.api_at(request.match_info["place"].strip("/"))
        return api.cors if api is not None and api.active else None
