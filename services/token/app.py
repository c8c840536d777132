"""The wiring of the token service."""

import base64
from functools import partial

from aiohttp import web

from libs.access import ClientAuthenticator
from libs.cross_origin import CrossOrigin
from libs.encryption import Sealer
from libs.http.operations import add_operations, operations_of
from libs.oauth.login_limits import Limit
from libs.passwords import PasswordHasher
from libs.runtime import Deps, new_application, new_deps
from services.token.endpoint import TokenEndpoint
from services.token.grants.authorization_code import AuthorizationCode
from services.token.grants.client_credentials import ClientCredentials
from services.token.grants.grant_handler import by_grant_type
from services.token.grants.password import Password
from services.token.grants.refresh_token import Refresh
from services.token.issuance_limit import IssuanceLimiter
from services.token.issuer import Issuer
from services.token.settings import TokenSettings

OPERATIONS = operations_of(TokenEndpoint)


def install(app: web.Application, settings: TokenSettings, deps: Deps) -> None:
    """Put the token endpoint on the application."""
    event_context = partial(deps.event_context, "token")
    sealer = Sealer(base64.b64decode(settings.notifier_public_key))
    limiter = IssuanceLimiter(deps.store.attempts, Limit.parse(settings.issuance_limit))
    issuer = Issuer(deps.store.grants, deps.token_format, sealer, event_context, limiter)
    passwords = PasswordHasher(workers=settings.workers)
    handlers = by_grant_type(
        AuthorizationCode(issuer),
        ClientCredentials(issuer),
        Password(issuer, deps.store.resource_owners, deps.store.users, passwords, deps.throttle),
        Refresh(issuer, deps.store.resource_owners),
    )
    clients = ClientAuthenticator(deps.catalog, deps.throttle, deps.keys, deps.now)
    endpoint = TokenEndpoint(deps.catalog, clients, handlers, event_context)
    add_operations(app, endpoint, cross_origin=CrossOrigin(deps.catalog))
    deps.outbox.watch(deps.store.grants)

    async def close_passwords(_app: web.Application) -> None:
        passwords.close()

    app.on_cleanup.append(close_passwords)


def create_app(settings: TokenSettings, deps: Deps | None = None) -> web.Application:
    """The token service alone."""
    deps = deps or new_deps(settings, "token")
    app = new_application(settings, deps, settings.oauth_error_status)
    install(app, settings, deps)
    return app
