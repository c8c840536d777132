"""The edge's question: may nginx forward this call to the upstream itself, and how?

The edge asks before it forwards a call to a protected API (`auth_request`). If nginx can do everything that the
built-in proxy would do, the call is admitted and counted here, and nginx carries the bytes. Otherwise nothing is
counted or recorded, and the edge sends the call to the built-in proxy, which decides anew (ADR 47).
"""

from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import hdrs, web
from multidict import CIMultiDict, MultiMapping, istr

from contracts.apis import Api
from libs.http.responses import CompleteResponse
from libs.http.routing import check_path
from services.gateway.calls import Call
from services.gateway.decision import AccessDecision, Passed
from services.gateway.edge_forwarding import instructions
from services.gateway.paths import ORIGIN_FORM
from services.gateway.proxy import is_loop
from services.gateway.rate_limit_result import UNLIMITED, rate_limit_headers
from services.gateway.refusals import Denial
from services.gateway.upstream_addresses import UpstreamAddresses
from services.gateway.upstream_headers import UpstreamHeaders
from services.gateway.upstream_urls import upstream_url

PATH = "/.edge/decision"
_URI, _METHOD, _CONNECTION, _UPGRADE, _BODY, _TIMEOUTS = map(
    istr,
    ("X-Original-URI", "X-Original-Method", "X-Edge-Connection", "X-Edge-Upgrade", "X-Edge-Body", "X-Edge-Timeouts"),
)
_QUESTION = frozenset(
    name.lower().encode() for name in (_URI, _METHOD, _CONNECTION, _UPGRADE, _BODY, _TIMEOUTS, "Connection", "Host")
)
"""Headers about the call that are not the call's own."""
_HARMLESS = frozenset({"", "close", "keep-alive", "te", "upgrade"})
"""Values of `Connection` that name no header which nginx would forward."""
_EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class _Question:
    """The call that the edge asks about."""

    call: Call
    has_body: bool
    wants_websocket: bool

    @property
    def lasts(self) -> bool:
        """Whether the response may pause for longer than an upstream may take to begin it."""
        return self.wants_websocket or _EVENTS in self.call.headers.get(hdrs.ACCEPT, "")


@dataclass(frozen=True, slots=True)
class EdgeDecisionEndpoint:
    """200 if the edge forwards the call; 401 if it does so without a limit on silence; 403 if it must not."""

    decision: AccessDecision
    upstream_headers: UpstreamHeaders
    addresses: UpstreamAddresses
    timeouts: str
    """Seconds to connect to an upstream and to wait for it. The edge must have the same ones in its files."""

    def add_to(self, app: web.Application) -> None:
        """Register the route. No caller reaches it through the edge, which has a location of its own for this path."""
        app.router.add_get(PATH, self.decide, allow_head=False)
        app.cleanup_ctx.append(self.addresses.run)

    async def decide(self, request: web.Request) -> web.Response:
        """Admit the call if the edge can forward it."""
        question = self._question(request)
        headers = None if question is None else await self._forwarded(request, question)
        if question is None or headers is None:
            return CompleteResponse(body=b"", status=HTTPStatus.FORBIDDEN)
        if question.wants_websocket:
            headers["X-Edge-Upgrade"] = "websocket"
        status = HTTPStatus.UNAUTHORIZED if question.lasts else HTTPStatus.OK
        return CompleteResponse(body=b"", status=status, headers=headers)

    def _question(self, request: web.Request) -> _Question | None:
        """None if the call is not read exactly as the built-in proxy would read it."""
        headers = request.headers
        # An empty header is not sent by nginx, a caller's is replaced, and a repeated one is not the edge's.
        named = [headers.getall(name, [""]) for name in (_URI, _METHOD, _CONNECTION, _UPGRADE, _BODY, _TIMEOUTS)]
        hosts = headers.getall(hdrs.HOST, [])
        if any(len(values) != 1 for values in (*named, hosts)):
            return None
        (uri,), (method,), (connection,), (upgrade,), (body,), (timeouts,) = named
        if timeouts != self.timeouts or not ORIGIN_FORM.fullmatch(uri) or not method:
            return None
        options = {option.strip().lower() for option in connection.split(",")}
        if not options <= _HARMLESS:
            return None
        path, _, query = uri.partition("?")
        check_path(path)
        raw = tuple(field for field in request.raw_headers if field[0].lower() not in _QUESTION)
        length, _, coding = body.partition("|")
        described: MultiMapping[str] = headers
        if length or coding:
            described = framed = CIMultiDict(headers)
            framed[hdrs.TRANSFER_ENCODING if coding else hdrs.CONTENT_LENGTH] = coding or length
        has_body = bool(coding) or length not in {"", "0"}
        wants_websocket = method == "GET" and not has_body and "upgrade" in options and upgrade.lower() == "websocket"
        return _Question(Call(method, path, query, described, raw, hosts[0]), has_body, wants_websocket)

    async def _forwarded(self, request: web.Request, question: _Question) -> dict[str, str] | None:
        """How to forward the call, which is then admitted and counted; None if it cannot be forwarded."""
        call = question.call
        api = await self.decision.requested_api(call)
        if isinstance(api, Denial) or not _is_simple(api, call):
            return None
        passed = await self.decision.check(call, api)
        if isinstance(passed, Denial) or passed.has_rates:
            return None
        told = await self._instructions(request, question, passed)
        if told is None:
            return None
        admitted = await self.decision.admit(call, passed)
        if admitted is None:
            return None
        if admitted.quota is not UNLIMITED:
            told |= rate_limit_headers(admitted.quota)
        return told

    async def _instructions(self, request: web.Request, question: _Question, passed: Passed) -> dict[str, str] | None:
        url = upstream_url(question.call, passed.admitted)
        if url is None:
            return None
        wanted = self.upstream_headers.build(request, question.call, passed.admitted)
        told = None if is_loop(wanted) else instructions(question.call, url, wanted)
        if told is None:
            return None
        addresses = await self.addresses.addresses_of(url)
        # With a body nginx cannot try another address, because a part of the body may be lost by then.
        if not addresses or (question.has_body and len(addresses) > 1):
            return None
        told["X-Edge-Address"] = addresses[0]
        return told


def _is_simple(api: Api, call: Call) -> bool:
    """Whether nginx may be able to forward the call: without TLS to the upstream, and without CORS by the definition.

    A call that it cannot forward costs two decisions, so what the definition alone shows is looked at before the token.
    """
    if not api.upstream_url or api.upstream_url[:6].lower() == "https:":
        return False
    return api.cors is None or hdrs.ORIGIN not in call.headers
