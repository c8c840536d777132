"""The wiring of the authorization service."""

from aiohttp import web

from libs.access import Access
from libs.runtime import PLACE, Deps, both_slashes, new_application, new_deps
from services.authorization.authorize import AuthorizeEndpoint
from services.authorization.code import CodeEndpoint
from services.authorization.metadata import MetadataEndpoint
from services.authorization.settings import AuthorizationSettings


def install(app: web.Application, settings: AuthorizationSettings, deps: Deps) -> None:
    """Put the authorization endpoints on the application."""
    authorize = AuthorizeEndpoint(deps.catalog, settings.public_url)
    code = CodeEndpoint(
        Access(deps.catalog, deps.throttle),
        deps.catalog,
        deps.store.grants,
        deps.codec,
        lambda: deps.origin("authorization"),
        settings.public_url,
        settings.oauth_error_status,
    )
    metadata = MetadataEndpoint(deps.catalog, settings.public_url)
    both_slashes(app, "POST", "/api/apis/oauth/{api_id}/authorize-client", code.for_api)
    both_slashes(app, "POST", "/api/apis/{api_id}/authorize-client", code.for_api)
    both_slashes(app, "POST", f"/{PLACE}/tyk/oauth/authorize-client", code.for_path)
    both_slashes(app, "GET", f"/{PLACE}/oauth/authorize", authorize.get)
    both_slashes(app, "POST", f"/{PLACE}/oauth/authorize", authorize.post)
    both_slashes(app, "GET", "/.well-known/oauth-authorization-server/{place:(?s:.+?)}", metadata.get)
    deps.outbox.watch(deps.store.grants)


def create_app(settings: AuthorizationSettings, deps: Deps | None = None) -> web.Application:
    """The authorization service alone."""
    deps = deps or new_deps(settings, "authorization")
    app = new_application(settings, deps, settings.oauth_error_status)
    install(app, settings, deps)
    return app
