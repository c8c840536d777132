"""The wiring of the gateway."""

from aiohttp import web

from libs.access import Access, ClientAccess
from libs.addresses import TrustedProxies
from libs.runtime import PLACE, Deps, both_slashes, new_application, new_deps
from services.gateway.decision import AccessDecision
from services.gateway.headers import Introduction
from services.gateway.introspection import IntrospectionEndpoint, Introspector
from services.gateway.limits import Limiter
from services.gateway.proxy import ProxyEndpoint
from services.gateway.rate_limits import RateLimitsEndpoint
from services.gateway.rights import Rights
from services.gateway.settings import GatewaySettings
from services.gateway.token_grants import TokenGrants
from services.gateway.tunnels import Tunnels
from services.gateway.upstream import Upstream
from services.gateway.usage import USAGE, UsageCounter
from services.gateway.verify import VerifyEndpoint


def install(app: web.Application, settings: GatewaySettings, deps: Deps) -> None:
    """Put the token check and the way through it on the application."""
    limiter = Limiter(deps.store.counters, settings.limits_on_failure)
    tokens = TokenGrants(deps.store.grants, deps.codec, settings.cache_ttl)
    usage = UsageCounter(deps.store.usage, deps.now)
    app[USAGE] = usage
    app.cleanup_ctx.append(usage.running)
    decision = AccessDecision(deps.catalog, tokens, Rights(deps.catalog), limiter, usage, deps.now)
    verify = VerifyEndpoint(decision)
    introspector = Introspector(decision, deps.catalog, deps.store.grants, deps.codec, deps.now, settings.public_url)
    introspection = IntrospectionEndpoint(
        Access(deps.catalog, deps.throttle),
        ClientAccess(deps.catalog, deps.throttle, deps.keys, deps.now),
        introspector,
    )
    both_slashes(app, "GET", "/verify", verify.verify)
    both_slashes(app, "*", "/verify/{uri:(?s:.+)}", verify.verify)
    both_slashes(app, "POST", "/oauth/introspect", introspection.introspect)
    both_slashes(app, "GET", f"/{PLACE}/tyk/rate-limits", RateLimitsEndpoint(decision, limiter).show)
    introduction = Introduction(TrustedProxies.parse(settings.trusted_proxies))
    upstream = Upstream(settings.upstream_connect_timeout, settings.upstream_timeout)
    ProxyEndpoint(decision, introduction, upstream, Tunnels()).add_to(app)
    deps.changes.append(tokens.changed)
    deps.bus.subscribe(tokens.subscription())
    limiter.add_to(app)


def create_app(settings: GatewaySettings, deps: Deps | None = None) -> web.Application:
    """The gateway alone."""
    deps = deps or new_deps(settings, "gateway")
    app = new_application(settings, deps)
    install(app, settings, deps)
    return app
