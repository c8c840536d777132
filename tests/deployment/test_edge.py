"""The edge: which path reaches which service, what it tells them, and what it says when one does not answer."""

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
from tests.deployment.wiring import SERVICES, wired
from tests.eventually import eventually
from tests.ports import free_port


@dataclass
class Echo:
    """A service that says who it is and what it was asked, or does what a test needs."""

    name: str
    asked: list[str] = field(default_factory=list)
    port: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
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
    """The edge in front of six echoes."""

    edge: Edge
    echoes: dict[str, Echo]
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        """What the service that was reached says."""
        async with self.http.request(method, URL(f"{self.edge.url}{path}", encoded=True), **more) as response:
            assert response.status == 200, await response.text()
            return await response.json()


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[Stack]:
    echoes = {name: Echo(name) for name in SERVICES}
    runners = []
    for echo in echoes.values():
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", echo.answer)
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
    ("authorization", "GET", "/my-api/oauth/authorize"),
    ("authorization", "POST", "/a/deep/path/oauth/authorize"),
    ("authorization", "POST", "/my-api/tyk/oauth/authorize-client"),
    ("authorization", "POST", "/api/apis/oauth/b84fe1a04e5648927971c0557971565c/authorize-client"),
    ("authorization", "POST", "/api/apis/b84fe1a04e5648927971c0557971565c/authorize-client"),
    ("authorization", "GET", "/.well-known/oauth-authorization-server/my-api"),
    ("authorization", "GET", "/.well-known/oauth-authorization-server"),
    ("token", "POST", "/my-api/oauth/token"),
    ("token", "POST", "/b84fe1a04e5648927971c0557971565c/oauth/token"),
    ("token", "POST", "/oauth/token"),
    ("revocation", "POST", "/my-api/oauth/revoke"),
    ("revocation", "POST", "/my-api/oauth/revoke_all"),
    ("revocation", "POST", "/api/apis/oauth/client-1/revoke"),
    ("revocation", "POST", "/api/apis/oauth/client-1/revoke_all"),
    ("revocation", "GET", "/api/apis/oauth/api-1/client-1/tokens"),
    ("revocation", "GET", "/api/apis/oauth/client-1/tokens"),
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
    """Each path goes to the service that answers it, with and without a trailing slash, and arrives unchanged."""
    asked = f"{path.removesuffix('/')}{slash}" or "/"
    answer = await stack.ask(method, f"{asked}?state=%2Fx")
    assert (answer["service"], answer["path"]) == (service, f"{asked}?state=%2Fx")


@pytest.mark.parametrize("service", SERVICES)
async def test_every_route_of_a_service_is_reachable(stack: Stack, service: str) -> None:
    """What a service answers is what the edge brings to it; a route that is added cannot be forgotten here."""
    routes = {
        (route.method, re.sub(r"\{[^}]+\}", "some", route.resource.canonical))
        for route in wired(service).app.router.routes()
        if route.resource is not None and route.method not in {"*", "HEAD"}
    }
    public = {(method, path) for method, path in routes if path.rstrip("/") not in {"/healthz", "/readyz", "/metrics"}}
    assert public
    for method, path in sorted(public - {("GET", "/api/events/stream"), ("GET", "/api/events/stream/")}):
        answer = await stack.ask(method, path)
        assert answer["service"] == service, f"{method} {path}"


@pytest.mark.parametrize("path", ["/healthz", "/readyz/", "/metrics", "/%6detrics", "//metrics", "/x/../readyz"])
async def test_operations_are_not_for_the_outside(stack: Stack, path: str) -> None:
    """Health and metrics are answered inside only, however the path is spelt."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.edge.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 404 ")


async def test_what_a_client_says_of_itself_is_not_believed(stack: Stack) -> None:
    """Addresses, scheme and the request asked about come from the edge, not from headers of the outside."""
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
    """/verify is asked by proxies elsewhere: the request they ask about reaches the gateway as they name it."""
    subject = {"X-Forwarded-Uri": "/my-api/x", "X-Forwarded-Method": "PUT", "X-Forwarded-Host": "api.example"}
    headers = (await stack.ask("GET", "/verify", headers={**subject, "X-Forwarded-For": "10.1.1.1"}))["headers"]
    assert {name.lower(): value for name, value in subject.items()}.items() <= headers.items()
    assert headers["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("order-4711.a_b", True), ("short", False), ("x" * 65, False), ('quote"and more', False), (None, False)],
)
async def test_a_request_has_one_id(stack: Stack, given: str | None, kept: bool) -> None:
    """The caller's id if it is well formed, else a new one; service and caller see the same."""
    headers = {} if given is None else {"X-Request-Id": given}
    async with stack.http.get(f"{stack.edge.url}/my-api/x", headers=headers) as response:
        seen = (await response.json())["headers"]["x-request-id"]
        assert response.headers.getall("X-Request-Id") == [seen]
    assert (seen == given) is kept
    assert re.fullmatch(r"[A-Za-z0-9._-]{8,64}", seen)


async def test_nothing_tells_what_the_edge_is_made_of(stack: Stack) -> None:
    """No name in an answer of a service's; no version in those of the edge itself."""
    async with (
        stack.http.get(f"{stack.edge.url}/my-api/x") as answered,
        stack.http.get(f"{stack.edge.url}/metrics") as refused,
    ):
        assert answered.headers.getall("Server") == [""]
        assert not re.search(r"\d", refused.headers["Server"])


@pytest.mark.parametrize("path", ["/api/events/stream", "/my-api/stream"])
async def test_events_are_streamed_as_they_come(stack: Stack, path: str) -> None:
    """Server-sent events are not held back until a buffer is full, ours nor an upstream's."""
    async with asyncio.timeout(5), stack.http.get(f"{stack.edge.url}{path}") as response:
        assert await response.content.readline() == b"data: first\n"


async def test_a_protected_api_takes_large_bodies_and_websockets(stack: Stack) -> None:
    """The way to the gateway has no size limit of its own, and lets connections be upgraded."""
    assert (await stack.ask("POST", "/my-api/upload", data=io.BytesIO(b"x" * 8_000_000)))["bytes"] == 8_000_000
    async with stack.http.ws_connect(f"{stack.edge.url}/my-api/talk") as talk:
        await talk.send_str("hello")
        assert await talk.receive_str() == "gateway heard hello"


@pytest.mark.parametrize(
    ("path", "size", "service"),
    [("/my-api/oauth/token", 200_000, "token"), ("/api/apis/oas", 2_500_000, "management")],
)
async def test_a_service_refuses_large_bodies_itself(stack: Stack, path: str, size: int, service: str) -> None:
    """The edge's limits lie above the services', whose refusals say more."""
    answer = await stack.ask("POST", path, data=io.BytesIO(b"x" * size))
    assert (answer["service"], answer["bytes"]) == (service, size)


async def test_bodies_beyond_all_measure_stop_at_the_edge(stack: Stack) -> None:
    """413 in the shape that the service's refusals have."""
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
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431, id="large-header"),
    ],
)
async def test_what_is_not_http_is_refused_in_json(stack: Stack, request_bytes: bytes, status: int) -> None:
    """What never reaches a service is answered in the same shape as what does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.edge.port)
    writer.write(request_bytes)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(body)["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/my-api/oauth/token", {"error": "temporarily_unavailable"}),
        ("/my-api/orders", {"error": "temporarily_unavailable"}),
        ("/api/apis", {"Status": "Error", "Meta": None}),
    ],
)
async def test_a_service_that_is_away_is_said_in_its_own_shape(path: str, body: dict[str, Any]) -> None:
    """502, to be tried again, as OAuth error or in the management envelope, and never cached."""
    with Edge({name: [free_port()] for name in SERVICES}) as edge:
        async with aiohttp.ClientSession() as http, http.post(f"{edge.url}{path}", data={"a": "b"}) as response:
            assert response.status == 502
            assert response.headers["Retry-After"] == "1"
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["X-Request-Id"]
            assert body.items() <= (await response.json()).items()


async def test_an_instance_that_cannot_be_reached_costs_nothing(stack: Stack) -> None:
    """A request goes to another instance when the first cannot be connected to: a restart loses none."""
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
async def test_what_may_have_been_done_is_never_repeated(stack: Stack, service: str, method: str, path: str) -> None:
    """An instance that dies with the request in its hands may have done it: 502, and no other instance is asked."""
    taken: list[bytes] = []

    async def take_and_die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.read(65536))
        writer.transport.abort()

    dying = await asyncio.start_server(take_and_die, "127.0.0.1", 0)
    port = dying.sockets[0].getsockname()[1]
    echo = stack.echoes[service]
    before = len(echo.asked)
    with Edge({name: [stack.echoes[name].port] for name in SERVICES} | {service: [port, echo.port]}) as edge:
        async with aiohttp.ClientSession() as http:
            statuses = []
            for _ in range(6):
                async with http.request(method, f"{edge.url}{path}", data={"a": "b"}) as response:
                    statuses.append(response.status)
    dying.close()
    await dying.wait_closed()
    assert len(taken) == statuses.count(502) > 0
    assert len(echo.asked) - before == statuses.count(200) == 6 - len(taken)


async def test_the_log_tells_no_secret(stack: Stack) -> None:
    """An access line has the path without its query; a failure writes no line of its own that would quote it."""
    with Edge({name: [stack.echoes[name].port] for name in SERVICES} | {"token": [free_port()]}) as edge:
        async with aiohttp.ClientSession() as http:
            for path in ("/my-api/orders?access_token=hush", "/my-api/oauth/token?code=hush"):
                async with http.get(f"{edge.url}{path}", headers={"Referer": "http://x/?code=hush"}) as response:
                    await response.read()
        await eventually(lambda: edge.output.count("\n") >= 2)
        lines = [json.loads(line) for line in edge.output.splitlines()]
    assert [(line["path"], line["status"]) for line in lines] == [("/my-api/orders", 200), ("/my-api/oauth/token", 502)]
    assert "hush" not in json.dumps(lines)


def test_the_stack_finds_every_instance_of_every_service() -> None:
    """Each service is an upstream by its name that Docker's resolver is asked for again and again, and kept alive."""
    text = (EDGE / "upstreams.conf").read_text()
    assert re.search(r"^resolver 127\.0\.0\.11 valid=1s ", text, re.MULTILINE)
    for name in SERVICES:
        (body,) = re.findall(rf"^upstream {name} \{{(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
        assert f"server {name}:8080 resolve max_fails=0;" in body
        assert f"zone {name} " in body
        assert "keepalive_timeout 2s;" in body
