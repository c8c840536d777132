"""The forward-auth examples against /verify: nginx's is run; Traefik's and Envoy's are read."""

import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from contracts.forward_auth import ForwardedCall
from services.operation_catalog import OPERATIONS
from tests.deployment.edge import EDGE, ForwardAuth
from tests.eventually import eventually
from tests.ports import free_port

DOCUMENTED = EDGE.parent / "docs/forward-auth.md"
VERIFY = next(operation for operation in OPERATIONS if operation.name == "verify")
IDENTITY = {name for name in VERIFY.responses[200].headers if name.startswith("X-Tokenwire-")}
"""Identity headers of an admitted call."""
OURS = IDENTITY | {"X-Tokenwire-Refusal"}
OVERRIDES = [
    *("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-Method", "X-Original-URI"),
    *("X-Original-URL", "X-Rewrite-URL", "Proxy"),
    *("X-HTTP-Override", "X-Method", "X-REST-Method", "X-Verb", "Script-Name", "Path-Info"),
]
"""Headers that some servers take as the method or path of the request, or as a proxy to use."""
PREFLIGHT = {"Origin": "https://app.example.test", "Access-Control-Request-Method": "PUT"}
NAMING = sorted(str(header.alias) for header in ForwardedCall.model_fields.values())
"""Headers that name the call that is being checked."""


@dataclass
class Gateway:
    """Responds to /verify as told, and records the requests."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"status":"ok"}'
    asked: list[web.Request] = field(default_factory=list)

    async def response(self, request: web.Request) -> web.Response:
        assert (request.method, request.path_qs, await request.read()) == ("GET", "/verify", b"")
        self.asked.append(request)
        if self.status == 204:
            return web.Response(status=204, headers=self.headers)
        return web.Response(status=self.status, headers=self.headers, text=self.body, content_type="application/json")

    def refuses(self, status: int, error: str, **headers: str) -> None:
        """Respond as the gateway does when it refuses."""
        body = json.dumps({"error": error})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.status, self.body, self.headers = status, f"{body}\n", {"X-Tokenwire-Refusal": body, **named}


@dataclass
class Api:
    """The protected API: returns the request it received, or responds as told."""

    status: int = 200
    reached: list[web.Request] = field(default_factory=list)

    async def response(self, request: web.Request) -> web.Response:
        self.reached.append(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        told = {"line": f"{request.method} {request.raw_path}", "headers": headers, "bytes": len(await request.read())}
        return web.json_response(told, status=self.status)


@dataclass
class Guarded:
    """nginx in front of the API, with the gateway for checks."""

    nginx: ForwardAuth
    gateway: Gateway
    api: Api
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, **more: Any) -> "Said":
        url = URL(f"{self.nginx.url}{path}", encoded=True)
        async with self.http.request(method, url, allow_redirects=False, **more) as response:
            return Said(response.status, CIMultiDict(response.headers), await response.read())


@dataclass
class Said:
    """The response that the caller received."""

    status: int
    headers: CIMultiDict[str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@asynccontextmanager
async def served(response: Any) -> AsyncIterator[int]:
    """The port of a server that handles every request with this."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", response)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Guarded]:
    gateway, api = Gateway(), Api()
    async with (
        served(gateway.response) as gateway_port,
        served(api.response) as api_port,
        aiohttp.ClientSession() as http,
    ):
        with ForwardAuth([gateway_port, gateway_port], api_port) as nginx:
            yield Guarded(nginx, gateway, api, http)


@pytest.fixture
def guarded(running: Guarded) -> Guarded:
    """nginx, gateway and API in their initial state."""
    vars(running.gateway).update(vars(Gateway()))
    vars(running.api).update(vars(Api()))
    return running


# nginx: routing


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/orders/17?a=b&c=%2F", "/orders/%2e%2e/x//y;z", "/orders/a%20b?access_token=x"])
async def test_the_gateway_is_asked_about_what_the_api_gets(guarded: Guarded, method: str, path: str) -> None:
    """The gateway is asked about the exact path, query and method, with the call's own headers."""
    headers = {"Authorization": "Bearer x", "Cookie": "session=y", "X-Api-Token": "z"}
    said = await guarded.call(method, path, headers=headers)
    assert (said.status, said.body["line"]) == (200, f"{method} {path}")
    (question,) = guarded.gateway.asked
    assert question.headers["X-Original-URI"] == path
    assert question.headers["X-Original-Method"] == method
    assert headers.items() <= dict(question.headers).items()


async def test_the_caller_names_no_call_and_no_identity(guarded: Guarded) -> None:
    """The caller cannot set the forward-auth or identity headers, in any spelling, for gateway or API."""
    guarded.gateway.headers = {"X-Tokenwire-Api-Id": "orders"}
    names = [*sorted(OURS), *NAMING]
    spelled = [*names, *(name.lower() for name in names), *(name.replace("-", "_") for name in names)]
    said = await guarded.call("GET", "/orders", headers=[(name, "evil") for name in spelled])
    (question,) = guarded.gateway.asked
    forwarded = {name: question.headers.getall(name, []) for name in ("X-Original-URI", "X-Forwarded-Uri")}
    assert forwarded == {"X-Original-URI": ["/orders"], "X-Forwarded-Uri": []}
    assert question.headers.getall("X-Original-Method") == ["GET"]
    assert "X-Forwarded-Method" not in question.headers
    told = {name: value for name, value in said.body["headers"].items() if "tokenwire" in name}
    assert told == {"x-tokenwire-api-id": "orders"}


async def test_the_api_gets_identity_headers(guarded: Guarded) -> None:
    """The API receives every identity header of an admitted call, and none from the caller."""
    guarded.gateway.headers = {name: f"the {name}" for name in IDENTITY}
    said = await guarded.call("GET", "/orders")
    told = {name: value for name, value in said.body["headers"].items() if name.startswith("x-tokenwire")}
    assert told == {name.lower(): f"the {name}" for name in IDENTITY}
    assert not [name for name in said.headers if name.lower().startswith("x-tokenwire")]


async def test_a13_override_headers_reach_no_api(guarded: Guarded) -> None:
    """Method and path override headers do not reach the API, in any spelling, so it acts on what was checked."""
    names = [spelling for name in OVERRIDES for spelling in (name, name.lower(), name.replace("-", "_"))]
    said = await guarded.call("GET", "/orders", headers=[(name, "DELETE") for name in names])
    assert said.status == 200
    assert "DELETE" not in said.body["headers"].values()


async def test_d7_nginx_passes_the_response_to_a_preflight_on(guarded: Guarded) -> None:
    """nginx returns the gateway's response to a preflight without asking the API; calls with a token are still
    checked.
    """
    allowed = {
        "Access-Control-Allow-Origin": PREFLIGHT["Origin"],
        "Access-Control-Allow-Methods": "PUT",
        "Vary": "Origin",
    }
    guarded.gateway.status, guarded.gateway.headers = 204, allowed
    said = await guarded.call("OPTIONS", "/orders/1?x=/", headers=PREFLIGHT)
    assert (said.status, said.raw) == (204, b"")
    assert allowed.items() <= dict(said.headers).items()
    (question,) = guarded.gateway.asked
    assert (question.headers["X-Original-Method"], question.headers["X-Original-URI"]) == ("OPTIONS", "/orders/1?x=/")
    assert question.headers["Access-Control-Request-Method"] == "PUT"
    assert guarded.api.reached == []
    guarded.gateway.status = 200
    assert (await guarded.call("OPTIONS", "/orders", headers={"Origin": "https://x.test"})).status == 200
    assert len(guarded.api.reached) == 1


async def test_d7_nginx_tells_scripts_what_they_may_read(guarded: Guarded) -> None:
    """nginx adds the gateway's CORS headers to responses and refusals."""
    said = {"Access-Control-Allow-Origin": "https://app.example.test", "Vary": "Origin"}
    guarded.gateway.headers = said
    response = await guarded.call("GET", "/orders", headers=PREFLIGHT)
    assert said.items() <= dict(response.headers).items()
    guarded.gateway.refuses(403, "Key not authorised")
    guarded.gateway.headers |= said
    refused = await guarded.call("GET", "/orders", headers=PREFLIGHT)
    assert refused.status == 403
    assert said.items() <= dict(refused.headers).items()


async def test_d7_a_preflight_without_a_gateway_is_refused(guarded: Guarded) -> None:
    """Without a gateway a preflight gets 503 in JSON."""
    async with served(guarded.api.response) as api:
        with ForwardAuth([free_port()], api) as nginx:
            async with guarded.http.options(f"{nginx.url}/orders", headers=PREFLIGHT) as response:
                assert response.status == 503
                assert set(await response.json()) == {"error"}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_body_goes_to_the_api_only(guarded: Guarded, chunked: bool) -> None:
    """The gateway is asked without the body."""
    said = await guarded.call("POST", "/orders", data=io.BytesIO(b"x" * 500_000), chunked=chunked or None)
    assert (said.status, said.body["bytes"]) == (200, 500_000)
    (call,) = guarded.api.reached
    assert call.headers["Content-Length"] == "500000"


async def test_the_api_s_own_responses_are_left_alone(guarded: Guarded) -> None:
    """The API's own 401, 403 and 500 are passed on, and not mistaken for the gateway's."""
    for status in (401, 403, 404, 500):
        guarded.api.status = status
        said = await guarded.call("GET", "/orders")
        assert (said.status, said.body["line"]) == (status, "GET /orders")


# nginx: refusals


CHALLENGE = 'Bearer realm="tokenwire", error="invalid_token"'


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "Authorization field missing"),
        (401, "Key has expired, please renew"),
        (403, "Key not authorised"),
        (404, "There is no such API"),
        (429, "Rate Limit Exceeded"),
    ],
)
async def test_a_refusal_reaches_the_caller_as_it_is(guarded: Guarded, method: str, status: int, error: str) -> None:
    """The gateway's status, body and challenge reach the caller once each, uncacheable, and the API is not called."""
    guarded.gateway.refuses(status, error, WWW_Authenticate=CHALLENGE)
    said = await guarded.call(method, "/orders", data=b"x" if method == "POST" else None)
    assert (said.status, said.body) == (status, {"error": error})
    assert said.headers.getall("WWW-Authenticate") == [CHALLENGE]
    assert said.headers["Content-Type"] == "application/json"
    assert said.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in said.headers
    assert not [name for name in said.headers if name.lower().startswith("x-tokenwire")]
    assert guarded.api.reached == []


async def test_a_refused_head_has_no_body(guarded: Guarded) -> None:
    """A refused HEAD has no body, and the status that GET would have."""
    guarded.gateway.refuses(403, "Key not authorised", WWW_Authenticate=CHALLENGE)
    said = await guarded.call("HEAD", "/orders")
    assert (said.status, said.raw) == (403, b"")


async def test_a_limit_is_told_as_the_gateway_tells_it(guarded: Guarded) -> None:
    """Rate-limit headers reach the caller, with Retry-After on refusals."""
    left = {"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1800000000"}
    guarded.gateway.refuses(429, "Rate Limit Exceeded", Retry_After="7")
    guarded.gateway.headers |= left
    said = await guarded.call("GET", "/orders")
    assert (said.status, said.headers["Retry-After"]) == (429, "7")
    assert left.items() <= dict(said.headers).items()
    guarded.gateway.status = 200
    said = await guarded.call("GET", "/orders")
    assert said.status == 200
    assert left.items() <= dict(said.headers).items()


async def test_a_refused_question_is_a_refused_call(guarded: Guarded) -> None:
    """If the gateway finds the check itself malformed, the call gets 400."""
    guarded.gateway.status = 400
    said = await guarded.call("GET", "/orders")
    assert (said.status, said.body) == (400, {"error": "the request is malformed"})


@pytest.mark.parametrize("status", [302, 418, 500, 502, 503])
async def test_calls_are_refused_if_the_check_fails(guarded: Guarded, status: int) -> None:
    """If the gateway misbehaves in any way, the call gets 503 with Retry-After."""
    guarded.gateway.status = status
    said = await guarded.call("GET", "/orders")
    assert (said.status, said.headers["Retry-After"]) == (503, "1")
    assert set(said.body) == {"error"}
    assert guarded.api.reached == []


async def test_without_a_gateway_calls_are_refused(guarded: Guarded) -> None:
    """Without any gateway calls get 503; if one of two responds, no call is lost."""
    async with served(guarded.api.response) as api, served(guarded.gateway.response) as gateway:
        with ForwardAuth([free_port()], api) as nginx, ForwardAuth([free_port(), gateway], api) as half:
            async with guarded.http.get(f"{nginx.url}/orders") as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
                assert set(await response.json()) == {"error"}
            assert guarded.api.reached == []
            for _ in range(6):
                async with guarded.http.get(f"{half.url}/orders") as response:
                    assert response.status == 200


async def test_the_question_is_not_for_the_outside(guarded: Guarded) -> None:
    """nginx's internal location for checks returns 404 to callers."""
    for path in ("/.tokenwire/verify", "/%2etokenwire/verify", "//.tokenwire/verify"):
        assert (await guarded.call("GET", path)).status == 404
    assert guarded.gateway.asked == guarded.api.reached == []


async def test_the_log_contains_no_token(guarded: Guarded) -> None:
    """The logs contain no token of admitted or refused calls, and no error line quotes the request."""
    for status in (200, 400, 503):
        guarded.gateway.status = status
        await guarded.call("GET", f"/orders/{status}?access_token=hush")
    await eventually(lambda: "/orders/503" in guarded.nginx.output)
    assert "hush" not in guarded.nginx.output


# Traefik and Envoy


def example(name: str) -> Any:
    return yaml.safe_load((EDGE / "examples" / name).read_text())


def test_traefik_checks_with_verify_and_passes_on_the_headers() -> None:
    """The middleware asks every gateway's /verify, trusts no forwarded header, and replaces all identity headers."""
    dynamic = example("traefik.yaml")["http"]
    router, preflights = (dynamic["routers"][name] for name in ("orders", "preflights"))
    (middleware,) = [dynamic["middlewares"][name] for name in router["middlewares"]]
    auth = middleware["forwardAuth"]
    assert URL(auth["address"]).path == VERIFY.path
    assert auth["trustForwardHeader"] is False
    assert "authRequestHeaders" not in auth, "the token may be in any header"
    assert router["service"] in dynamic["services"]
    # Traefik's semantics: matching headers are removed from the request, then copied from the response.
    pattern = re.compile(auth["authResponseHeadersRegex"])
    spellings = [
        spelling
        for name in OURS | {*OVERRIDES}
        for spelling in (name, name.replace("-", "_"), name.lower(), name.upper())
    ]
    assert all(pattern.search(spelling) for spelling in spellings)
    assert not any(pattern.search(name) for name in ("Authorization", "X-Forwarded-For", "My-X-Tokenwire-Api-Id"))
    # A preflight goes to the gateway itself, like any call.
    assert preflights["service"] in dynamic["services"]
    (before,) = [dynamic["middlewares"][name] for name in preflights["middlewares"]]
    assert f"{before['addPrefix']['prefix']}/{{uri}}" in {operation.path for operation in OPERATIONS}
    assert "Method(`OPTIONS`)" in preflights["rule"]


def test_envoy_checks_the_call_and_passes_on_the_headers() -> None:
    """Envoy checks the call's path below /verify. Callers' X-Tokenwire-* headers are removed before, and the gateway's
    set after.
    """
    (listener,) = example("envoy.yaml")["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    filters = [(each["name"], each["typed_config"]) for each in manager["http_filters"]]
    assert [name.rpartition(".")[2] for name, _ in filters] == ["ext_authz", "router"]
    (_, auth), _ = filters
    (early,) = manager["early_header_mutation_extensions"]
    removed = {step["remove"] for step in early["typed_config"]["mutations"]}
    assert removed >= {name.lower() for name in [*OURS, *OVERRIDES, *NAMING]}
    assert manager["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"
    assert manager["normalize_path"] is manager["merge_slashes"] is True
    service = auth["http_service"]
    assert f"{service['path_prefix']}/{{uri}}" in {operation.path for operation in OPERATIONS}
    assert auth["failure_mode_allow"] is False
    assert "with_request_body" not in auth
    response = service["authorization_response"]
    passed_on = response["allowed_upstream_headers"]["patterns"]
    assert {"prefix": "x-tokenwire-"} in passed_on
    assert all(pattern["exact"] in removed for pattern in passed_on if "exact" in pattern)
    # Envoy passes on any status but 200, so a preflight is answered with 204.
    asked = {pattern["exact"] for pattern in auth["allowed_headers"]["patterns"]}
    assert {"origin", "access-control-request-method", "access-control-request-headers"} <= asked
    for told in ("allowed_client_headers", "allowed_client_headers_on_success"):
        assert {"prefix": "access-control-"} in response[told]["patterns"]


def test_envoy_passes_no_header_that_could_name_another_call() -> None:
    """Headers from which /verify reads the call are not allowed from callers."""
    (listener,) = example("envoy.yaml")["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (auth,) = [each["typed_config"] for each in manager["http_filters"] if each["name"].endswith("ext_authz")]
    patterns = auth["allowed_headers"]["patterns"]
    assert all(set(pattern) == {"exact"} for pattern in patterns)
    assert {name.lower() for name in NAMING}.isdisjoint({pattern["exact"].lower() for pattern in patterns})


def test_envoy_s_clusters_are_those_it_names() -> None:
    """Envoy's cluster points to the gateway, and its time-out exceeds the gateway's own."""
    resources = example("envoy.yaml")["static_resources"]
    clusters = {cluster["name"] for cluster in resources["clusters"]}
    text = (EDGE / "examples/envoy.yaml").read_text()
    assert set(re.findall(r"\bcluster: (\w+)", text)) == clusters


# Documentation


def test_the_page_names_every_header_and_every_example() -> None:
    """docs/forward-auth.md lists exactly the headers in the code, and every example."""
    page = DOCUMENTED.read_text()
    assert set(re.findall(r"X-Tokenwire-[A-Z][A-Za-z-]+", page)) == OURS
    assert all(f"`{name}`" in page for name in NAMING)
    for path in (EDGE / "examples").iterdir():
        assert f"edge/examples/{path.name}" in page
