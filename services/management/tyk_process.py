"""/hello and /tyk/reload of the Tyk gateway's own API."""

from dataclasses import dataclass

from aiohttp import web

from contracts.operations import ResponseSpec
from contracts.operators import Permission
from contracts.tyk_gateway import GatewayHealth, GatewayStatus
from libs.http.health_endpoints import Health, Readiness
from libs.http.operations import operation
from libs.http.tyk_gateway_api import answer, gateway_operation, ok
from libs.version import VERSION

_STATUS = {Readiness.OK: "pass", Readiness.DEGRADED: "warn", Readiness.UNAVAILABLE: "fail"}
_RELOADED = ResponseSpec(description="Nothing needs to be reloaded.", models=(GatewayStatus,))
_RELOAD = "Changes apply at once in every process, so this does nothing."


@dataclass(frozen=True, slots=True)
class TykProcessEndpoints:
    """What scripts for Tyk's gateway ask before and after a change."""

    health: Health

    @operation(
        gateway_operation("GET", "/hello", "tykHello", None, summary="Check the service", response=GatewayHealth)
    )
    async def hello(self, _: web.Request) -> web.Response:
        """GET /hello."""
        status = _STATUS[self.health.readiness(await self.health.look())]
        return answer({"status": status, "version": VERSION, "description": "Tokenwire"})

    @operation(
        gateway_operation(
            "GET",
            "/tyk/reload",
            "tykReload",
            Permission.READ,
            summary="Reload",
            description=_RELOAD,
            response=_RELOADED,
        )
    )
    @operation(
        gateway_operation(
            "GET",
            "/tyk/reload/group",
            "tykReloadGroup",
            Permission.READ,
            summary="Reload all processes",
            description=_RELOAD,
            response=_RELOADED,
        )
    )
    async def reload(self, _: web.Request) -> web.Response:
        """GET /tyk/reload[/group]."""
        return ok("")
