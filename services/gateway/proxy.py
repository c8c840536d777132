"""The reverse proxy: a call to a protected API that may pass goes to its upstream, and the answer comes back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from aiohttp import ClientResponse, hdrs, web
from multidict import CIMultiDict

from contracts.apis import RESERVED_PATHS
from contracts.operations import OPERATIONS
from libs.http.context import current
from libs.http.cors import answer_headers, preflight_headers
from libs.oauth.errors import InvalidRequest
from services.gateway.decision import AccessDecision, Admitted
from services.gateway.destinations import destination, place
from services.gateway.headers import UPGRADE, VIA, Introduction, answered_headers
from services.gateway.outcomes import UNLIMITED, rate_limit_headers
from services.gateway.paths import ORIGIN_FORM, readings
from services.gateway.presence import given_up_without_caller
from services.gateway.presented import Call
from services.gateway.refusals import LEADS_OUT, Denial
from services.gateway.relay import relay
from services.gateway.tunnels import Tunnels
from services.gateway.upstream import LOOP, NOT_HTTP, Failure, Upstream

TEMPLATE = "/{path}"
PASSES = 3
"""How often a call may pass through a Tokenwire before it is taken for one that goes in a circle."""
_UNDER_AN_API = sorted(
    {operation.path.removeprefix("/{place}") for operation in OPERATIONS if operation.path.startswith("/{place}/")}
)
_NOT_RESERVED = f"(?!(?:{'|'.join(map(re.escape, sorted(RESERVED_PATHS)))})(?:/|\\Z))"
_NOT_OURS = f"(?!.*(?:{'|'.join(map(re.escape, _UNDER_AN_API))})/?\\Z)"
ROUTE = f"/{{path:(?s:{_NOT_RESERVED}{_NOT_OURS}.*)}}"
"""Every path but those that Tokenwire itself answers, in whichever process and whatever the method."""

log = structlog.get_logger("proxy")


def made_call(request: web.Request) -> Call:
    """The call as it came. Raises InvalidRequest where its target is neither in origin-form nor in absolute-form."""
    target = request.raw_path if request.raw_path.startswith("/") else request.rel_url.raw_path_qs
    if not ORIGIN_FORM.fullmatch(target):
        raise InvalidRequest("the target is not a path with a query (RFC 9112 §3.2.1)")
    path, _, query = target.partition("?")
    return Call(request.method, path, query, request.headers, lambda: request.cookies)


async def once_admitted(_: web.Request) -> None:
    """`Expect: 100-continue` is answered when there is an upstream that takes the body (RFC 9110 §10.1.1)."""


@dataclass(frozen=True, slots=True)
class ProxyEndpoint:
    """The way through the gateway."""

    decision: AccessDecision
    introduction: Introduction
    upstream: Upstream
    tunnels: Tunnels

    def add_to(self, app: web.Application) -> None:
        """Answer every call that Tokenwire itself does not."""
        app.router.add_route(hdrs.METH_ANY, ROUTE, self.forward, expect_handler=once_admitted)
        app.cleanup_ctx.append(self.upstream.run)
        app.on_shutdown.append(self.tunnels.stop)

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """The upstream's answer to a call that may pass; else the refusal, or what is wrong with the upstream."""
        current().shown_path = TEMPLATE
        call = made_call(request)
        preflight = await self._cross_origin(request, call) if "Origin" in request.headers else None
        if isinstance(preflight, web.Response):
            return _without_body(request, preflight)
        outcome = preflight or await self.decision.decide(call)
        if isinstance(outcome, Denial):
            return _without_body(request, outcome.response())
        current().shown_path = place(outcome.api)
        url = destination(call, outcome)
        if url is None:
            return _without_body(request, LEADS_OUT.response())
        headers = self.introduction.headers(request, outcome)
        if upgrades := wants_websocket(request):
            headers.update(UPGRADE)
        with given_up_without_caller(request):
            answer = LOOP if _comes_again(headers) else await self.upstream.ask(request, url, headers)
            if isinstance(answer, Failure):
                return _failed(request, outcome, answer)
            async with answer:
                return await self._answered(request, outcome, answer, upgrades=upgrades)

    async def _cross_origin(self, request: web.Request, call: Call) -> web.Response | Admitted | None:
        """The answer to a browser's preflight, or whose upstream is to give it; None for what is none.

        A preflight has no credentials, and asks for nothing but what the definition says.
        """
        api = await self.decision.addressed(readings(call.path))
        if isinstance(api, Denial) or api.cors is None:
            return None
        if request.method == hdrs.METH_OPTIONS and "Access-Control-Request-Method" in request.headers:
            if api.cors.options_passthrough:
                return Admitted(api)
            return web.Response(status=HTTPStatus.NO_CONTENT, headers=preflight_headers(api.cors, request.headers))
        current().answer_headers = answer_headers(api.cors, request.headers["Origin"], request.method)
        return None

    async def _answered(
        self, request: web.Request, admitted: Admitted, answer: ClientResponse, *, upgrades: bool
    ) -> web.StreamResponse:
        headers = answered_headers(answer)
        if admitted.figures is not UNLIMITED:
            headers.update(rate_limit_headers(admitted.figures))
        if (ours := current().answer_headers) is not None:
            _allow_origin(headers, ours)
        if answer.status != HTTPStatus.SWITCHING_PROTOCOLS:
            return await relay(request, answer, headers)
        upstream = answer.connection.protocol if answer.connection else None
        if not upgrades or upstream is None:
            return _failed(request, admitted, NOT_HTTP)
        return await self.tunnels.join(request, answer, upstream, headers)


def _allow_origin(headers: CIMultiDict[str], ours: Mapping[str, str]) -> None:
    """The definition says what scripts may do, in place of the upstream; what the upstream varies by stays."""
    for name in [name for name in headers if name.lower().startswith("access-control-")]:
        headers.popall(name, None)
    varied = headers.popall("Vary", [])
    headers.update(ours)
    for value in varied:
        headers.add("Vary", value)


def wants_websocket(request: web.Request) -> bool:
    """Whether the call asks for a WebSocket (RFC 6455 §4.1). No other protocol is switched to."""
    options = ",".join(request.headers.getall("Connection", ())).lower().split(",")
    return (
        request.method == "GET"
        and not request.body_exists
        and request.headers.get("Upgrade", "").lower() == "websocket"
        and "upgrade" in map(str.strip, options)
    )


def _comes_again(headers: CIMultiDict[str]) -> bool:
    return ",".join(headers.getall("Via")).count(VIA) > PASSES


def _failed(request: web.Request, admitted: Admitted, failure: Failure) -> web.Response:
    log.warning("call_not_answered", reason=failure.reason, api_id=admitted.api.api_id, request_id=current().request_id)
    return _without_body(request, failure.response())


def _without_body(request: web.Request, response: web.Response) -> web.Response:
    """The response to a call whose body nobody has read: what is left of it must not be read as the next call."""
    if not request.content.is_eof():
        response.force_close()
    return response
