"""CORS for Tokenwire's endpoints under a listen path, according to the API definition."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from contracts.apis import Cors
from libs.catalog import Catalog
from libs.http.context import current
from libs.http.cors import cors_response_headers, preflight_headers

_Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class CrossOrigin:
    """Adds CORS headers and handles preflights. It never refuses a request: CORS is enforced by browsers."""

    catalog: Catalog

    def around(self, handler: _Handler) -> _Handler:
        """Wrap the handler so that allowed origins may read its responses, error responses included."""

        async def handle(request: web.Request) -> web.Response:
            origin = request.headers.get("Origin")
            if origin is not None:
                cors = await self._cors(request)
                if cors is not None:
                    current().cors_headers = cors_response_headers(cors, origin, request.method)
            return await handler(request)

        return handle

    async def preflight(self, request: web.Request) -> web.Response:
        """Respond to OPTIONS: 204 with the CORS headers; 405 if the definition has no CORS settings."""
        cors = await self._cors(request)
        if cors is None:
            raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        return web.Response(status=204, headers=preflight_headers(cors, request.headers))

    async def _cors(self, request: web.Request) -> Cors | None:
        api = await self.catalog.api_at(request.match_info["api_ref"].strip("/"))
        return api.cors if api is not None and api.active else None
