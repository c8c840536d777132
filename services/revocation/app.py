"""The wiring of the revocation service."""

from aiohttp import web

from libs.access import ClientAuthenticator, OperatorAuthenticator
from libs.cross_origin import CrossOrigin
from libs.http.operations import add_operations, operations_of
from libs.runtime import Deps, new_application, new_deps
from services.revocation.client_revocation import ClientRevocation
from services.revocation.endpoint import RevocationEndpoint
from services.revocation.grant_revocation import GrantRevocation
from services.revocation.operator_revocation import TokenManagement
from services.revocation.revoker import Revoker
from services.revocation.settings import RevocationSettings
from services.revocation.token_list import TokenList
from services.revocation.tyk_tokens import TykTokenEndpoints

OPERATIONS = operations_of(TokenManagement, TokenList, GrantRevocation, RevocationEndpoint)
TYK_GATEWAY_OPERATIONS = operations_of(TykTokenEndpoints)


def install(app: web.Application, settings: RevocationSettings, deps: Deps) -> None:
    """Put the revocation endpoints and reactions on the application."""
    store = deps.store
    revoker = Revoker(
        store.grants, store.clients, store.users, deps.token_format, lambda: deps.event_context("revocation")
    )
    access = OperatorAuthenticator(deps.catalog, deps.throttle, deps.now)
    clients = ClientAuthenticator(deps.catalog, deps.throttle, deps.keys, deps.now)
    endpoint = RevocationEndpoint(deps.catalog, clients, revoker)
    management = TokenManagement(store.clients, deps.keys, revoker, deps.now)
    tokens = TokenList(store.clients, deps.catalog, store.grants, store.counters, deps.now)
    add_operations(app, management, access.require)
    add_operations(app, tokens, access.require)
    add_operations(app, GrantRevocation(store.grants, revoker), access.require)
    if settings.tyk_gateway_api:
        translation = TykTokenEndpoints(
            management, tokens, deps.catalog, store.grants, revoker, deps.token_format, deps.now
        )
        add_operations(app, translation, access.require)
    add_operations(app, endpoint, cross_origin=CrossOrigin(deps.catalog))
    deps.bus.subscribe(ClientRevocation(revoker, store.clients).subscription())
    deps.outbox.watch(store.grants)
    deps.outbox.watch(store.clients)
    deps.outbox.watch(store.users)


def create_app(settings: RevocationSettings, deps: Deps | None = None) -> web.Application:
    """The revocation service alone."""
    deps = deps or new_deps(settings, "revocation")
    app = new_application(settings, deps, settings.oauth_error_status)
    install(app, settings, deps)
    return app
