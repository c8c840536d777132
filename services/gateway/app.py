"""Wires up the gateway: token checks for proxies, introspection, and the reverse proxy."""

from aiohttp import web

from libs.access import ClientAuthenticator, OperatorAuthenticator
from libs.client_address import TrustedProxies
from libs.http.operations import add_operations, operations_of
from libs.outbound.ssrf import parse_denylist
from libs.runtime import Deps, new_application, new_deps
from services.gateway.access_rights import Rights
from services.gateway.decision import AccessDecision
from services.gateway.edge_decision import EdgeDecisionEndpoint
from services.gateway.guards.chain import GuardChain
from services.gateway.introspection import IntrospectionEndpoint, Introspector
from services.gateway.proxy import ProxyEndpoint
from services.gateway.rate_limit_endpoint import RateLimitEndpoint
from services.gateway.rate_limiter import RateLimiter
from services.gateway.refusal_counter import REFUSALS, RefusalCounter
from services.gateway.settings import GatewaySettings
from services.gateway.token_grants import TokenGrants
from services.gateway.traced_upstream import TracedUpstream
from services.gateway.tunnels import Tunnels
from services.gateway.upstream import Upstream
from services.gateway.upstream_addresses import UpstreamAddresses
from services.gateway.upstream_headers import UpstreamHeaders
from services.gateway.usage_counter import USAGE, UsageCounter
from services.gateway.verify import VerifyEndpoint

OPERATIONS = operations_of(VerifyEndpoint, IntrospectionEndpoint, RateLimitEndpoint)


def install(app: web.Application, settings: GatewaySettings, deps: Deps) -> None:
    """Add the gateway's endpoints and background tasks to the application."""
    limiter = RateLimiter(deps.store.counters, settings.limits_on_failure)
    tokens = TokenGrants(deps.store.grants, deps.token_format, settings.cache_ttl)
    usage = UsageCounter(deps.store.usage, deps.now)
    app[USAGE] = usage
    usage.add_to(app, deps.supervisor)
    refusals = app[REFUSALS] = RefusalCounter(deps.store.refused_calls, deps.now)
    refusals.add_to(app, deps.supervisor)
    guards = GuardChain(limiter, deps.now)
    decision = AccessDecision(deps.catalog, tokens, Rights(deps.catalog), limiter, usage, refusals, deps.now, guards)
    verify = VerifyEndpoint(decision)
    introspector = Introspector(
        decision, deps.catalog, deps.store.grants, deps.token_format, deps.now, settings.public_url
    )
    introspection = IntrospectionEndpoint(
        OperatorAuthenticator(deps.catalog, deps.throttle, deps.now),
        ClientAuthenticator(deps.catalog, deps.throttle, deps.keys, deps.now),
        introspector,
    )
    for endpoint in (verify, introspection, RateLimitEndpoint(decision, limiter)):
        add_operations(app, endpoint)
    upstream_headers = UpstreamHeaders(
        TrustedProxies.parse(settings.trusted_proxies), behind_the_edge=settings.edge_forwards
    )
    timeouts, denied = (
        (settings.upstream_connect_timeout, settings.upstream_timeout),
        parse_denylist(settings.upstream_deny),
    )
    upstream = TracedUpstream(*timeouts, denied, deps.tracer) if deps.tracer else Upstream(*timeouts, denied)
    if settings.edge_forwards:
        addresses = UpstreamAddresses(denied)
        EdgeDecisionEndpoint(decision, upstream_headers, addresses, "{:g} {:g}".format(*timeouts)).add_to(app)
    ProxyEndpoint(decision, upstream_headers, upstream, Tunnels()).add_to(app)
    deps.changes.append(tokens.changed)
    deps.bus.subscribe(tokens.subscription())
    limiter.add_to(app, deps.supervisor)


def create_app(settings: GatewaySettings, deps: Deps | None = None) -> web.Application:
    """An application with the gateway only."""
    deps = deps or new_deps(settings, "gateway")
    app = new_application(settings, deps)
    install(app, settings, deps)
    return app
