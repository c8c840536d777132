"""The reverse proxy: forwards admitted calls to the upstream of their API and relays the response."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDict

from contracts.apis import MANAGEMENT_PATHS, OWN_PATHS_OF_AN_API, RESERVED_PATHS
from libs.http.context import current
from services.gateway.calls import received_call
from services.gateway.decision import AccessDecision, Admitted
from services.gateway.disconnect import cancel_on_disconnect
from services.gateway.preflights import preflight_outcome
from services.gateway.rate_limit_result import UNLIMITED, rate_limit_headers
from services.gateway.refusals import LEADS_OUT, Denial
from services.gateway.relay import UpstreamResponse, drop_default_content_type, relay
from services.gateway.tunnels import Tunnels
from services.gateway.upstream import LOOP, NO_UPSTREAM, NOT_HTTP, Failure, Upstream
from services.gateway.upstream_headers import UPGRADE, VIA, UpstreamHeaders, response_headers
from services.gateway.upstream_urls import log_path, upstream_url

TEMPLATE = "/{path}"
PASSES = 3
"""How many `Via` entries of Tokenwire's a call may carry; with more it is considered a loop and refused with 508."""
_RESERVED = (*map(re.escape, sorted(RESERVED_PATHS - {"api"})), f"api/(?:{'|'.join(sorted(MANAGEMENT_PATHS))})")
_NOT_RESERVED = f"(?!(?:{'|'.join(_RESERVED)})(?:/|\\Z)|api/?\\Z)"
_NOT_OURS = f"(?!.*(?:{'|'.join(map(re.escape, sorted(OWN_PATHS_OF_AN_API)))})/?\\Z)"
ROUTE = f"/{{path:(?s:{_NOT_RESERVED}{_NOT_OURS}.*)}}"
"""Every path except those of Tokenwire's own endpoints, in whichever service, for any method.

They are not forwarded even by a gateway that runs alone: a path must mean the same in every deployment.
"""

log = structlog.get_logger("proxy")


async def defer_continue(_: web.Request) -> None:
    """Do not respond to `Expect: 100-continue` until there is an upstream connection (RFC 9110 §10.1.1)."""


@dataclass(frozen=True, slots=True)
class ProxyEndpoint:
    """Forwards the calls that the access decision admits."""

    decision: AccessDecision
    upstream_headers: UpstreamHeaders
    upstream: Upstream
    tunnels: Tunnels

    def add_to(self, app: web.Application) -> None:
        """Register the route for every path that no other endpoint of Tokenwire has."""
        app.router.add_route(hdrs.METH_ANY, ROUTE, self.forward, expect_handler=defer_continue)
        app.on_response_prepare.append(drop_default_content_type)
        app.cleanup_ctx.append(self.upstream.run)
        app.on_shutdown.append(self.tunnels.stop)

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """The upstream's response if the call is admitted; otherwise the refusal, or an error about the upstream."""
        # The access log must not show the path: it may carry a token or personal data of a protected API.
        current().shown_path = TEMPLATE
        # From here on only `call` is used for the decision and the forwarded request, so that the two cannot differ.
        call = received_call(request)
        # Only a call from another origin can be a preflight, so only then is the API looked up before the decision.
        api = await self.decision.requested_api(call) if hdrs.ORIGIN in request.headers else None
        preflight = preflight_outcome(call, api) if api else None
        if isinstance(preflight, web.Response):
            return _without_body(request, preflight)
        if preflight is not None:
            # Passed on to the upstream. A browser sends a preflight without credentials, so no token is required.
            outcome: Admitted | Denial = await self.decision.admit_without_token(call, preflight)
        else:
            outcome = await self.decision.decide(call, api)
        if isinstance(outcome, Denial):
            return _without_body(request, outcome.response())
        current().shown_path = log_path(outcome.api)
        if not outcome.api.upstream_url:
            return _failed(request, outcome, NO_UPSTREAM)
        url = upstream_url(call, outcome)
        if url is None:
            return _without_body(request, LEADS_OUT.response())
        headers = self.upstream_headers.build(request, call, outcome)
        if upgrades := wants_websocket(request):
            headers.update(UPGRADE)
        with cancel_on_disconnect(request):
            upstream_response = LOOP if is_loop(headers) else await self.upstream.send(request, url, headers)
            if isinstance(upstream_response, Failure):
                return _failed(request, outcome, upstream_response)
            async with upstream_response:
                return await self._respond(request, outcome, upstream_response, upgrades=upgrades)

    async def _respond(
        self, request: web.Request, admitted: Admitted, upstream_response: UpstreamResponse, *, upgrades: bool
    ) -> web.StreamResponse:
        headers = response_headers(upstream_response)
        if admitted.quota is not UNLIMITED:
            headers.update(rate_limit_headers(admitted.quota))
        if (cors_headers := current().cors_headers) is not None:
            _replace_cors_headers(headers, cors_headers)
        if upstream_response.status != HTTPStatus.SWITCHING_PROTOCOLS:
            return await relay(request, upstream_response, headers)
        upstream = upstream_response.connection.protocol if upstream_response.connection else None
        if not upgrades or upstream is None:
            return _failed(request, admitted, NOT_HTTP)
        return await self.tunnels.join(request, upstream_response, upstream, headers)


def _replace_cors_headers(headers: CIMultiDict[str], cors_headers: Mapping[str, str]) -> None:
    """Replace the upstream's CORS headers by those of the API definition; the upstream's `Vary` values stay."""
    for name in [name for name in headers if name.lower().startswith("access-control-")]:
        headers.popall(name, None)
    varied = headers.popall("Vary", [])
    headers.update(cors_headers)
    for value in varied:
        headers.add("Vary", value)


def wants_websocket(request: web.Request) -> bool:
    """Whether the call is a WebSocket handshake (RFC 6455 §4.1); the gateway switches to no other protocol."""
    options = ",".join(request.headers.getall("Connection", ())).lower().split(",")
    return (
        request.method == "GET"
        and not request.body_exists
        and request.headers.get("Upgrade", "").lower() == "websocket"
        and "upgrade" in map(str.strip, options)
    )


def is_loop(headers: CIMultiDict[str]) -> bool:
    """Whether a request with these headers has passed through Tokenwire too often."""
    return ",".join(headers.getall("Via")).count(VIA) > PASSES


def _failed(request: web.Request, admitted: Admitted, failure: Failure) -> web.Response:
    log.warning("upstream_failed", reason=failure.reason, api_id=admitted.api.api_id, request_id=current().request_id)
    return _without_body(request, failure.response())


def _without_body(request: web.Request, response: web.Response) -> web.Response:
    """Close the connection after this response if the request body was not read.

    Otherwise the rest of the body would be read as the next request on the connection (request smuggling).
    """
    if not request.content.is_eof():
        response.force_close()
    return response
