"""Which calls nginx forwards itself, which go to the built-in proxy, and that no caller or upstream steers either."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import aiohttp
import pytest
from yarl import URL

from contracts.policies import AccessRight
from services.gateway.edge_forwarding import MAX_HEADERS, OWN
from tests.builders import Response, make_policy
from tests.deployment.edge import EDGE, Edge
from tests.eventually import eventually
from tests.ports import free_port
from tests.services.system import SCHEME, THROUGH_THE_EDGE, WAY, EdgeClient, System, keyless, open_system, raw
from tests.services.test_cross_origin import CORS, ORIGIN, SETTINGS
from tests.services.test_proxy_headers import STRIPS, TRANSFORM
from tests.services.upstreams import OK, Asked, Protected, Upstream, protected, saying, upstream


@pytest.fixture(scope="module")
def way() -> Iterator[str]:
    """Systems are called through the edge."""
    previous = WAY.set(THROUGH_THE_EDGE)
    yield THROUGH_THE_EDGE
    WAY.reset(previous)


@pytest.fixture(name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


@pytest.fixture(name="api")
async def _api(system: System, behind: Upstream) -> Protected:
    return await protected(system, behind.url)


def edge_of(system: System) -> Edge:
    """The edge in front of the system."""
    return cast("EdgeClient", system.call.http).edge


async def decisions(system: System) -> dict[int, int]:
    """How often the gateway has decided for the edge, by the status that it gave."""
    direct = system.call.http.session
    async with direct.get(f"http://127.0.0.1:{edge_of(system).services['gateway'][0]}/metrics") as response:
        text = await response.text()
    found = re.findall(r'^tokenwire_http_requests_total\{.*route="/\.edge/decision",status="(\d+)"\} (\d+)', text, re.M)
    return {int(status): int(count) for status, count in found}


FORWARDED, LASTING, BUILT_IN = 200, 401, 403
"""What the gateway says to the edge."""


async def said(system: System, before: dict[int, int]) -> set[int]:
    """The statuses of the decisions since then."""
    now = await decisions(system)
    return {status for status, count in now.items() if count > before.get(status, 0)}


# What nginx forwards


@pytest.mark.parametrize(
    ("method", "request_", "decision"),
    [
        pytest.param("GET", {}, FORWARDED, id="get"),
        pytest.param("HEAD", {}, FORWARDED, id="head"),
        pytest.param("POST", {"data": b"x" * 100_000}, FORWARDED, id="body"),
        pytest.param("OPTIONS", {"headers": {"Origin": ORIGIN}}, FORWARDED, id="origin"),
        pytest.param("GET", {"headers": {"Cookie": "a=b", "Range": "bytes=0-"}}, FORWARDED, id="headers"),
        pytest.param("GET", {"headers": {"Accept": "text/event-stream"}}, LASTING, id="events"),
    ],
)
async def test_nginx_forwards_plain_calls(
    api: Protected, behind: Upstream, method: str, request_: dict[str, Any], decision: int
) -> None:
    """Calls that need no change that nginx cannot make do not pass through Python."""
    before = await decisions(api.party.system)
    assert (await api(method, "x", **request_)).status == 200
    assert await said(api.party.system, before) == {decision}
    assert behind.latest.method == method


async def test_nginx_forwards_websockets(api: Protected, behind: Upstream) -> None:
    """WebSockets do not pass through Python either."""
    behind.answering = saying(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    before = await decisions(api.party.system)
    async with api.connection() as (reader, writer), asyncio.timeout(5):
        writer.write(api.head("GET", "x", "Upgrade: websocket", "Connection: keep-alive, Upgrade"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert await said(api.party.system, before) == {LASTING}
    assert (behind.latest.one("Upgrade"), behind.latest.one("Connection")) == ("websocket", "Upgrade")


async def test_a_forwarded_call_counts_once(system: System, behind: Upstream) -> None:
    """Each call counts once against the quota, forwarded or refused; the upstream sees no call over it."""
    api = await protected(system, behind.url)
    policy = await make_policy(system.deps, api.party.api.api_id, quota_max=3, quota_renewal_rate=3600)
    counted = await system.client_of(api.party.api, policy_ids=(policy.policy_id,))
    limited = Protected(counted, (await counted.tokens()).access)
    before = await decisions(system)
    responses = [await limited("GET", "x") for _ in range(5)]
    assert [response.status for response in responses] == [200, 200, 200, 403, 403]
    assert [response.headers["X-RateLimit-Remaining"] for response in responses] == ["2", "1", "0", "0", "0"]
    assert len(behind.asked) == 3
    assert await said(system, before) == {FORWARDED, BUILT_IN}


async def test_headers_of_the_definition_arrive(system: System, behind: Upstream) -> None:
    """The headers that a definition adds arrive, one by one, whatever characters their values have."""
    added = [{"name": f"X-Added-{number}", "value": f"a: b, \\r\\n {number}"} for number in range(MAX_HEADERS)]
    api = await protected(system, behind.url, **{TRANSFORM: {"enabled": True, "add": added, "remove": ["X-Debug"]}})
    before = await decisions(system)
    assert (await api("GET", "x")).status == 200
    assert await said(system, before) == {FORWARDED}
    assert [behind.latest.one(header["name"]) for header in added] == [header["value"] for header in added]


# What the built-in proxy forwards


def _adding(number: int) -> dict[str, Any]:
    added = [{"name": f"X-Added-{each}", "value": "x"} for each in range(number)]
    return {TRANSFORM: {"enabled": True, "add": added, "remove": ["X-Debug"]}}


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        pytest.param(_adding(MAX_HEADERS + 1), [], id="many-added-headers"),
        pytest.param(_adding(1), ["X-Added-0: of the caller"], id="added-and-sent"),
        pytest.param(_adding(1), ["x-debug: 1"], id="removed-and-sent"),
        pytest.param({CORS: SETTINGS}, [f"Origin: {ORIGIN}"], id="cors"),
        pytest.param(
            {f"{SCHEME}header": {"enabled": True, "name": "X-Token"}, STRIPS: True}, ["X-Token: <t>"], id="stripped"
        ),
        pytest.param({}, ["X-Name: ünïcode"], id="not-ascii"),
        pytest.param({}, ["X-HTTP-Method-Override: GET"], id="method-override"),
        pytest.param({}, ["True-Client-IP: 192.0.2.1"], id="address"),
        pytest.param({}, ["X-Tokenwire-Admin: yes"], id="identity"),
        pytest.param({}, ["Traceparent: 00-nonsense", "Proxy: http://x"], id="proxy"),
    ],
)
async def test_the_built_in_proxy_forwards_the_rest(
    system: System, behind: Upstream, changes: dict[str, Any], lines: list[str]
) -> None:
    """Where nginx cannot do what the built-in proxy does, the call goes to the built-in proxy."""
    api = await protected(system, behind.url, **changes)
    before = await decisions(system)
    written = [line.replace("<t>", api.token) for line in lines]
    response = await api.raw("GET", "x", *written)
    assert response.startswith(b"HTTP/1.1 200 "), response
    assert await said(system, before) == {BUILT_IN}
    assert len(behind.asked) == 1
    sent = dict(behind.latest.headers)
    assert sent.keys().isdisjoint({"x-debug", "X-Token", "X-HTTP-Method-Override", "True-Client-IP", "Proxy"})
    assert not {"yes", "of the caller"} & set(sent.values())


@pytest.mark.parametrize("of", ["api", "endpoint"])
async def test_calls_with_several_limits_count_once_for_each(system: System, behind: Upstream, of: str) -> None:
    """Calls with a rate limit of their API or endpoint go to the built-in proxy, and both limits are exact."""
    rate = {"x-tyk-api-gateway__upstream__rateLimit": {"enabled": True, "rate": 2, "per": "1h"}} if of == "api" else {}
    api = await protected(system, behind.url, **rate)
    api_id = api.party.api.api_id
    endpoints = [{"path": "/x", "methods": [{"name": "GET", "limit": {"rate": 2, "per": 3600}}]}]
    right = {"api_id": api_id, **({"endpoints": endpoints} if of == "endpoint" else {})}
    policy = await make_policy(
        system.deps,
        access_rights={api_id: AccessRight.model_validate(right)},
        quota_max=10,
        quota_renewal_rate=3600,
    )
    counted = await system.client_of(api.party.api, policy_ids=(policy.policy_id,))
    limited = Protected(counted, (await counted.tokens()).access)
    before = await decisions(system)
    responses = [await limited("GET", "x") for _ in range(3)]
    assert [response.status for response in responses] == [200, 200, 429]
    assert [response.headers["X-RateLimit-Remaining"] for response in responses[:2]] == ["9", "8"]
    assert await said(system, before) == {BUILT_IN}
    assert len(behind.asked) == 2


async def test_a_refusal_is_the_built_in_proxy_s(api: Protected, behind: Upstream) -> None:
    """A refused call gets the refusal of the built-in proxy, and counts once."""
    before = await decisions(api.party.system)
    response = await api.party.system.call("POST", api.at("x"), data=b"body", headers={"Authorization": "Bearer no"})
    assert (response.status, response.body) == (403, {"error": "Key not authorised"})
    assert await said(api.party.system, before) == {BUILT_IN}
    assert behind.asked == []


async def test_other_timeouts_leave_no_call_to_the_edge(mongodb_url: str, behind: Upstream) -> None:
    """If the gateway's time-outs are not those in the edge's files, the built-in proxy forwards every call."""
    async with open_system(mongodb_url) as system:
        port, before = edge_of(system).services["gateway"], await decisions(system)
        with Edge({"gateway": port}, upstream_timeouts=(5, 61)) as edge:
            api = await protected(system, behind.url)
            async with (
                aiohttp.ClientSession() as http,
                http.get(edge.url + api.at("x"), headers=api.bearer) as response,
            ):
                assert response.status == 200
        assert await said(system, before) == {BUILT_IN}


async def test_an_edge_that_is_not_trusted_forwards_nothing(mongodb_url: str, behind: Upstream) -> None:
    """If the edge is no trusted proxy of the gateway, its headers count for nothing, and it forwards no call."""
    async with open_system(mongodb_url, trusted_proxies="192.0.2.1") as system:
        api, before = await protected(system, behind.url), await decisions(system)
        assert (await api("GET", "x")).status == 200
        assert await said(system, before) == {BUILT_IN}
        assert behind.latest.all("X-Real-IP") == []


async def test_without_the_setting_there_is_no_decision(mongodb_url: str, behind: Upstream) -> None:
    """Unless the gateway is told that it is behind the edge, it tells nobody about upstreams."""
    async with open_system(mongodb_url, edge_forwards=False) as system:
        api = await protected(system, behind.url)
        assert (await api("GET", "x")).status == 200
        direct = system.call.http.session
        question = {"X-Original-URI": api.at("x"), "X-Original-Method": "GET", "X-Edge-Timeouts": "5 60", **api.bearer}
        url = f"http://127.0.0.1:{edge_of(system).services['gateway'][0]}/.edge/decision"
        async with direct.get(url, headers=question) as response:
            assert response.status == 404
            assert not [name for name in response.headers if name.startswith("X-Edge-")]


# Nobody steers the decision or nginx


@pytest.mark.parametrize(
    "path",
    [
        "/.edge/decision",
        "/.edge/decision/",
        "/.edge/decision?x",
        "/.edge//decision",
        "//.edge/decision",
        "/%2eedge/decision",
        "/.edge%2fdecision",
        "/.edge/%64ecision",
        "/x/../.edge/decision",
        "/./.edge/decision",
        "/verify/../.edge/decision",
        "http://x/.edge/decision",
    ],
)
async def test_no_caller_reaches_the_decision(api: Protected, path: str) -> None:
    """The question of the edge cannot be asked from outside, in any spelling of its path."""
    system, before = api.party.system, await decisions(api.party.system)
    lines = (f"X-Original-URI: {api.at('x')}", "X-Original-Method: GET", "X-Edge-Timeouts: 5 60")
    head = "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *lines, ""))
    response = await raw(system.call, f"{head}Authorization: Bearer {api.token}\r\n\r\n".encode())
    assert response.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), response
    assert b"x-edge-" not in response.lower()
    assert FORWARDED not in await said(system, before)


async def test_no_header_of_a_caller_steers_the_edge(api: Protected, behind: Upstream) -> None:
    """Headers that are named like those between edge and gateway change neither the decision nor the upstream."""
    async with upstream() as elsewhere:
        steering = (
            *(f"X-Edge-Address: 127.0.0.1:{elsewhere.port}", "X-Edge-Target: /admin", "X-Edge-Host: elsewhere"),
            *("X-Edge-Header-1: X-Tokenwire-Admin: yes", "X-Edge-Authorization: -", "X-Edge-Upgrade: websocket"),
            *("X-Edge-Connection: close", "X-Edge-Timeouts: 1 1", "X-Edge-Body: 0|", "X-Original-URI: /public"),
            *("X-Original-Method: OPTIONS", "X-Original-URL: /public", "X-Forwarded-Uri: /public"),
            *("X-Accel-Redirect: /.edge/decision", "X-Forwarded-Method: OPTIONS"),
        )
        response = await api.raw("POST", "x?y", *steering, "Content-Length: 4", body=b"body")
        assert response.startswith(b"HTTP/1.1 200 "), response
        assert elsewhere.asked == []
    assert behind.latest.line == "POST /x?y HTTP/1.1"
    assert behind.latest.one("Host") == f"127.0.0.1:{behind.port}"
    names = {name.lower() for name, _ in behind.latest.headers}
    assert names.isdisjoint({"x-tokenwire-admin", "x-original-uri", "x-original-method", "x-forwarded-uri", "upgrade"})


async def test_a_caller_cannot_have_its_address_removed(api: Protected, behind: Upstream) -> None:
    """`Connection` may name headers of the caller's own, but none of those with which the edge tells who called."""
    named = "X-Forwarded-For, x-real-ip, X-Forwarded-Host"
    response = await api.raw("GET", "x", "X-Mine: 1", connection=f"close, {named}, x-mine")
    assert response.startswith(b"HTTP/1.1 200 "), response
    assert behind.latest.one("X-Forwarded-For") == "127.0.0.1, 127.0.0.1"
    assert behind.latest.one("X-Real-IP") == "127.0.0.1"
    await api.raw("GET", "x", "X-Mine: 1", connection="close, x-mine")
    assert behind.latest.all("X-Mine") == []


@pytest.mark.parametrize("connection", ["authorization, close", "close, Authorization", "Cookie, authorization, close"])
async def test_a_token_is_not_for_one_hop(api: Protected, behind: Upstream, connection: str) -> None:
    """A token in a header that `Connection` names is refused, as without the edge."""
    response = await api.raw("GET", "x", connection=connection)
    assert response.startswith(b"HTTP/1.1 400 "), response
    assert behind.asked == []


@pytest.mark.parametrize(
    "line",
    [
        b"X-Accel-Redirect: /.edge/decision",
        b"X-Accel-Redirect: @built_in",
        b"X-Accel-Redirect: /my-api/oauth/token",
        b"X-Accel-Limit-Rate: 1",
        b"X-Edge-Address: 127.0.0.1:1",
    ],
)
@pytest.mark.parametrize("by", [FORWARDED, BUILT_IN])
async def test_no_header_of_an_upstream_steers_the_edge(api: Protected, behind: Upstream, line: bytes, by: int) -> None:
    """What an upstream responds is for the caller, and no instruction to nginx."""
    behind.answering = saying(b"HTTP/1.1 200 OK\r\n" + line + b"\r\nContent-Length: 2\r\n\r\nok")
    lines = ["X-Name: ü"] if by == BUILT_IN else []
    response = await api.raw("GET", "x", *lines)
    assert response.startswith(b"HTTP/1.1 200 "), response
    assert response.endswith(b"\r\n\r\nok")
    assert line.lower() in response.lower()
    assert len(behind.asked) == 1


async def test_requests_on_one_connection_stay_apart(api: Protected, behind: Upstream) -> None:
    """Of two requests in one packet, each is decided by itself: the second has no token and is refused."""
    second = api.head("GET", "y", "Connection: close", bearer=False)
    async with api.connection() as (reader, writer), asyncio.timeout(10):
        writer.write(api.head("POST", "x", "Content-Length: 4") + b"body" + second)
        both = await reader.read()
    assert re.findall(rb"HTTP/1\.1 (\d+) ", both) == [b"200", b"400"], both
    assert [asked.target for asked in behind.asked] == ["/x"]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Content-Length: 4", "Transfer-Encoding: chunked"], id="length-and-chunks"),
        pytest.param(["Content-Length: 4", "Content-Length: 5"], id="two-lengths"),
        pytest.param(["Transfer-Encoding: chunked, identity"], id="unknown-coding"),
        pytest.param(["Transfer-Encoding: \x0bchunked"], id="disguised"),
    ],
)
async def test_an_ambiguous_body_reaches_no_upstream(api: Protected, behind: Upstream, lines: list[str]) -> None:
    """A request whose end servers could see differently is refused (request smuggling, RFC 9112 §6.3)."""
    response = await api.raw("POST", "x", *lines, body=b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 (?:400|501) ", response), response
    assert len(re.findall(rb"HTTP/1\.1 ", response)) == 1
    assert behind.asked == []


# Failures


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b"body")])
async def test_an_upstream_that_is_down_is_502(system: System, method: str, body: bytes | None) -> None:
    """The built-in proxy's text, by whichever of the two found out."""
    api = await protected(system, f"http://127.0.0.1:{free_port()}/")
    response: Response = await api(method, "x", **({} if body is None else {"data": body}))
    assert (response.status, response.body) == (502, {"error": "The upstream cannot be reached"})
    assert response.headers["Cache-Control"] == "no-store"


async def test_a_call_is_never_sent_twice(api: Protected, behind: Upstream) -> None:
    """A call that an upstream may have received is not repeated, by nginx or by the built-in proxy."""

    async def break_off(asked: Asked) -> None:
        asked.writer.close()
        raise EOFError

    behind.answering = break_off
    for method in ("GET", "POST", "PUT"):
        response = await api(method, "x")
        assert (response.status, response.body["error"]) == (
            502,
            "The upstream closed the connection before it responded",
        )
    assert [asked.method for asked in behind.asked] == ["GET", "POST", "PUT"]


@pytest.mark.parametrize("head", [b"no header\r\n", b"X-Large: " + b"x" * 20_000 + b"\r\n"], ids=["malformed", "large"])
async def test_a_head_that_nginx_cannot_read_is_502(api: Protected, behind: Upstream, head: bytes) -> None:
    """nginx does not tell what is wrong, so the text names both."""
    behind.answering = saying(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 2\r\n\r\nok")
    response = await api("POST", "x")
    message = "The upstream's response has malformed or contradictory headers, or too large ones"
    assert (response.status, response.body) == (502, {"error": message})


async def test_a_gateway_that_is_down_is_502(system: System) -> None:
    """Without a gateway the edge forwards nothing."""
    async with upstream() as behind:
        api = await protected(system, behind.url)
        with Edge({"gateway": [free_port()]}) as edge:
            async with (
                aiohttp.ClientSession() as http,
                http.get(edge.url + api.at("x"), headers=api.bearer) as response,
            ):
                assert response.status == 502
                assert (await response.json())["error"] == "temporarily_unavailable"
        assert behind.asked == []


# Kept connections


async def test_connections_are_kept_to_an_upstream_with_a_name(system: System, behind: Upstream) -> None:
    """Connections to an upstream that has a name in upstreams.conf are kept."""
    api = await protected(system, behind.url)
    with Edge({"gateway": edge_of(system).services["gateway"]}, kept=f"127.0.0.1:{behind.port}", workers=1) as edge:
        async with aiohttp.ClientSession() as http:
            for _ in range(5):
                url = URL(edge.url + api.at("x"))
                async with http.get(url, headers=api.bearer) as response:
                    assert response.status == 200
    assert behind.connections == 1
    assert behind.latest.all("Connection") == []


@pytest.mark.parametrize(("method", "again"), [("GET", True), ("POST", False)])
async def test_a_kept_connection_that_is_closed_is_no_failure(
    system: System, behind: Upstream, method: str, again: bool
) -> None:
    """On a kept connection that turns out to be closed, an idempotent call is sent again, once."""
    api = await protected(system, behind.url)

    async def once_in_vain(asked: Asked) -> None:
        if len(behind.asked) == 2:
            asked.reset()
            raise EOFError
        await asked.send(OK)

    behind.answering = once_in_vain
    with Edge({"gateway": edge_of(system).services["gateway"]}, kept=f"127.0.0.1:{behind.port}", workers=1) as edge:
        async with aiohttp.ClientSession() as http:
            statuses = []
            for _ in range(2):
                async with http.request(method, URL(edge.url + api.at("x")), headers=api.bearer) as response:
                    statuses.append(response.status)
    assert statuses == [200, 200 if again else 502]
    assert len(behind.asked) == (3 if again else 2)


# The files


def test_the_files_set_every_header_that_the_gateway_expects() -> None:
    """Only then is what the gateway compares what nginx sends."""
    forwarding, routes = (EDGE / "forwarding.conf").read_text(), (EDGE / "routes.conf").read_text()
    everywhere = re.findall(r"^proxy_set_header (\S+) ", forwarding, re.M)
    assert len(everywhere) == len(set(everywhere)), "nginx would send both"
    for location in ("/", "@forward_lasting"):
        (body,) = re.findall(rf"^location {location} \{{(.*?)^\}}", routes, re.M | re.S)
        own = re.findall(r"^ +proxy_set_header (\S+) ", body, re.M)
        assert own == ["Upgrade", "Connection"]
        by_nginx = {"content-length", "transfer-encoding"}
        assert {name.lower() for name in (*everywhere, *own)} | by_nginx == OWN
    question = re.findall(r"^location = /\.edge/decision \{(.*?)^\}", routes, re.M | re.S)[0]
    assert {name.lower() for name in re.findall(r"proxy_set_header (X-Edge-\S+) ", question)} <= OWN


async def test_an_open_api_is_forwarded_without_an_identity(system: System, behind: Upstream) -> None:
    """A call that needs no token has no identity, whatever the caller says about it."""
    definition = keyless()
    definition["x-tyk-api-gateway"]["upstream"]["url"] = behind.url
    party = await system.party(definition)
    before = await decisions(system)
    lying = {"X-Tokenwire-Client-Id": "boss", "X-Tokenwire-Scope": "all"}
    assert (await system.call("GET", party.at("x"), headers=lying)).status == 200
    assert behind.latest.all("X-Tokenwire-Client-Id") == behind.latest.all("X-Tokenwire-Scope") == []
    assert await said(system, before) == {FORWARDED}
    await eventually(lambda: f'"upstream":"127.0.0.1:{behind.port}"' in edge_of(system).output)
