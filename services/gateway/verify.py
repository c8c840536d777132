"""/verify: forward authentication, for a reverse proxy that asks before it forwards a call."""

import re
from dataclasses import dataclass

from aiohttp import web
from aiohttp.hdrs import METH_ALL, ORIGIN
from multidict import istr

from contracts.forward_auth import CallToVerify
from contracts.health import Status
from contracts.operations import ANY_METHOD, Caller, Operation, Parameters, ResponseSpec
from libs.http.operations import operation
from libs.http.responses import NO_STORE, json_bytes
from libs.http.routing import check_path
from libs.oauth.errors import InvalidRequest
from services.gateway.calls import Call
from services.gateway.decision import AccessDecision, Admitted
from services.gateway.header_fields import HOP_BY_HOP
from services.gateway.identity_headers import identity_headers
from services.gateway.paths import ORIGIN_FORM
from services.gateway.preflights import preflight_outcome
from services.gateway.rate_limit_result import UNLIMITED, rate_limit_headers
from services.gateway.refusals import REFUSAL_RESPONSES, SIZE_RESPONSES, Denial

_URI = istr("X-Forwarded-Uri"), istr("X-Original-URI")
_METHOD_NAMES = istr("X-Forwarded-Method"), istr("X-Original-Method")

_METHOD = re.compile(r"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]*")
_NOT_IN_RESPONSE = frozenset({"content-length", *HOP_BY_HOP})
"""Injected headers that are left out of the response to the proxy, because they would change how it is framed."""

_RESPONSES = {
    200: ResponseSpec(
        description="The call may pass.",
        models=(Status,),
        headers={
            "X-Tokenwire-Api-Id": "The id of the API.",
            "X-Tokenwire-Client-Id": "The client app. Empty, like the headers below, if the API needs no token.",
            "X-Tokenwire-Grant-Id": "The grant.",
            "X-Tokenwire-Subject": "The user who authorized the client, percent-encoded; empty if there is none.",
            "X-Tokenwire-Scope": "The granted scope; empty if it is not restricted.",
            "X-RateLimit-Limit": "The quota. Absent, like the next two, if the grant has no quota.",
            "X-RateLimit-Remaining": "What is left of the quota.",
            "X-RateLimit-Reset": "When the quota is renewed (Unix seconds).",
        },
    ),
    204: ResponseSpec(
        description="A browser's CORS preflight, handled as the API's definition says.",
        media_type=None,
        headers={
            "Access-Control-Allow-Origin": "The allowed origin. Absent, like all below but `Vary`, if it is not "
            "allowed.",
            "Access-Control-Allow-Methods": "Allowed methods. The proxy must pass on this response with its status.",
            "Access-Control-Allow-Headers": "Allowed request headers.",
            "Access-Control-Allow-Credentials": "`true` if the definition allows credentials.",
            "Access-Control-Max-Age": "Seconds for which the browser may cache this response, if the definition "
            "says so.",
            "Vary": "The request headers on which this response depends.",
        },
    ),
    **REFUSAL_RESPONSES,
    **SIZE_RESPONSES,
}


def forwarded_call(request: web.Request) -> Call:
    """The call that the proxy asks about.

    Headers describe it (nginx: `X-Original-*`, Traefik: `X-Forwarded-*`), or the request is the call itself with
    `/verify` before its path (Envoy). Raises InvalidRequest if the request names no call, or contradicts itself;
    PathTooLong or TooManySegments.
    """
    own_uri, own_method = _own_line(request)
    uri = _named(request, own_uri, *_URI)
    if uri is None:
        raise InvalidRequest("X-Forwarded-Uri or X-Original-URI must name the call to verify")
    if not ORIGIN_FORM.fullmatch(uri):
        raise InvalidRequest("the forwarded URI is not a path with a query (RFC 9112 section 3.2.1)")
    path, _, query = uri.partition("?")
    check_path(path)
    method = _named(request, own_method, *_METHOD_NAMES) or "GET"
    if method not in METH_ALL and not _METHOD.fullmatch(method):
        raise InvalidRequest("the forwarded method is not the name of a method in capitals (RFC 9110 section 9.1)")
    return Call(
        method,
        path,
        query,
        request.headers,
        request.raw_headers,
        is_forwarded_by_proxy=True,
    )


def _own_line(request: web.Request) -> tuple[str, str] | tuple[None, None]:
    """URI and method of the request itself without `/verify`, unchanged; None if the path is just `/verify`.

    Raises InvalidRequest if `/verify` is spelled differently, such as percent-encoded.
    """
    if "uri" not in request.match_info:
        return None, None
    if not request.raw_path.startswith("/verify/"):
        raise InvalidRequest("the path of the request does not begin with /verify/")
    return request.raw_path.removeprefix("/verify"), request.method


def _named(request: web.Request, own: str | None, name: str, other: str) -> str | None:
    """The value from the request line, or from either of these headers.

    Raises InvalidRequest if they differ: a proxy that sets only one of the headers forwards the other as the caller
    sent it, and the caller could choose which call is checked.
    """
    headers = request.headers
    named = [*headers.getall(name, ()), *headers.getall(other, ())]
    if own is None and len(named) == 1:
        return named[0] or None
    values = {own or "", *named}
    values.discard("")
    if len(values) > 1:
        raise InvalidRequest(f"{name} and {other} differ" + (", or differ from the request line" if own else ""))
    return values.pop() if values else None


@dataclass(frozen=True, slots=True)
class VerifyEndpoint:
    """200 with the caller's identity in `X-Tokenwire-*` headers, or the refusal to show to the caller."""

    decision: AccessDecision

    @operation(
        Operation(
            method="GET",
            path="/verify",
            name="verify",
            tag="Token check",
            summary="Check a call (forward authentication)",
            description="A reverse proxy asks whether a call to a protected API may pass. The headers below name "
            "the call; the token is where the API's definition says, in the call's own headers or URI. HEAD works "
            "like GET.",
            caller=Caller.TOKEN_HOLDER,
            parameters=Parameters(model=CallToVerify, location="header"),
            responses=_RESPONSES,
            supports_head=True,
        )
    )
    @operation(
        Operation(
            method=ANY_METHOD,
            path="/verify/{uri}",
            name="verifyItself",
            tag="Token check",
            summary="Check a call by its own path (Envoy)",
            description="The same, if the request is the call itself with `/verify` before its path. Headers that "
            "name a "
            "different call are refused.",
            caller=Caller.TOKEN_HOLDER,
            responses=_RESPONSES,
            patterns={"uri": "(?s:.+)"},
        )
    )
    async def verify(self, request: web.Request) -> web.Response:
        """Make the access decision for the call."""
        call = forwarded_call(request)
        outcome = await (self._decided(call) if ORIGIN in call.headers else self.decision.decide(call))
        if isinstance(outcome, Denial):
            return _with_body_in_header(outcome.response())
        if not isinstance(outcome, Admitted):
            return outcome
        response = json_bytes(b'{"status":"ok"}', headers=NO_STORE)
        # Headers with empty values are included, so that the proxy overwrites what the caller sent under these names.
        for name, value in outcome.injected.items():
            if name.lower() not in _NOT_IN_RESPONSE:
                response.headers[name] = value
        headers = identity_headers(outcome)
        if outcome.quota is not UNLIMITED:
            headers.update(rate_limit_headers(outcome.quota))
        response.headers.update(headers)
        return response

    async def _decided(self, call: Call) -> Admitted | Denial | web.Response:
        """The decision for a call from another origin: a preflight needs no token, or gets its response here."""
        api = await self.decision.requested_api(call)
        preflight = preflight_outcome(call, api)
        if isinstance(preflight, Admitted):
            return await self.decision.admit_without_token(call, preflight)
        return preflight or await self.decision.decide(call, api)


def _with_body_in_header(refusal: web.Response) -> web.Response:
    """Repeat the body in a header, for a proxy that cannot forward the body of a refusal (nginx)."""
    refusal.headers["X-Tokenwire-Refusal"] = (refusal.text or "").rstrip()
    return refusal
