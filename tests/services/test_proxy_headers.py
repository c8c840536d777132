"""Headers through the proxy: passed on, removed, and set by the gateway."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from libs.http.context import DRAIN
from tests.builders import make_policy
from tests.services.system import BUILT_IN, SCHEME, THROUGH_THE_EDGE, System, open_system
from tests.services.upstreams import Protected, Upstream, protected, saying, upstream

STRIPS = "x-tyk-api-gateway__server__authentication__stripAuthorizationData"
TRANSFORM = "x-tyk-api-gateway__middleware__global__transformRequestHeaders"


@pytest.fixture(name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


@pytest.fixture(scope="module", name="trusting")
async def _trusting(mongodb_url: str, way: str) -> AsyncIterator[System]:
    """A system whose gateway trusts this machine as a proxy."""
    async with open_system(mongodb_url, trusted_proxies="127.0.0.0/8") as system:
        yield system


@pytest.fixture(name="api")
async def _api(system: System, behind: Upstream) -> Protected:
    return await protected(system, behind.url)


# To the upstream


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("User-Agent: curl/8", id="user-agent"),
        pytest.param("Accept-Encoding: br;q=1, gzip", id="accept-encoding"),
        pytest.param("Cookie: a=b; c=d", id="cookie"),
        pytest.param('If-None-Match: W/"x"', id="condition"),
        pytest.param("Range: bytes=0-1", id="range"),
        pytest.param("X-Whatever-It-Is: a,b , c", id="unknown"),
        pytest.param("Origin: https://app.example", id="origin"),
        pytest.param("X-Name: ünïcode", id="utf-8"),
    ],
)
async def test_end_to_end_headers_pass_unchanged(api: Protected, behind: Upstream, line: str) -> None:
    """End-to-end headers pass unchanged (RFC 9110 §7.6.1)."""
    await api.raw("GET", "x", line)
    name, _, value = line.partition(": ")
    assert behind.latest.one(name).encode("latin-1").decode() == value


async def test_a_repeated_header_stays_repeated(api: Protected, behind: Upstream) -> None:
    """Repeated headers stay separate lines, in order."""
    await api.raw("GET", "x", "X-Many: 1", "X-Many: 2", "x-many: 1")
    assert behind.latest.all("X-Many") == ["1", "2", "1"]


async def test_nothing_is_added_in_the_caller_s_name(api: Protected, behind: Upstream, way: str) -> None:
    """No Accept, User-Agent or Content-Type is added; `Host` is the upstream's."""
    await api.raw("GET", "x")
    names = {name.lower() for name, _ in behind.latest.headers}
    of_the_edge = {"connection", "x-real-ip"} if way == THROUGH_THE_EDGE else set()
    assert names == of_the_edge | {
        *("host", "via", "x-request-id"),
        *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
        *("x-tokenwire-api-id", "x-tokenwire-client-id", "x-tokenwire-grant-id"),
        *("x-tokenwire-subject", "x-tokenwire-scope"),
    }
    assert behind.latest.one("Host") == f"127.0.0.1:{behind.port}"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("Keep-Alive: timeout=5", id="keep-alive"),
        pytest.param("Proxy-Authorization: Basic x", id="proxy-authorization"),
        pytest.param("Proxy-Connection: keep-alive", id="proxy-connection"),
        pytest.param("TE: trailers", id="te"),
        pytest.param("Trailer: X-Checksum", id="trailer"),
        pytest.param("Upgrade: h2c", id="upgrade"),
        pytest.param("X-Named: 1", id="named-in-connection"),
        pytest.param("Expect: 100-continue", id="expect"),
    ],
)
async def test_hop_by_hop_request_headers_are_removed(api: Protected, behind: Upstream, line: str) -> None:
    """Hop-by-hop headers and those named by `Connection` are removed (RFC 9110 §7.6.1)."""
    await api.raw("GET", "x", line, connection="close, x-named, X-Other")
    assert behind.latest.all(line.partition(":")[0]) == []
    assert behind.latest.all("Connection") == []


@pytest.mark.parametrize(
    "name",
    [
        "X-Tokenwire-Client-Id",
        "x-tokenwire-scope",
        "X-Tokenwire-Anything",
        "X_Tokenwire_Subject",
        "X.Tokenwire-Subject",
    ],
)
async def test_callers_cannot_set_identity_headers(api: Protected, behind: Upstream, name: str) -> None:
    """Callers cannot set `X-Tokenwire-*`, in any spelling that an upstream may accept."""
    for connection in ("close", f"close, {name}"):
        await api.raw("GET", "x", f"{name}: evil", connection=connection)
        _has_only_its_identity(api, behind)


def _has_only_its_identity(api: Protected, behind: Upstream) -> None:
    told = {header.lower(): value for header, value in behind.latest.headers}
    assert "evil" not in told.values()
    assert told["x-tokenwire-client-id"] == api.party.id
    assert told["x-tokenwire-subject"] == "alice"


async def test_a_caller_without_trust_is_the_beginning_of_the_chain(api: Protected, behind: Upstream, way: str) -> None:
    """The forwarded headers of an untrusted peer are replaced by its own address; the edge's follows it."""
    said = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-IP", "Forwarded")
    await api.raw("GET", "x", *(f"{name}: evil" for name in said), "X_Forwarded_For: evil")
    assert "evil" not in dict(behind.latest.headers).values()
    chain = ["127.0.0.1"] * (2 if way == THROUGH_THE_EDGE else 1)
    assert behind.latest.one("X-Forwarded-For") == ", ".join(chain)
    assert behind.latest.one("X-Forwarded-Proto") == "http"
    assert behind.latest.one("X-Forwarded-Host") == "api.example"


ADDRESSES = [
    *("X-Real-IP", "X-Client-IP", "Client-IP", "True-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6"),
    *("X-Cluster-Client-IP", "Fastly-Client-IP", "Fly-Client-IP", "X-Remote-Addr", "X-Remote-IP", "X-Remote-User"),
    *("X-Originating-IP", "X-ProxyUser-IP", "WL-Proxy-Client-IP", "X-Azure-ClientIP", "X-Envoy-External-Address"),
    *("X-Forwarded", "Forwarded-For", "X-Original-Forwarded-For", "X-Appengine-User-IP", "X-NF-Client-Connection-IP"),
    *("Front-End-Https", "X-Url-Scheme", "X-Scheme", "Client-Cert", "X-SSL-Client-Verify", "DO-Connecting-IP"),
]


@pytest.mark.parametrize("name", ADDRESSES)
async def test_a13_callers_cannot_set_client_headers(api: Protected, behind: Upstream, name: str) -> None:
    """Callers cannot set headers about their address, scheme or certificate, in any spelling."""
    await api.raw("GET", "x", f"{name}: told", f"{name.replace('-', '_')}: folded")
    assert not {"told", "folded"} & {value for _, value in behind.latest.headers}


@pytest.mark.built_in_only("the edge is the trusted proxy, and sets only the headers that it knows")
@pytest.mark.parametrize("name", ADDRESSES)
async def test_a13_trusted_proxies_set_client_headers(trusting: System, behind: Upstream, name: str) -> None:
    """Trusted proxies set them, in the usual spelling."""
    api = await protected(trusting, behind.url)
    await api.raw("GET", "x", f"{name}: told", f"{name.replace('-', '_')}: folded")
    assert behind.latest.one(name) == "told"
    assert "folded" not in {value for _, value in behind.latest.headers}


@pytest.mark.built_in_only("the edge is the trusted proxy")
async def test_a_trusted_proxy_is_believed_and_appended(mongodb_url: str, behind: Upstream) -> None:
    """A trusted proxy's forwarded headers are kept and extended."""
    async with open_system(mongodb_url, trusted_proxies="10.0.0.0/8, 127.0.0.0/8") as system:
        api = await protected(system, behind.url)
        said = ["X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example"]
        await api.raw("GET", "x", *said, "X-Real-IP: 192.0.2.7", "X_Forwarded_For: evil")
    assert behind.latest.one("X-Forwarded-For") == "192.0.2.7, 127.0.0.1"
    assert behind.latest.one("X-Forwarded-Proto") == "https"
    assert behind.latest.one("X-Forwarded-Host") == "shop.example"
    assert behind.latest.one("X-Real-IP") == "192.0.2.7"
    assert "evil" not in dict(behind.latest.headers).values()


async def test_a_call_can_be_followed_to_the_upstream(api: Protected, behind: Upstream, way: str) -> None:
    """The request id is forwarded or created, and is in the response. A trace is forwarded, and not made up."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    response = await api("GET", "x", headers={"X-Request-Id": "order-4711", "traceparent": trace})
    assert behind.latest.one("X-Request-Id") == response.headers["X-Request-Id"] == "order-4711"
    assert behind.latest.one("traceparent") == trace
    await api("GET", "x")
    assert len(behind.latest.one("X-Request-Id")) == (32 if way == THROUGH_THE_EDGE else 16)
    assert behind.latest.all("traceparent") == []
    await api("GET", "x", headers={"traceparent": "00-nonsense", "tracestate": "vendor=1"})
    assert behind.latest.all("traceparent") + behind.latest.all("tracestate") == []


async def test_the_gateway_is_named_on_the_way(api: Protected, behind: Upstream) -> None:
    """RFC 9110 §7.6.3: a gateway "MUST send an appropriate Via header field in each inbound request"."""
    await api.raw("GET", "x", "Via: 1.0 fred")
    assert ", ".join(behind.latest.all("Via")) == "1.0 fred, 1.1 tokenwire"


async def test_headers_of_the_definition_are_set_and_removed(system: System, behind: Upstream) -> None:
    """`transformRequestHeaders`: an added header replaces the caller's."""
    change = {
        "enabled": True,
        "add": [{"name": "X-Shop", "value": "berlin"}, {"name": "X-Plan", "value": "$tyk_meta.plan"}],
        "remove": ["X-Debug"],
    }
    api = await protected(system, behind.url, **{TRANSFORM: change})
    await api.raw("GET", "x", "X-Shop: evil", "x-debug: 1")
    assert (behind.latest.all("X-Shop"), behind.latest.all("X-Debug")) == (["berlin"], [])


# The token


EVERYWHERE = {
    f"{SCHEME}header": {"enabled": True, "name": "X-Token"},
    f"{SCHEME}query": {"enabled": True, "name": "token"},
    f"{SCHEME}cookie": {"enabled": True, "name": "session"},
}


@pytest.mark.parametrize(
    ("path", "lines", "target", "headers"),
    [
        pytest.param("x", ["X-Token: <t>"], "/x", {"X-Token": []}, id="header"),
        pytest.param("x", ["X-Token: <t>", "Authorization: Basic x"], "/x", {"Authorization": ["Basic x"]}, id="other"),
        pytest.param("x?token=<t>", [], "/x", {}, id="query"),
        pytest.param("x?a=%20b&token=<t>&c&=d&&e=+", [], "/x?a=%20b&c&=d&&e=+", {}, id="query-among-others"),
        pytest.param("x?tok%65n=<t>&tokens=1", [], "/x?tokens=1", {}, id="query-encoded"),
        pytest.param("x?token=<t>&token=no", [], "/x", {}, id="query-twice"),
        pytest.param("x", ["Cookie: session=<t>"], "/x", {"Cookie": []}, id="cookie"),
        pytest.param("x", ['Cookie: a="b c"; session=<t>;d=e'], "/x", {"Cookie": ['a="b c"; d=e']}, id="cookie-among"),
        pytest.param("x", ["Cookie: sessions=1; session=<t>"], "/x", {"Cookie": ["sessions=1"]}, id="cookie-prefix"),
        pytest.param(
            "x?token=old", ["X-Token: old", "Cookie: session=<t>"], "/x", {"X-Token": [], "Cookie": []}, id="all-three"
        ),
    ],
)
async def test_the_token_is_taken_out_and_nothing_else(
    system: System, behind: Upstream, path: str, lines: list[str], target: str, headers: dict[str, list[str]]
) -> None:
    """`stripAuthorizationData` removes the token from wherever the API reads it, and changes nothing else."""
    api = await protected(system, behind.url, **EVERYWHERE)
    written = [line.replace("<t>", api.token) for line in lines]
    response = await api.raw("GET", path.replace("<t>", api.token), *written, bearer=False)
    assert response.startswith(b"HTTP/1.1 200 "), response
    assert behind.latest.target == target
    assert {name: behind.latest.all(name) for name in headers} == headers
    assert api.token not in behind.latest.line + repr(behind.latest.headers)


async def test_without_the_setting_the_upstream_gets_the_token(system: System, behind: Upstream) -> None:
    """Without it the upstream gets the token, as in Tyk."""
    api = await protected(system, behind.url, **EVERYWHERE, **{STRIPS: False})
    await api.raw("GET", f"x?token={api.token}", "X-Token: a", "Cookie: session=", bearer=False)
    assert behind.latest.target == f"/x?token={api.token}"
    assert behind.latest.one("X-Token") == "a"


# To the caller


async def answered(system: System, head: bytes, method: str = "GET") -> tuple[bytes, list[bytes], bytes]:
    """Status line, headers and body that the caller gets for this upstream response."""
    async with upstream(saying(head)) as behind:
        response = await (await protected(system, behind.url)).raw(method, "x")
    lines, _, body = response.partition(b"\r\n\r\n")
    status, *headers = lines.split(b"\r\n")
    return status, headers, body


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"HTTP/1.1 200 Fine By Me", id="reason"),
        pytest.param(b"HTTP/1.1 418 I'm a teapot", id="unusual"),
        pytest.param(b"HTTP/1.1 302 Found", id="redirect-is-not-followed"),
        pytest.param(b"HTTP/1.1 500 Internal Server Error", id="error"),
        pytest.param(b"HTTP/1.1 401 Unauthorized", id="challenge"),
        pytest.param(b"HTTP/1.1 599 ", id="no-reason"),
        pytest.param("HTTP/1.1 200 Schön".encode(), id="not-ascii"),
    ],
)
async def test_status_and_reason_are_the_upstream_s(system: System, line: bytes) -> None:
    """Status and reason pass unchanged; redirects are not followed."""
    location = b"\r\nLocation: http://127.0.0.1:1/elsewhere\r\nContent-Length: 2\r\n\r\nok"
    status, headers, body = await answered(system, line + location)
    assert (status, body) == (line, b"ok")
    assert b"Location: http://127.0.0.1:1/elsewhere" in headers


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([b"Set-Cookie: a=1; Path=/", b"Set-Cookie: b=2", b"Set-Cookie: a=1; Path=/x"], id="cookies"),
        pytest.param([b"Server: upstream/1.0"], id="server"),
        pytest.param([b"Date: Mon, 04 May 2026 12:00:00 GMT"], id="date"),
        pytest.param([b'ETag: "x"', b"Cache-Control: max-age=60", b"Vary: Accept, Origin"], id="cache"),
        pytest.param([b"Content-Encoding: gzip", b"Content-Type: text/x; charset=y"], id="content"),
        pytest.param([b"WWW-Authenticate: Basic realm=x", b"WWW-Authenticate: Digest y"], id="challenges"),
        pytest.param([b"X-Lower-And-UPPER: Value"], id="spelling"),
    ],
)
async def test_the_response_s_headers_are_the_upstream_s(system: System, lines: list[bytes]) -> None:
    """Each response header line passes, including repetitions in their order."""
    head = b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"Content-Length: 2", b"", b"ok"))
    _, headers, body = await answered(system, head)
    names = {line.partition(b":")[0].lower() for line in lines}
    for name in names:
        assert [line for line in headers if line.lower().startswith(name + b":")] == [
            line for line in lines if line.lower().startswith(name + b":")
        ]
    assert body == b"ok"


async def test_responses_do_not_name_the_gateway_s_software(system: System, way: str) -> None:
    """No Server or Content-Type is added to responses; the edge adds no Date either."""
    _, headers, _ = await answered(system, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    names = {line.partition(b":")[0]: line.partition(b": ")[2] for line in headers}
    of_the_gateway = {b"Server", b"Date"} if way == BUILT_IN else set()
    assert names.keys() == {b"Content-Length", b"X-Request-Id", b"Connection"} | of_the_gateway
    assert names.get(b"Server", b"") == b""


@pytest.mark.parametrize(
    "line",
    [
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Trailer: X-Checksum",
        b"Upgrade: h2c",
        pytest.param(
            b"X-Named: 1", marks=pytest.mark.built_in_only("nginx removes no header because `Connection` names it")
        ),
        b"Proxy-Connection: close",
    ],
)
async def test_hop_by_hop_response_headers_are_removed(system: System, line: bytes) -> None:
    """Hop-by-hop response headers are removed."""
    head = b"\r\n".join(
        (b"HTTP/1.1 200 OK", line, b"Connection: x-named, keep-alive", b"Content-Length: 2", b"", b"ok")
    )
    _, headers, body = await answered(system, head)
    assert not [each for each in headers if each.partition(b":")[0] == line.partition(b":")[0]]
    assert body == b"ok"


@pytest.mark.built_in_only("the edge keeps its callers' connections, and finds another gateway")
async def test_a_stopping_gateway_closes_connections_after_responses(mongodb_url: str, behind: Upstream) -> None:
    """When the gateway stops, responses close their connections, so that proxies switch to another gateway."""
    async with open_system(mongodb_url) as system:
        api = await protected(system, behind.url)
        assert "Connection" not in (await api("GET", "x")).headers
        system.call.http.app[DRAIN].on = True
        assert (await api("GET", "x")).headers["Connection"] == "close"


@pytest.mark.built_in_only("nginx passes on the bytes")
async def test_a_header_that_is_not_utf_8_arrives_as_utf_8(system: System) -> None:
    """A Latin-1 header value arrives as the same text in UTF-8."""
    head = b'HTTP/1.1 200 OK\r\nContent-Disposition: attachment; filename="caf\xe9"\r\nContent-Length: 0\r\n\r\n'
    _, headers, _ = await answered(system, head)
    assert 'Content-Disposition: attachment; filename="café"'.encode() in headers


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_head_says_how_long_the_body_would_be(system: System, method: str) -> None:
    """HEAD has GET's headers; 304 has no body."""
    if method == "HEAD":
        status, headers, body = await answered(system, b"HTTP/1.1 200 OK\r\nContent-Length: 4711\r\n\r\n", "HEAD")
        assert b"Content-Length: 4711" in headers
    else:
        status, headers, body = await answered(system, b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n")
        assert b"ETag: x" in headers
    assert (status.split(b" ")[1], body) == (b"200" if method == "HEAD" else b"304", b"")


async def test_a_response_says_what_is_left_of_the_quota(system: System, behind: Upstream) -> None:
    """Tyk's quota headers replace the upstream's; the call over the limit is refused."""
    behind.answering = saying(b"HTTP/1.1 200 OK\r\nX-RateLimit-Limit: 99\r\nContent-Length: 0\r\n\r\n")
    api = await protected(system, behind.url)
    policy = await make_policy(system.deps, api.party.api.api_id, quota_max=2, quota_renewal_rate=3600)
    counted = await system.client_of(api.party.api, policy_ids=(policy.policy_id,))
    limited = Protected(counted, (await counted.tokens()).access)
    responses = [await limited("GET", "x") for _ in range(3)]
    assert [response.status for response in responses] == [200, 200, 403]
    assert [response.headers.getall("X-RateLimit-Limit") for response in responses] == [["2"]] * 3
    assert [response.headers["X-RateLimit-Remaining"] for response in responses] == ["1", "0", "0"]
    assert len(behind.asked) == 2


async def test_a_refused_call_never_reaches_the_upstream(api: Protected, behind: Upstream) -> None:
    """A refused call does not reach the upstream; the text is that of `/verify`."""
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({}, 400, "Authorization field missing"),
        ({"Authorization": "Bearer wrong"}, 403, "Key not authorised"),
    ]
    for headers, status, message in cases:
        response = await api.party.system.call("POST", api.at("x"), headers=headers, data=b"body")
        assert (response.status, response.body) == (status, {"error": message})
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
    assert behind.asked == []
