"""A stand-in for a Tyk gateway: its own API, answering as Tyk's does, from records that a test gives it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

SECRET = "352d20ee67be67f6340b4c0605b044b7"


@dataclass
class TykGateway:
    """The records, and every request that was made."""

    classic: list[dict[str, Any]] = field(default_factory=list)
    oas: list[dict[str, Any]] = field(default_factory=list)
    policies: list[dict[str, Any]] = field(default_factory=list)
    clients: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((request.method, request.path))
        if request.headers.get("X-Tyk-Authorization") != SECRET:
            message = "Attempted administrative access with invalid or missing key!"
            return web.json_response({"status": "error", "message": message}, status=403)
        match request.path.removeprefix("/tyk/").split("/"):
            case ["apis"]:
                # Tyk lists OAS APIs here as well, in its internal form.
                internal = [_internal(document) for document in self.oas]
                return web.json_response(self.classic + internal)
            case ["apis", "oas"]:
                return web.json_response(self.oas)
            case ["policies"]:
                return web.json_response(self.policies)
            case ["oauth", "clients", api_id]:
                known = {each["api_id"] for each in self.classic} | {_internal(each)["api_id"] for each in self.oas}
                if api_id not in known:
                    return web.Response(text="null", status=404, content_type="application/json")
                return web.json_response(self.clients.get(api_id, []))
            case ["keys"]:
                return web.json_response({"keys": self.keys})
        return web.Response(text="404 page not found", status=404)


def _internal(document: dict[str, Any]) -> dict[str, Any]:
    extension = document["x-tyk-api-gateway"]
    path, upstream = extension["server"]["listenPath"]["value"], extension["upstream"]["url"]
    return {
        "api_id": extension["info"]["id"],
        "name": extension["info"]["name"],
        "is_oas": True,
        "use_oauth2": True,
        "proxy": {"listen_path": path, "target_url": upstream},
    }


@asynccontextmanager
async def tyk_gateway(**records: Any) -> AsyncIterator[TykGateway]:
    """The gateway, listening until the block ends."""
    gateway = TykGateway(**records)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", gateway.answer)
    async with TestServer(app) as server:
        gateway.url = str(server.make_url("/")).rstrip("/")
        yield gateway
