"""Headers on their way through: what stays on one connection, what the gateway says, what the caller may not say."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aiohttp import ClientResponse, web
from multidict import CIMultiDict

from contracts.apis import TokenLocation
from libs.addresses import TrustedProxies
from libs.http.context import current
from services.gateway.decision import Admitted
from services.gateway.destinations import strips_token
from services.gateway.identity import identity_headers

RawHeaders = Iterable[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110 §7.6.1; and `Connection` names more."""
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket"}
VIA = "1.1 tokenwire"
_PER_HOP = frozenset({"host", "expect", *HOP_BY_HOP})
_OURS = "x-tokenwire-"
_ABOUT_THE_CALLER = re.compile(r"x-forwarded-.+|x-real-ip|forwarded")
_NOT_PLAIN = re.compile(r"[^a-z0-9]")
_CONTROL = {code: " " for code in (*range(0x20), 0x7F) if code != 0x09}


def end_to_end(raw: RawHeaders) -> Iterator[tuple[str, str]]:
    """The headers that are for the other end, as they are written, each as often as it came."""
    headers = [(as_text(name), as_text(value)) for name, value in raw]
    named = {
        option.strip().lower() for name, value in headers if name.lower() == "connection" for option in value.split(",")
    }
    # RFC 9110 §7.6.1: "intermediaries MUST parse a received Connection header field before a message is forwarded
    # and, for each connection-option in this field, remove any header".
    return (pair for pair in headers if pair[0].lower() not in HOP_BY_HOP and pair[0].lower() not in named)


def as_text(raw: bytes) -> str:
    """A header or a reason: what is not UTF-8 is taken for Latin-1, a control character for a space (RFC 9110 §5.5)."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text if text.isprintable() else text.translate(_CONTROL)


def answered_headers(answer: ClientResponse) -> CIMultiDict[str]:
    """What the upstream says to the caller."""
    headers = CIMultiDict(end_to_end(answer.raw_headers))
    if "Transfer-Encoding" in answer.headers:
        # RFC 9112 §6.3: it "overrides the Content-Length".
        headers.popall("Content-Length", None)
    return headers


@dataclass(frozen=True, slots=True)
class Introduction:
    """How a call is put to its upstream."""

    proxies: TrustedProxies
    """Whose word about the caller is believed; anybody else is the caller."""

    def headers(self, request: web.Request, admitted: Admitted) -> CIMultiDict[str]:
        """The caller's own headers, without the token where the API hides it, and what the gateway knows."""
        believed = self.proxies.trusts(request.remote or "")
        removed = {*_PER_HOP, *map(str.lower, admitted.api.removed_request_headers)}
        spelled: dict[str, str] = {}
        headers = CIMultiDict(
            # One spelling a name: of two spellings aiohttp's client sends the last alone.
            (spelled.setdefault(name.lower(), name), value)
            for name, value in end_to_end(request.raw_headers)
            if name.lower() not in removed and _may_be_said(name, believed=believed)
        )
        if strips_token(admitted):
            _hide_token(headers, admitted.api.token_location)
        headers.add("Via", VIA)
        headers.update(_forwarded(request, headers))
        headers.update(admitted.injected)
        headers.update(identity_headers(admitted))
        context = current()
        headers.update({"X-Request-Id": context.request_id or "", "traceparent": context.traceparent or ""})
        return headers


def _may_be_said(name: str, *, believed: bool) -> bool:
    """Whether a header of this name may come from outside.

    To a server that makes variables of headers `X_Tokenwire_…` is the same name, so it is to us.
    """
    plain = _NOT_PLAIN.sub("-", name.lower())
    if _ABOUT_THE_CALLER.fullmatch(plain):
        return believed and plain == name.lower()
    return not plain.startswith(_OURS)


def _forwarded(request: web.Request, told: CIMultiDict[str]) -> dict[str, str]:
    """Who calls and how: what a believed proxy said, with that proxy itself at the end of the chain."""
    chain = [*told.getall("X-Forwarded-For", ()), request.remote or "unknown"]
    return {
        "X-Forwarded-For": ", ".join(chain),
        "X-Forwarded-Proto": told.get("X-Forwarded-Proto", request.scheme),
        "X-Forwarded-Host": told.get("X-Forwarded-Host", request.headers.get("Host", "")),
    }


def _hide_token(headers: CIMultiDict[str], location: TokenLocation) -> None:
    if location.header:
        headers.popall(location.header, None)
    if location.cookie and (cookies := headers.popall("Cookie", None)):
        pairs = [pair.strip() for line in cookies for pair in line.split(";")]
        kept = [pair for pair in pairs if pair and pair.partition("=")[0].rstrip() != location.cookie]
        if kept:
            headers["Cookie"] = "; ".join(kept)
