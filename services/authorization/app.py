"""The wiring of the authorization service."""

from aiohttp import web

from libs.access import OperatorAuthenticator
from libs.http.operations import add_operations, operations_of
from libs.runtime import Deps, new_application, new_deps
from services.authorization.authorize import AuthorizeEndpoint
from services.authorization.authorize_client import CodeEndpoint
from services.authorization.metadata import MetadataEndpoint
from services.authorization.settings import AuthorizationSettings
from services.authorization.tyk_codes import TykCodeEndpoint

OPERATIONS = operations_of(CodeEndpoint, AuthorizeEndpoint, MetadataEndpoint)
TYK_GATEWAY_OPERATIONS = operations_of(TykCodeEndpoint)


def install(app: web.Application, settings: AuthorizationSettings, deps: Deps) -> None:
    """Put the authorization endpoints on the application."""
    authorize = AuthorizeEndpoint(deps.catalog, settings.public_url)
    code = CodeEndpoint(
        deps.catalog,
        deps.store.grants,
        deps.store.users,
        deps.token_format,
        lambda: deps.event_context("authorization"),
        settings.public_url,
        settings.oauth_error_status,
    )
    metadata = MetadataEndpoint(deps.catalog, settings.public_url)
    access = OperatorAuthenticator(deps.catalog, deps.throttle, deps.now)
    for endpoint in (code, authorize, metadata):
        add_operations(app, endpoint, access.require)
    if settings.tyk_gateway_api:
        add_operations(app, TykCodeEndpoint(deps.store.clients, code), access.require)
    deps.outbox.watch(deps.store.grants)


def create_app(settings: AuthorizationSettings, deps: Deps | None = None) -> web.Application:
    """The authorization service alone."""
    deps = deps or new_deps(settings, "authorization")
    app = new_application(settings, deps, settings.oauth_error_status)
    install(app, settings, deps)
    return app
