"""How the gateway reads a call: client address, path, token and version."""

import ipaddress
from contextlib import suppress
from urllib.parse import urlsplit

from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from contracts.apis import Api, TokenLocation, Versioning
from libs.client_address import TrustedProxies, site
from libs.oauth.login_limits import Limit
from libs.tyk.oas import read_oas
from services.gateway.bearer_token import bearer_token
from services.gateway.calls import Call
from services.gateway.decision import Admitted
from services.gateway.header_fields import as_text, end_to_end
from services.gateway.paths import ORIGIN_FORM, below, leads_out, readings
from services.gateway.queries import without_parameter
from services.gateway.refusals import Denial
from services.gateway.upstream_headers import _hide_token_cookie
from services.gateway.upstream_urls import upstream_url
from services.gateway.versions import requested_versions
from services.gateway.websocket_frames import FrameTracker
from tests.fuzz.extent import examples
from tests.fuzz.strange import bytes_like, texts_like
from tests.fuzz.test_definitions import NOW
from tests.unit.tyk_definitions import definition

API: Api = read_oas(definition("orders-oas.json"), api_id="orders-api", now=NOW)
STRIPPED = API.model_copy(update={"strip_listen_path": True, "upstream_url": "http://upstream.example.test/v1?a=b#c"})
URIS = ("/orders/things?access_token=tw_at_x&v=2", "/orders/%2e%2e/a//b;c=d/..\\e", "//orders/./x", "/orders-api/%252e")
PROXIES = TrustedProxies.parse("127.0.0.1,10.0.0.0/8,2001:db8::/32,::1")
FORWARDED = ("203.0.113.7, 10.0.0.1", "[2001:db8::1]:443,203.0.113.7:80", "::ffff:10.0.0.1", "fe80::1%eth0", "unknown")
LOCATIONS = [
    TokenLocation(header="Authorization", query="access_token", cookie="token"),
    TokenLocation(header="X-Key", query=None, cookie=None),
    TokenLocation(header=None, query="ключ", cookie="token"),
]
BEARERS = ("Bearer tw_at_abc", "bearer  tw_at_abc", "tw_at_abc", "Basic abc", "Bearer")
VERSIONINGS = [
    Versioning(location=location, key="v", default="v1", names=("v1", "v2"))
    for location in ("header", "url-param", "url")
]


@examples(300)
@given(st.lists(texts_like(*FORWARDED), max_size=4).map(",".join), texts_like("127.0.0.1", "10.1.2.3", "::1", "unix:"))
def test_forwarded_headers_give_an_address(forwarded: str, peer: str) -> None:
    """Any forwarded header gives an address that can be counted and logged."""
    address = PROXIES.client(peer, forwarded)
    site(address)
    if address != peer:
        ipaddress.ip_address(address)
    if not PROXIES.trusts(peer):
        assert address == PROXIES.client(peer)


@examples(400)
@given(texts_like(*URIS))
def test_a_path_is_read_and_leads_below_its_upstream(uri: str) -> None:
    """Any path stays below its upstream's, however it is encoded."""
    path, _, query = uri.partition("?")
    found = readings(path)
    assert path in found or not found
    assert len(found) <= 128
    assert sum(map(len, found)) <= 32 * 1024
    leads_out(path)
    if not ORIGIN_FORM.fullmatch(uri) or not f"{path}/".startswith((API.listen_path, f"/{API.api_id}/")):
        return  # no such call is forwarded
    for api in (API, STRIPPED):
        below(path, api)
        url = upstream_url(Call("GET", path, query), Admitted(api))
        if url is not None:
            assert str(url).isascii()
            assert urlsplit(str(url)).netloc == urlsplit(api.upstream_url).netloc


@examples(400)
@given(
    texts_like(*URIS),
    st.lists(
        st.tuples(
            st.sampled_from(["Authorization", "X-Key", "V", "Cookie"]),
            texts_like(*BEARERS, "v2", "token=Bearer x; token=y"),
        ),
        max_size=3,
    ),
    st.sampled_from(LOCATIONS),
    st.booleans(),
)
def test_a_token_and_a_version_are_presented_or_not(
    uri: str, headers: list[tuple[str, str]], location: TokenLocation, bare: bool
) -> None:
    """A token has no surrounding spaces; a version is text."""
    path, _, query = uri.partition("?")
    raw = [(name.encode(), value.encode(errors="replace")) for name, value in headers]
    call = Call("GET", path, query, CIMultiDictProxy(CIMultiDict(headers)), raw)
    token = bearer_token(call, location, bare=bare)
    assert isinstance(token, Denial) or token == token.strip() != ""
    for versioning in VERSIONINGS:
        versions = requested_versions(call, API, versioning)
        assert isinstance(versions, Denial) or versions or not call.paths
    without_parameter(query, location.query)


HEADERS = (
    b"Connection: close, X-Hop",
    b"X-Hop: a",
    b"Cookie: token=tw_at_x; a=b",
    b"Authorization: Bearer x",
    b"Via: 1.1 a",
)


@examples(300)
@given(
    st.lists(bytes_like(*HEADERS).map(lambda line: line.partition(b": ")[::2]), max_size=5), st.sampled_from(LOCATIONS)
)
def test_hop_by_hop_headers_are_removed(raw: list[tuple[bytes, bytes]], location: TokenLocation) -> None:
    """Hop-by-hop headers are removed; the others are valid."""
    headers = CIMultiDict(end_to_end(raw))
    assert "Connection" not in headers
    _hide_token_cookie(headers, location)
    for value in (*headers.values(), *map(as_text, (value for _, value in raw))):
        assert not any((character < " " and character != "\t") or character == "\x7f" for character in value)


@examples(200)
@given(
    st.lists(
        st.binary(max_size=80) | st.sampled_from([b"\x81\x05hello", b"\x88\x02\x03\xe8", b"\x82\x7f" + b"\xff" * 8])
    )
)
def test_frames_are_followed_whatever_comes(arriving: list[bytes]) -> None:
    """FrameTracker are followed to a boundary, without allocating their claimed length."""
    frames, to_boundary = FrameTracker(), FrameTracker()
    for data in arriving:
        assert frames.follow(data) == len(data) or frames.closing
        assert 0 <= to_boundary.follow(data, to_boundary=True) <= len(data)


@examples(200)
@given(texts_like("127.0.0.1,10.0.0.0/8", "2001:db8::/32"), texts_like("20/60", "1/1"))
def test_address_settings_are_read_or_refused(proxies: str, limit: str) -> None:
    """Settings about addresses are valid or raise ValueError, which becomes one line at the start."""
    with suppress(ValueError):
        TrustedProxies.parse(proxies)
    with suppress(ValueError):
        assert Limit.parse(limit).failures > 0
