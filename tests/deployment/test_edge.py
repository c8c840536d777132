"""The edge: routing, the headers it sets, and its own error responses."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.deployment.edge import EDGE, Edge
from tests.deployment.wiring import EVERY_SERVICE, SERVICES, wired
from tests.eventually import eventually
from tests.ports import free_port


@dataclass
class Echo:
    """A service that reports its name and the request, or behaves as a test needs."""

    name: str
    asked: list[str] = field(default_factory=list)
    port: int = 0

    async def describe(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/.edge/decision":
            return web.Response(status=403)  # nginx must not forward the call itself
        self.asked.append(f"{request.method} {request.raw_path}")
        if request.path.endswith("/stream"):
            return await self._stream(request)
        if request.headers.get("Upgrade") == "websocket":
            return await self._talk(request)
        return web.json_response(
            {
                "service": self.name,
                "path": request.raw_path,
                "headers": {name.lower(): value for name, value in request.headers.items()},
                "bytes": len(await request.read()),
            },
            headers={"X-Request-Id": "of-the-service", "Server": ""},
        )

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await asyncio.sleep(30)
        return response

    async def _talk(self, request: web.Request) -> web.WebSocketResponse:
        talk = web.WebSocketResponse()
        await talk.prepare(request)
        await talk.send_str(f"{self.name} heard {await talk.receive_str()}")
        await talk.close()
        return talk


@dataclass
class Stack:
    """The edge in front of an echo service for each service."""

    edge: Edge
    echoes: dict[str, Echo]
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        """The echo of the service that was reached."""
        async with self.http.request(method, URL(f"{self.edge.url}{path}", encoded=True), **more) as response:
            assert response.status == 200, await response.text()
            return await response.json()


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[Stack]:
    echoes = {name: Echo(name) for name in EVERY_SERVICE}
    runners = []
    for echo in echoes.values():
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", echo.describe)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        echo.port = runner.addresses[0][1]
        runners.append(runner)
    with Edge({name: [echo.port] for name, echo in echoes.items()}) as edge:
        async with aiohttp.ClientSession() as http:
            yield Stack(edge, echoes, http)
    for runner in runners:
        await runner.cleanup()


DOCUMENTED = [
    ("console", "GET", "/console/"),
    ("console", "GET", "/console"),
    ("console", "GET", "/console/apis/my-api/clients/verify"),
    ("authorization", "GET", "/my-api/oauth/authorize"),
    ("authorization", "POST", "/a/deep/path/oauth/authorize"),
    ("authorization", "POST", "/my-api/tyk/oauth/authorize-client"),
    ("authorization", "POST", "/api/apis/oauth/b84fe1a04e5648927971c0557971565c/authorize-client"),
    ("authorization", "POST", "/api/apis/b84fe1a04e5648927971c0557971565c/authorize-client"),
    ("authorization", "GET", "/.well-known/oauth-authorization-server/my-api"),
    ("authorization", "GET", "/.well-known/oauth-authorization-server"),
    ("authorization", "GET", "/.well-known/oauth-authorization-server/gw/my-api"),
    ("token", "POST", "/my-api/oauth/token"),
    ("token", "POST", "/b84fe1a04e5648927971c0557971565c/oauth/token"),
    ("token", "POST", "/oauth/token"),
    ("revocation", "POST", "/my-api/oauth/revoke"),
    ("revocation", "POST", "/my-api/oauth/revoke_all"),
    ("revocation", "POST", "/api/apis/oauth/client-1/revoke"),
    ("revocation", "POST", "/api/apis/oauth/client-1/revoke_all"),
    ("revocation", "GET", "/api/apis/oauth/api-1/client-1/tokens"),
    ("revocation", "GET", "/api/apis/oauth/client-1/tokens"),
    ("authorization", "POST", "/tyk/oauth/authorize-client"),
    ("revocation", "POST", "/tyk/oauth/revoke"),
    ("revocation", "POST", "/tyk/oauth/revoke_all"),
    ("revocation", "DELETE", "/tyk/oauth/refresh/tw_rt_abc"),
    ("revocation", "DELETE", "/tyk/oauth/tokens"),
    ("revocation", "GET", "/tyk/oauth/clients/api-1/client-1/tokens"),
    ("revocation", "DELETE", "/tyk/keys/tw_at_abc"),
    ("revocation", "DELETE", "/tyk/keys/AbCdEfGhIjKlMnOpQrStUv.1"),
    ("management", "POST", "/tyk/keys/eyre"),
    ("management", "POST", "/tyk/oauth/clients/create"),
    ("management", "GET", "/tyk/oauth/clients/apis/client-1"),
    ("management", "PUT", "/tyk/oauth/clients/api-1/client-1"),
    ("management", "PUT", "/tyk/oauth/clients/api-1/client-1/rotate"),
    ("management", "POST", "/tyk/apis/oas"),
    ("management", "GET", "/tyk/policies/policy-1"),
    ("management", "GET", "/tyk/reload/group"),
    ("management", "GET", "/hello"),
    ("notifier", "GET", "/api/notifications/deliveries"),
    ("notifier", "GET", "/api/notifications/deliveries/evt_1"),
    ("notifier", "POST", "/api/notifications/deliveries/evt_1/redeliver"),
    ("notifier", "POST", "/api/apis/api-1/notifications/test"),
    ("management", "GET", "/api"),
    ("management", "POST", "/api/apis"),
    ("management", "POST", "/api/apis/oas"),
    ("management", "GET", "/api/apis/api-1"),
    ("management", "POST", "/api/apis/oauth/api-1"),
    ("management", "GET", "/api/apis/oauth/api-1/client-1"),
    ("management", "PUT", "/api/apis/oauth/api-1/client-1/rotate"),
    ("management", "GET", "/api/apis/oauth/notifications"),
    ("management", "GET", "/api/apis/oauth/authorize-client"),
    ("management", "POST", "/api/portal/policies"),
    ("management", "PUT", "/api/apis/keys/basic/anna"),
    ("management", "POST", "/api/operators"),
    ("management", "GET", "/api/analytics/clients"),
    ("gateway", "GET", "/api/v1/orders"),
    ("gateway", "GET", "/api/portals/x"),
    ("token", "POST", "/api/v1/oauth/token"),
    ("gateway", "GET", "/verify"),
    ("gateway", "GET", "/verify/my-api/orders/17"),
    ("gateway", "POST", "/verify/my-api/oauth/token"),
    ("gateway", "PUT", "/verify/api/apis/oauth/client-1/revoke"),
    ("gateway", "POST", "/oauth/introspect"),
    ("gateway", "GET", "/my-api/orders/17"),
    ("gateway", "DELETE", "/my-api/oauth/token/17"),
    ("gateway", "GET", "/my-api/verify"),
    ("gateway", "GET", "/apiary/hives"),
    ("gateway", "GET", "/my-api/healthz"),
    ("gateway", "GET", "/"),
]


@pytest.mark.parametrize("slash", ["", "/"], ids=["bare", "slash"])
@pytest.mark.parametrize(("service", "method", "path"), [pytest.param(*row, id=" ".join(row)) for row in DOCUMENTED])
async def test_a_documented_path_reaches_its_service(
    stack: Stack, service: str, method: str, path: str, slash: str
) -> None:
    """A documented path reaches its service unchanged, with and without a trailing slash."""
    asked = f"{path.removesuffix('/')}{slash}" or "/"
    response = await stack.ask(method, f"{asked}?state=%2Fx")
    assert (response["service"], response["path"]) == (service, f"{asked}?state=%2Fx")


@pytest.mark.parametrize("service", SERVICES)
async def test_every_route_of_a_service_is_reachable(stack: Stack, service: str) -> None:
    """Every route of every service is reachable through the edge, including routes added later."""
    routes = {
        (route.method, re.sub(r"\{[^}]+\}", "some", route.resource.canonical))
        for route in wired(service).app.router.routes()
        if route.resource is not None and route.method not in {"*", "HEAD"}
    }
    public = {(method, path) for method, path in routes if path.rstrip("/") not in {"/healthz", "/readyz", "/metrics"}}
    assert public
    for method, path in sorted(public - {("GET", "/api/events/stream"), ("GET", "/api/events/stream/")}):
        response = await stack.ask(method, path)
        assert response["service"] == service, f"{method} {path}"


@pytest.mark.parametrize("path", ["/healthz", "/readyz/", "/metrics", "/%6detrics", "//metrics", "/x/../readyz"])
async def test_operations_are_not_for_the_outside(stack: Stack, path: str) -> None:
    """Health and metrics are not reachable from outside, however the path is spelled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.edge.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    response = await reader.read()
    writer.close()
    assert response.startswith(b"HTTP/1.1 404 ")


async def test_headers_about_the_client_are_not_trusted(stack: Stack) -> None:
    """Client address, scheme and forward-auth headers are set by the edge, never taken from outside."""
    told = {
        "X-Forwarded-For": "10.1.1.1",
        "X-Real-IP": "10.1.1.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Uri": "/admin",
        "X-Original-URI": "/admin",
        "Forwarded": "for=10.1.1.1",
    }
    for path in ("/my-api/oauth/token", "/api/apis", "/my-api/orders"):
        headers = (await stack.ask("GET", path, headers=told))["headers"]
        host = f"127.0.0.1:{stack.edge.port}"
        assert headers["x-forwarded-for"] == headers["x-real-ip"] == "127.0.0.1"
        assert (headers["x-forwarded-proto"], headers["x-forwarded-host"], headers["host"]) == ("http", host, host)
        assert headers.keys().isdisjoint({"x-forwarded-uri", "x-original-uri", "forwarded"})


async def test_a_forward_auth_question_keeps_its_subject(stack: Stack) -> None:
    """/verify keeps the headers that name the call, because proxies elsewhere use it."""
    subject = {"X-Forwarded-Uri": "/my-api/x", "X-Forwarded-Method": "PUT", "X-Forwarded-Host": "api.example"}
    headers = (await stack.ask("GET", "/verify", headers={**subject, "X-Forwarded-For": "10.1.1.1"}))["headers"]
    assert {name.lower(): value for name, value in subject.items()}.items() <= headers.items()
    assert headers["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("order-4711.a_b", True), ("short", False), ("x" * 65, False), ('quote"and more', False), (None, False)],
)
async def test_a_request_has_one_id(stack: Stack, given: str | None, kept: bool) -> None:
    """A well-formed request id is kept, otherwise a new one is made; service and caller see the same."""
    headers = {} if given is None else {"X-Request-Id": given}
    async with stack.http.get(f"{stack.edge.url}/my-api/x", headers=headers) as response:
        seen = (await response.json())["headers"]["x-request-id"]
        assert response.headers.getall("X-Request-Id") == [seen]
    assert (seen == given) is kept
    assert re.fullmatch(r"[A-Za-z0-9._-]{8,64}", seen)


async def test_responses_do_not_name_the_edge_s_software(stack: Stack) -> None:
    """Services' responses do not name the edge's software, its own do not name a version."""
    async with (
        stack.http.get(f"{stack.edge.url}/my-api/x") as answered,
        stack.http.get(f"{stack.edge.url}/metrics") as refused,
    ):
        assert answered.headers.getall("Server") == [""]
        assert not re.search(r"\d", refused.headers["Server"])


@pytest.mark.parametrize("path", ["/api/events/stream", "/my-api/stream"])
async def test_events_are_streamed_as_they_come(stack: Stack, path: str) -> None:
    """Server-sent events are not buffered, whether Tokenwire's or an upstream's."""
    async with asyncio.timeout(5), stack.http.get(f"{stack.edge.url}{path}") as response:
        assert await response.content.readline() == b"data: first\n"


async def test_a_protected_api_takes_large_bodies_and_websockets(stack: Stack) -> None:
    """Requests to a protected API have no size limit at the edge, and may be upgraded to WebSockets."""
    assert (await stack.ask("POST", "/my-api/upload", data=io.BytesIO(b"x" * 8_000_000)))["bytes"] == 8_000_000
    async with stack.http.ws_connect(f"{stack.edge.url}/my-api/talk") as talk:
        await talk.send_str("hello")
        assert await talk.receive_str() == "gateway heard hello"


@pytest.mark.parametrize(
    ("path", "size", "service"),
    [("/my-api/oauth/token", 200_000, "token"), ("/api/apis/oas", 2_500_000, "management")],
)
async def test_a_service_refuses_large_bodies_itself(stack: Stack, path: str, size: int, service: str) -> None:
    """The edge's body limits are above the services', whose errors are more specific."""
    response = await stack.ask("POST", path, data=io.BytesIO(b"x" * size))
    assert (response["service"], response["bytes"]) == (service, size)


async def test_oversized_bodies_are_refused_at_the_edge(stack: Stack) -> None:
    """A body above the edge's limit gets 413 in the services' error format."""
    async with stack.http.post(f"{stack.edge.url}/my-api/oauth/token", data=io.BytesIO(b"x" * 300_000)) as response:
        assert response.status == 413
        assert (await response.json())["error"] == "invalid_request"
    async with stack.http.post(f"{stack.edge.url}/api/apis", data=io.BytesIO(b"x" * 4_000_000)) as response:
        assert response.status == 413
        assert (await response.json()) == {"Status": "Error", "Message": "the body is too large", "Meta": None}


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="control-character"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no-host"),
        pytest.param(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, id="long-url"),
        pytest.param(b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, id="a3-long-path"),
        pytest.param(b"GET " + b"/" * 257 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="a3-slashes"),
        pytest.param(b"GET /" + b"a%2f" * 256 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="a3-encoded-slashes"),
        pytest.param(b"GET /" + b"\\" * 8000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="a3-backslashes"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431, id="large-header"),
    ],
)
async def test_malformed_http_is_refused_in_json(stack: Stack, request_bytes: bytes, status: int) -> None:
    """Malformed HTTP gets a JSON error like the services'."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.edge.port)
    writer.write(request_bytes)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(body)["error"] == "invalid_request"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/" + "a" * 8100, id="long"),
        pytest.param("/a" * 256, id="most-segments"),
        pytest.param("/" + "%e4%b8%ad" * 900, id="most-escapes"),
        pytest.param("/a?" + "/" * 8000, id="slashes-in-the-query"),
    ],
)
async def test_a3_a_path_within_the_limits_reaches_the_gateway(stack: Stack, path: str) -> None:
    """A path within the services' limits passes the edge; the query is limited only by the request line."""
    response = await stack.ask("GET", path)
    assert (response["service"], response["path"]) == ("gateway", path)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/my-api/oauth/token", {"error": "temporarily_unavailable"}),
        ("/my-api/orders", {"error": "temporarily_unavailable"}),
        ("/api/apis", {"Status": "Error", "Meta": None}),
    ],
)
async def test_a_service_that_is_down_gets_an_error_in_its_own_format(path: str, body: dict[str, Any]) -> None:
    """If a service is down, the edge responds 502 as an OAuth or management error, retryable and uncacheable."""
    with Edge({name: [free_port()] for name in EVERY_SERVICE}) as edge:
        async with aiohttp.ClientSession() as http, http.post(f"{edge.url}{path}", data={"a": "b"}) as response:
            assert response.status == 502
            assert response.headers["Retry-After"] == "1"
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["X-Request-Id"]
            assert body.items() <= (await response.json()).items()


async def test_an_instance_that_cannot_be_reached_costs_nothing(stack: Stack) -> None:
    """If one instance refuses connections, the request goes to another, so a restart loses none."""
    ports = {name: [echo.port] for name, echo in stack.echoes.items()} | {
        "token": [free_port(), stack.echoes["token"].port]
    }
    with Edge(ports) as edge:
        async with aiohttp.ClientSession() as http:
            for _ in range(10):
                async with http.post(f"{edge.url}/my-api/oauth/token", data={"a": "b"}) as response:
                    assert (await response.json())["service"] == "token"


@pytest.mark.parametrize(
    ("service", "method", "path"),
    [
        ("token", "POST", "/my-api/oauth/token"),
        ("management", "PUT", "/api/apis/oauth/api-1/client-1/rotate"),
        ("gateway", "POST", "/my-api/orders"),
    ],
)
async def test_a_request_that_may_have_taken_effect_is_not_repeated(
    stack: Stack, service: str, method: str, path: str
) -> None:
    """If an instance dies during a request, the edge responds 502 and does not retry elsewhere, because it may have
    taken effect.
    """
    taken: list[bytes] = []

    async def take_and_die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.read(65536))
        writer.transport.abort()

    dying = await asyncio.start_server(take_and_die, "127.0.0.1", 0)
    port = dying.sockets[0].getsockname()[1]
    echo = stack.echoes[service]
    before = len(echo.asked)
    ports = {name: [stack.echoes[name].port] for name in EVERY_SERVICE} | {service: [port, echo.port]}
    with Edge(ports, forwards=False) as edge:
        async with aiohttp.ClientSession() as http:
            statuses = []
            for _ in range(6):
                async with http.request(method, f"{edge.url}{path}", data={"a": "b"}) as response:
                    statuses.append(response.status)
    dying.close()
    await dying.wait_closed()
    assert len(taken) == statuses.count(502) > 0
    assert len(echo.asked) - before == statuses.count(200) == 6 - len(taken)


async def test_the_log_contains_no_secret(stack: Stack) -> None:
    """The access log omits queries, and failures add no line that would quote them."""
    with Edge({name: [stack.echoes[name].port] for name in EVERY_SERVICE} | {"token": [free_port()]}) as edge:
        async with aiohttp.ClientSession() as http:
            for path in ("/my-api/orders?access_token=hush", "/my-api/oauth/token?code=hush"):
                async with http.get(f"{edge.url}{path}", headers={"Referer": "http://x/?code=hush"}) as response:
                    await response.read()
        await eventually(lambda: edge.output.count("\n") >= 2)
        lines = [json.loads(line) for line in edge.output.splitlines()]
    assert [(line["path"], line["status"]) for line in lines] == [("/my-api/orders", 200), ("/my-api/oauth/token", 502)]
    assert "hush" not in json.dumps(lines)


def test_the_stack_finds_every_instance_of_every_service() -> None:
    """Each service is an upstream by name, resolved again regularly, with keep-alive connections."""
    text = (EDGE / "upstreams.conf").read_text()
    assert re.search(r"^resolver 127\.0\.0\.11 valid=1s ", text, re.MULTILINE)
    for name in EVERY_SERVICE:
        (body,) = re.findall(rf"^upstream {name} \{{(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
        assert f"server {name}:8080 resolve max_fails=0;" in body
        assert f"zone {name} " in body
        assert "keepalive_timeout 2s;" in body
