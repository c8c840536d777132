"""The wiring of the revocation service."""

from aiohttp import web

from libs.access import Access, ClientAccess
from libs.cross_origin import CrossOrigin
from libs.runtime import PLACE, Deps, both_slashes, new_application, new_deps
from services.revocation.endpoint import RevocationEndpoint
from services.revocation.management import TokenManagement
from services.revocation.reactions import Reactions
from services.revocation.revoker import Revoker
from services.revocation.settings import RevocationSettings
from services.revocation.token_list import TokenList


def install(app: web.Application, settings: RevocationSettings, deps: Deps) -> None:
    """Put the revocation endpoints and reactions on the application."""
    store = deps.store
    revoker = Revoker(store.grants, store.clients, deps.codec, lambda: deps.origin("revocation"))
    access = Access(deps.catalog, deps.throttle)
    clients = ClientAccess(deps.catalog, deps.throttle, deps.keys, deps.now)
    endpoint = RevocationEndpoint(deps.catalog, clients, revoker)
    management = TokenManagement(access, store.clients, deps.keys, revoker, deps.now)
    tokens = TokenList(access, store.clients, deps.catalog, store.grants, store.counters, deps.now)
    both_slashes(app, "POST", "/api/apis/oauth/{client_id}/revoke", management.revoke)
    both_slashes(app, "POST", "/api/apis/oauth/{client_id}/revoke_all", management.revoke_all)
    both_slashes(app, "GET", "/api/apis/oauth/{api_id}/{client_id}/tokens", tokens.show)
    both_slashes(app, "GET", "/api/apis/oauth/{client_id}/tokens", tokens.show)
    cross_origin = CrossOrigin(deps.catalog)
    both_slashes(app, "POST", f"/{PLACE}/oauth/revoke", cross_origin.around(endpoint.revoke))
    both_slashes(app, "OPTIONS", f"/{PLACE}/oauth/revoke", cross_origin.preflight)
    both_slashes(app, "POST", f"/{PLACE}/oauth/revoke_all", cross_origin.around(endpoint.revoke_all))
    both_slashes(app, "OPTIONS", f"/{PLACE}/oauth/revoke_all", cross_origin.preflight)
    deps.bus.subscribe(Reactions(revoker, store.clients).subscription())
    deps.outbox.watch(store.grants)
    deps.outbox.watch(store.clients)


def create_app(settings: RevocationSettings, deps: Deps | None = None) -> web.Application:
    """The revocation service alone."""
    deps = deps or new_deps(settings, "revocation")
    app = new_application(settings, deps, settings.oauth_error_status)
    install(app, settings, deps)
    return app
