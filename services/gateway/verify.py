"""GET /verify: forward authentication, for a reverse proxy that asks before it lets a call through."""

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from aiohttp import web

from libs.http.errors import NO_STORE, json_bytes
from libs.oauth.errors import InvalidRequest
from services.gateway.decision import AccessDecision, Admitted
from services.gateway.presented import Call
from services.gateway.refusals import Denial


def forwarded_call(request: web.Request) -> Call:
    """The call that the proxy asks about (nginx `X-Original-*`, Traefik and Envoy `X-Forwarded-*`).

    Raises InvalidRequest where the request does not say.
    """
    headers = request.headers
    uri = headers.get("X-Forwarded-Uri") or headers.get("X-Original-URI")
    if not uri:
        raise InvalidRequest("X-Forwarded-Uri or X-Original-URI must name the call to verify")
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise InvalidRequest("X-Forwarded-Uri is not a URI") from error
    method = headers.get("X-Forwarded-Method") or headers.get("X-Original-Method") or "GET"
    return Call(method.upper(), parts.path, parts.query, headers, request.cookies)


@dataclass(frozen=True, slots=True)
class VerifyEndpoint:
    """200 with whose call it is in `X-Tokenwire-*`, or the refusal that the caller is to get."""

    decision: AccessDecision

    async def verify(self, request: web.Request) -> web.Response:
        """Decide about the forwarded call."""
        outcome = await self.decision.decide(forwarded_call(request))
        return outcome.response() if isinstance(outcome, Denial) else _admitted(outcome)


def _admitted(admitted: Admitted) -> web.Response:
    headers = {**NO_STORE, "X-Tokenwire-Api-Id": admitted.api.api_id}
    if admitted.grant and admitted.access:
        headers["X-Tokenwire-Client-Id"] = admitted.grant.client_id
        headers["X-Tokenwire-Grant-Id"] = admitted.grant.grant_id
        if admitted.grant.subject:
            headers["X-Tokenwire-Subject"] = quote(admitted.grant.subject, safe="@+ ")
        if admitted.access.scope:
            headers["X-Tokenwire-Scope"] = admitted.access.scope
    return json_bytes(b'{"status":"ok"}', headers=headers)
