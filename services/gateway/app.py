"""The wiring of the gateway."""

from aiohttp import web

from libs.runtime import Deps, both_slashes, new_application, new_deps
from services.gateway.decision import AccessDecision
from services.gateway.settings import GatewaySettings
from services.gateway.verify import VerifyEndpoint


def install(app: web.Application, settings: GatewaySettings, deps: Deps) -> None:
    """Put the token check on the application."""
    decision = AccessDecision(deps.catalog, deps.store.grants, deps.codec, deps.now)
    verify = VerifyEndpoint(decision)
    both_slashes(app, "GET", "/verify", verify.verify)


def create_app(settings: GatewaySettings, deps: Deps | None = None) -> web.Application:
    """The gateway alone."""
    deps = deps or new_deps(settings, "gateway")
    app = new_application(settings, deps)
    install(app, settings, deps)
    return app
