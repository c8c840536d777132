"""GET /verify: forward authentication, for a reverse proxy that asks before it lets a call through."""

import re
from dataclasses import dataclass

from aiohttp import web

from libs.http.errors import NO_STORE, json_bytes
from libs.oauth.errors import InvalidRequest
from services.gateway.decision import AccessDecision
from services.gateway.identity import identity_headers
from services.gateway.presented import Call
from services.gateway.refusals import Denial


def forwarded_call(request: web.Request) -> Call:
    """The call that the proxy asks about (nginx `X-Original-*`, Traefik and Envoy `X-Forwarded-*`).

    Raises InvalidRequest where the request does not say.
    """
    uri = _told(request, "X-Forwarded-Uri", "X-Original-URI")
    if uri is None:
        raise InvalidRequest("X-Forwarded-Uri or X-Original-URI must name the call to verify")
    if not _ORIGIN_FORM.fullmatch(uri):
        raise InvalidRequest("the forwarded URI is not a path with a query (RFC 9112 §3.2.1)")
    path, _, query = uri.partition("?")
    method = _told(request, "X-Forwarded-Method", "X-Original-Method") or "GET"
    return Call(method.upper(), path, query, request.headers, request.cookies)


def _told(request: web.Request, *names: str) -> str | None:
    """What the proxy says under any of these names. Raises InvalidRequest where two of them differ.

    A proxy that sets only one of them lets the other through as the caller sent it.
    """
    values = {value for name in names for value in request.headers.getall(name, ()) if value}
    if len(values) > 1:
        raise InvalidRequest(f"{' and '.join(names)} differ")
    return next(iter(values), None)


_ORIGIN_FORM = re.compile(r"/[\x21\x22\x24-\x7e]*")


@dataclass(frozen=True, slots=True)
class VerifyEndpoint:
    """200 with whose call it is in `X-Tokenwire-*`, or the refusal that the caller is to get."""

    decision: AccessDecision

    async def verify(self, request: web.Request) -> web.Response:
        """Decide about the forwarded call."""
        outcome = await self.decision.decide(forwarded_call(request))
        if isinstance(outcome, Denial):
            return outcome.response()
        return json_bytes(b'{"status":"ok"}', headers={**NO_STORE, **identity_headers(outcome), **outcome.injected})
