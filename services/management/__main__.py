"""Run the management service: `python -m services.management`. The process also runs reconciliation."""

from aiohttp import web

from libs.runtime import Deps, main, new_application, new_deps
from services.management.app import install
from services.management.settings import ManagementSettings
from services.reconciliation import app as reconciliation


def create_app(settings: ManagementSettings, deps: Deps | None = None) -> web.Application:
    """The management API and reconciliation in one application."""
    deps = deps or new_deps(settings, "management")
    app = new_application(settings, deps)
    install(app, settings, deps)
    reconciliation.install(app, deps)
    return app


if __name__ == "__main__":
    main("management", "Register APIs, clients, policies, users and operators.", ManagementSettings, create_app)
