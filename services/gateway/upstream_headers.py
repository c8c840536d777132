"""The headers of the request to the upstream and of the response to the caller."""

from dataclasses import dataclass
from functools import lru_cache

from aiohttp import ClientResponse, web
from multidict import CIMultiDict, istr

from contracts.apis import Api, TokenLocation
from libs.client_address import TrustedProxies
from libs.http.context import REQUEST_ID_HEADER, current
from libs.tracing.spans import TRACEPARENT
from services.gateway.calls import Call
from services.gateway.decision import Admitted
from services.gateway.header_fields import HOP_BY_HOP, METHOD_OVERRIDES, OUR_PREFIX, Sender, end_to_end, folded, reading
from services.gateway.identity_headers import identity_headers
from services.gateway.upstream_urls import strips_token

UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket"}
VIA = "1.1 tokenwire"
_VIA, _FORWARDED_FOR, _FORWARDED_PROTO, _FORWARDED_HOST = map(
    istr, ("Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")
)
_FROM_THE_EDGE = frozenset({"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip"})
"""What `edge/forwarded.conf` and `edge/asked.conf` say about the caller."""
_PER_HOP = frozenset({"host", "expect", *HOP_BY_HOP})


def response_headers(upstream_response: ClientResponse) -> CIMultiDict[str]:
    """The upstream's end-to-end headers for the caller, without any that look like the gateway's own."""
    fields = end_to_end(upstream_response.raw_headers)
    headers = CIMultiDict(field for field in fields if not field[0].lower().startswith(OUR_PREFIX))
    if "Transfer-Encoding" in upstream_response.headers:
        # RFC 9112 §6.3: Transfer-Encoding "overrides the Content-Length". With both, the caller could be smuggled a
        # second response.
        headers.popall("Content-Length", None)
    return headers


def closed_headers(api: Api) -> frozenset[str]:
    """Folded names of headers that no caller may set: those for one hop, and those that the API definition sets."""
    if not api.request_headers and not api.removed_request_headers:
        return _PER_HOP
    declared = _folded_names(tuple(header.name for header in api.request_headers), api.removed_request_headers)
    return declared | _PER_HOP


@lru_cache(maxsize=1024)
def _folded_names(*names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(folded(name) for some in names for name in some)


@dataclass(frozen=True, slots=True)
class UpstreamHeaders:
    """Builds the headers of the request to the upstream."""

    proxies: TrustedProxies
    """Proxies whose `X-Forwarded-*` headers are trusted. Any other peer is considered to be the caller itself."""
    behind_the_edge: bool = False
    """Whether the trusted proxy is nginx with the files in `edge/`: only what they set is from the proxy, and other
    headers about the caller are the caller's own."""

    def build(self, request: web.Request, call: Call, admitted: Admitted) -> CIMultiDict[str]:
        """The caller's headers as far as it may send them, then those of the definition and of the gateway.

        The order matters: later ones replace earlier ones, so a caller can never set an identity header. The token is
        removed if the API asks for that.
        """
        api = admitted.api
        trusted = self.proxies.trusts(request.remote or "")
        closed = closed_headers(api)
        hides_token = strips_token(admitted)
        if hides_token and api.token_location.header:
            closed |= {folded(api.token_location.header)}
        headers: CIMultiDict[str] = CIMultiDict()
        spelled: dict[str, str] = {}
        for name, value in call.fields:
            plain, sender = reading(name)
            if plain not in closed and _may_set(
                sender,
                name,
                plain,
                trusted=trusted and (not self.behind_the_edge or plain in _FROM_THE_EDGE),
                overridable=api.method_override,
            ):
                # The first spelling for all headers of one name: aiohttp's client would drop all but the last one.
                headers.add(spelled.setdefault(name.lower(), name), value)
        if hides_token:
            _hide_token_cookie(headers, api.token_location)
        headers.add(_VIA, VIA)
        headers.update(_forwarded(request, call, headers))
        if admitted.injected:
            headers.update((name, value) for name, value in admitted.injected.items() if value)
        headers.update({name: value for name, value in identity_headers(admitted).items() if value})
        context = current()
        headers[REQUEST_ID_HEADER] = context.request_id or ""
        if (trace := context.received_trace()) is not None:
            headers[TRACEPARENT] = trace
        else:
            # None is made up: an upstream would not record a trace whose context says that nobody does. A malformed
            # one is not passed on, nor is its companion (W3C Trace Context §4.3).
            headers.popall(TRACEPARENT, None)
            headers.popall("tracestate", None)
        return headers


def _may_set(sender: Sender, name: str, plain: str, *, trusted: bool, overridable: bool) -> bool:
    """Whether the caller, or a trusted proxy, may set a header that only `sender` may set. `plain`: its folded name."""
    match sender:
        case Sender.CALLER:
            return True
        case Sender.PROXY:
            return trusted
        case Sender.DEFINITION:
            return overridable and plain in METHOD_OVERRIDES and plain == name.lower()
        case Sender.GATEWAY:
            return False


def _forwarded(request: web.Request, call: Call, headers: CIMultiDict[str]) -> dict[str, str]:
    """The `X-Forwarded-*` headers: those of a trusted proxy, with the peer's address appended to the chain."""
    chain = [*headers.getall(_FORWARDED_FOR, ()), request.remote or "unknown"]
    return {
        _FORWARDED_FOR: ", ".join(chain),
        _FORWARDED_PROTO: headers.get(_FORWARDED_PROTO, request.scheme),
        _FORWARDED_HOST: headers.get(_FORWARDED_HOST, call.host),
    }


def _hide_token_cookie(headers: CIMultiDict[str], location: TokenLocation) -> None:
    if location.cookie and (cookies := headers.popall("Cookie", None)):
        pairs = [pair.strip() for line in cookies for pair in line.split(";")]
        kept = [pair for pair in pairs if pair and pair.partition("=")[0].rstrip() != location.cookie]
        if kept:
            headers["Cookie"] = "; ".join(kept)
