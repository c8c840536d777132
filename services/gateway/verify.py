"""/verify: forward authentication, for a reverse proxy that asks before it lets a call through."""

from dataclasses import dataclass

from aiohttp import web
from multidict import istr

from libs.http.errors import NO_STORE, json_bytes
from libs.oauth.errors import InvalidRequest
from services.gateway.decision import AccessDecision
from services.gateway.identity import identity_headers
from services.gateway.outcomes import UNLIMITED, rate_limit_headers
from services.gateway.paths import ORIGIN_FORM
from services.gateway.presented import Call
from services.gateway.refusals import Denial

_URI = istr("X-Forwarded-Uri"), istr("X-Original-URI")
_METHOD = istr("X-Forwarded-Method"), istr("X-Original-Method")


def forwarded_call(request: web.Request) -> Call:
    """The call that the proxy asks about: headers name it (nginx `X-Original-*`, Traefik `X-Forwarded-*`), or the
    question is the call itself, with `/verify` before its path (Envoy).

    Raises InvalidRequest where the request does not say, or says two things.
    """
    own_uri, own_method = _own_line(request)
    uri = _told(request, own_uri, *_URI)
    if uri is None:
        raise InvalidRequest("X-Forwarded-Uri or X-Original-URI must name the call to verify")
    if not ORIGIN_FORM.fullmatch(uri):
        raise InvalidRequest("the forwarded URI is not a path with a query (RFC 9112 §3.2.1)")
    path, _, query = uri.partition("?")
    method = _told(request, own_method, *_METHOD) or "GET"
    return Call(method.upper(), path, query, request.headers, lambda: request.cookies)


def _own_line(request: web.Request) -> tuple[str, str] | tuple[None, None]:
    """URI and method of the call where the question is the call itself, with `/verify` before its path; as they came.

    Raises InvalidRequest where `/verify` is spelled in another way.
    """
    if "uri" not in request.match_info:
        return None, None
    if not request.raw_path.startswith("/verify/"):
        raise InvalidRequest("the path of the question does not begin with /verify/")
    return request.raw_path.removeprefix("/verify"), request.method


def _told(request: web.Request, own: str | None, name: str, other: str) -> str | None:
    """What the question's own line says, or what the proxy says under either of these names.

    Raises InvalidRequest where two of them differ: a proxy that sets only one of them lets the others through as the
    caller sent them.
    """
    headers = request.headers
    values = {own or "", *headers.getall(name, ()), *headers.getall(other, ())}
    values.discard("")
    if len(values) > 1:
        raise InvalidRequest(f"{name} and {other} differ" + (", or differ from the question's own line" if own else ""))
    return values.pop() if values else None


@dataclass(frozen=True, slots=True)
class VerifyEndpoint:
    """200 with whose call it is in `X-Tokenwire-*`, or the refusal that the caller is to get."""

    decision: AccessDecision

    async def verify(self, request: web.Request) -> web.Response:
        """Decide about the forwarded call."""
        outcome = await self.decision.decide(forwarded_call(request))
        if isinstance(outcome, Denial):
            return _with_body_in_header(outcome.response())
        response = json_bytes(b'{"status":"ok"}', headers=NO_STORE)
        headers = response.headers
        headers.update(identity_headers(outcome))
        headers.update(outcome.injected)
        if outcome.figures is not UNLIMITED:
            headers.update(rate_limit_headers(outcome.figures))
        return response


def _with_body_in_header(refusal: web.Response) -> web.Response:
    """The refusal with its body also in a header, for a proxy that passes on no more of a refusal (nginx)."""
    refusal.headers["X-Tokenwire-Refusal"] = (refusal.text or "").rstrip()
    return refusal
