"""Response headers, information leaks, forged Host headers, and slow clients."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import CALLBACK, SCHEME, Tenant, issued, new_tenant
from tests.builders import Response

NOT_FRAMED = "default-src 'none'; frame-ancestors 'none'"
CUT_WITHIN = 14.0
"""Seconds until an idle connection is closed; edge and services both allow ten."""


@pytest.fixture(scope="module")
async def tenant(stack: Stack) -> Tenant:
    return await new_tenant(stack.anybody, stack.operator, **{f"{SCHEME}__notifications": {}})


@dataclass(frozen=True)
class Case:
    """One request and the status expected for it."""

    name: str
    status: int
    ask: Callable[[Stack, Tenant], Awaitable[Response]]


def edge(method: str, path: str, **request: object) -> Callable[[Stack, Tenant], Awaitable[Response]]:
    """Ask the edge; `{path}` and `{client}` stand for the tenant's."""

    async def ask(stack: Stack, tenant: Tenant) -> Response:
        return await stack.anybody(method, path.format(path=tenant.path, client=tenant.client_id), **request)

    return ask


AUTHORIZE = "{path}/oauth/authorize?response_type=code&client_id={client}&redirect_uri=" + CALLBACK
CASES = [
    Case("tokens", 200, lambda _, tenant: tenant.client_credentials()),
    Case("wrong-secret", 401, lambda _, tenant: tenant.client_credentials(secret="x" * 32)),
    Case("no-grant-type", 400, edge("POST", "{path}/oauth/token", data={"a": "b"})),
    Case("body-too-large", 413, edge("POST", "{path}/oauth/token", data={"a": "b" * 70_000})),
    Case("to-the-login-page", 307, edge("GET", AUTHORIZE)),
    Case("back-with-an-error", 302, edge("GET", AUTHORIZE + "&scope=%22")),
    Case("not-redirected", 400, edge("GET", "{path}/oauth/authorize?response_type=code&client_id=nobody")),
    Case("wrong-method", 405, edge("GET", "{path}/oauth/token")),
    Case("metadata", 200, edge("GET", "/.well-known/oauth-authorization-server{path}")),
    Case("revocation-by-nobody", 401, edge("POST", "{path}/oauth/revoke", data={"token": "x"})),
    Case("introspection-by-nobody", 401, edge("POST", "/oauth/introspect", data={"token": "x"})),
    Case("management", 200, lambda stack, _: stack.operator("GET", "/api/apis")),
    Case("management-for-nobody", 401, edge("GET", "/api/apis")),
    Case("deliveries", 200, lambda stack, _: stack.operator("GET", "/api/notifications/deliveries")),
    Case("forward-auth-refused", 400, edge("GET", "/verify{path}/things/1")),
    Case("health", 200, lambda stack, _: stack.service("token")("GET", "/healthz")),
    Case("metrics", 200, lambda stack, _: stack.service("gateway")("GET", "/metrics")),
    Case("operations-at-the-edge", 404, edge("GET", "/metrics")),
    Case("too-large-for-the-edge", 413, edge("POST", "{path}/oauth/token", data=b"x" * 300_000)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_every_response_has_security_headers(stack: Stack, tenant: Tenant, case: Case) -> None:
    """Every response forbids MIME sniffing, framing and referrers: success, refusal and redirect."""
    response = await case.ask(stack, tenant)
    assert response.headers.getall("X-Content-Type-Options") == ["nosniff"]
    assert response.headers.getall("X-Frame-Options") == ["DENY"]
    assert response.headers.getall("Referrer-Policy") == ["no-referrer"]
    assert response.headers.getall("Content-Security-Policy") == [NOT_FRAMED]
    assert "Strict-Transport-Security" not in response.headers, "which means nothing without TLS"
    assert not [name for name in response.headers if name.startswith("Access-Control-")]
    assert response.status == case.status, response.raw


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_no_response_names_its_software(stack: Stack, tenant: Tenant, case: Case) -> None:
    """No response names its software: `Server` is empty, or `nginx` without a version when the edge itself responds."""
    response = await case.ask(stack, tenant)
    by_the_edge = case.name in {"operations-at-the-edge", "too-large-for-the-edge"}
    assert response.headers.getall("Server") == ["nginx" if by_the_edge else ""]
    assert "X-Powered-By" not in response.headers


async def test_malformed_http_gets_the_same_headers(stack: Stack) -> None:
    """A service that is reached directly answers malformed HTTP with the same headers, and echoes none of it."""
    for nonsense, status in (
        (b"GET / HTTP/9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"s" * 17_000 + b"\r\n\r\n", 431),
    ):
        head, _, body = (await sent(stack.urls["token"], nonsense)).partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0].split(" ")[1] == str(status)
        assert {"Server: ", "X-Content-Type-Options: nosniff", "Cache-Control: no-store"} <= set(lines), lines
        assert b'"error":"invalid_request"' in body
        assert b"sss" not in head + body


@pytest.mark.parametrize("past_the_edge", [False, True], ids=["edge", "service"])
async def test_a_host_header_changes_nothing(stack: Stack, tenant: Tenant, past_the_edge: bool) -> None:
    """The Host header changes nothing (row 99): metadata, redirects and responses use the configured issuer."""
    evil = {"Host": "evil.example.test", "X-Forwarded-Host": "evil.example.test", "X-Forwarded-Proto": "https"}
    authorization = stack.service("authorization") if past_the_edge else stack.anybody
    gateway = stack.service("gateway") if past_the_edge else stack.anybody
    issuer = f"{stack.url}{tenant.path}"

    metadata = await authorization("GET", f"/.well-known/oauth-authorization-server{tenant.path}", headers=evil)
    assert metadata.body["issuer"] == issuer
    assert all(value.startswith(stack.url) for name, value in metadata.body.items() if name.endswith("_endpoint"))
    assert b"evil" not in metadata.raw

    path = AUTHORIZE.format(path=tenant.path, client=tenant.client_id)
    refused = await authorization("GET", f"{path}&scope=%22", headers=evil)
    assert dict(parse_qsl(urlsplit(refused.headers["Location"]).query))["iss"] == issuer
    sent_on = await authorization("GET", path, headers=evil)
    assert "evil" not in sent_on.headers["Location"]

    form = {"response_type": "code", "client_id": tenant.client_id, "redirect_uri": CALLBACK}
    operator = authorization.with_key(stack.operator_key)
    code = await operator("POST", f"/api/apis/oauth/{tenant.api_id}/authorize-client", data=form, headers=evil)
    assert dict(parse_qsl(urlsplit(code.body["redirect_to"]).query))["iss"] == issuer

    token = issued(await tenant.client_credentials()).access
    asked = gateway.with_key(stack.operator_key)
    told = await asked("POST", "/oauth/introspect", data={"token": token}, headers=evil)
    assert told.body["iss"] == issuer


SLOW = [
    pytest.param(b"", id="says-nothing"),
    pytest.param(b"POST /a/oauth/token HTTP/1.1\r\nHost: x\r\n", id="head-never-ends"),
    pytest.param(
        b"POST /a/oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 1000\r\n\r\ngrant_type=",
        id="body-never-ends",
    ),
]


@pytest.mark.parametrize("beginning", SLOW)
async def test_slow_connections_are_closed_and_delay_no_other(stack: Stack, tenant: Tenant, beginning: bytes) -> None:
    """Two hundred stalled connections do not delay other clients, and all of them are closed."""
    host, port = urlsplit(stack.url).hostname, urlsplit(stack.url).port
    slow = [await asyncio.open_connection(host, port) for _ in range(200)]
    for _, writer in slow:
        writer.write(beginning)
    cut = asyncio.gather(*(until_closed(reader) for reader, _ in slow))
    worst = 0.0
    while not cut.done() and worst < CUT_WITHIN:
        began = time.monotonic()
        assert (await tenant.client_credentials()).status == 200
        worst = max(worst, time.monotonic() - began)
    async with asyncio.timeout(CUT_WITHIN):
        responses = await cut
    for _, writer in slow:
        writer.close()
    assert worst < CUT_WITHIN / 2, "others waited for the slow"
    assert all(response == b"" or response.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 ")) for response in responses)


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """Everything received before the other side closed the connection. Raises TimeoutError if it stays open."""
    async with asyncio.timeout(CUT_WITHIN):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def sent(url: str, request: bytes) -> bytes:
    """Send these bytes; return everything received until the connection is closed."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
