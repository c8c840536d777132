"""The wiring of the token service."""

import base64

from aiohttp import web

from contracts.apis import GrantType
from libs.access import ClientAccess
from libs.cross_origin import CrossOrigin
from libs.passwords import PasswordHasher
from libs.runtime import PLACE, Deps, both_slashes, new_application, new_deps
from libs.sealing import Sealer
from services.token.endpoint import TokenEndpoint
from services.token.grants.authorization_code import AuthorizationCode
from services.token.grants.client_credentials import ClientCredentials
from services.token.grants.password import Password
from services.token.grants.refresh_token import Refresh
from services.token.issuer import Issuer
from services.token.settings import TokenSettings


def install(app: web.Application, settings: TokenSettings, deps: Deps) -> None:
    """Put the token endpoint on the application."""
    sealer = Sealer(base64.b64decode(settings.notifier_public_key))
    issuer = Issuer(deps.store.grants, deps.codec, sealer, lambda: deps.origin("token"))
    passwords = PasswordHasher()
    endpoint = TokenEndpoint(
        deps.catalog,
        ClientAccess(deps.catalog, deps.throttle, deps.keys, deps.now),
        {
            GrantType.AUTHORIZATION_CODE: AuthorizationCode(issuer),
            GrantType.CLIENT_CREDENTIALS: ClientCredentials(issuer),
            GrantType.PASSWORD: Password(issuer, deps.store.resource_owners, passwords, deps.throttle),
            GrantType.REFRESH_TOKEN: Refresh(issuer, deps.store.resource_owners),
        },
    )
    cross_origin = CrossOrigin(deps.catalog)
    both_slashes(app, "POST", f"/{PLACE}/oauth/token", cross_origin.around(endpoint.token))
    both_slashes(app, "OPTIONS", f"/{PLACE}/oauth/token", cross_origin.preflight)
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
