"""The examples of forward auth: nginx's run for real, Traefik's and Envoy's read, against what /verify says."""

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

from contracts.operations import OPERATIONS, ForwardedCall
from tests.deployment.edge import EDGE, ForwardAuth
from tests.eventually import eventually
from tests.ports import free_port

DOCUMENTED = EDGE.parent / "docs/forward-auth.md"
VERIFY = next(operation for operation in OPERATIONS if operation.name == "verify")
IDENTITY = {name for name in VERIFY.answers[200].headers if name.startswith("X-Tokenwire-")}
"""What an admitted call is told of itself."""
OURS = IDENTITY | {"X-Tokenwire-Refusal"}
NAMING = sorted(str(header.alias) for header in ForwardedCall.model_fields.values())
"""The headers that name the call which is asked about."""


@dataclass
class Gateway:
    """Answers /verify as it is told to, and remembers what it was asked."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"status":"ok"}'
    asked: list[web.Request] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        assert (request.method, request.path_qs, await request.read()) == ("GET", "/verify", b"")
        self.asked.append(request)
        return web.Response(status=self.status, headers=self.headers, text=self.body, content_type="application/json")

    def refuses(self, status: int, error: str, **headers: str) -> None:
        """As the gateway's refusals are."""
        body = json.dumps({"error": error})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.status, self.body, self.headers = status, f"{body}\n", {"X-Tokenwire-Refusal": body, **named}


@dataclass
class Api:
    """The protected API: says what reached it, or answers as it is told to."""

    status: int = 200
    reached: list[web.Request] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.reached.append(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        told = {"line": f"{request.method} {request.raw_path}", "headers": headers, "bytes": len(await request.read())}
        return web.json_response(told, status=self.status)


@dataclass
class Guarded:
    """nginx in front of the API, asking the gateway."""

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
    """What the caller got."""

    status: int
    headers: CIMultiDict[str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@asynccontextmanager
async def served(answer: Any) -> AsyncIterator[int]:
    """The port on which this answers everything."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", answer)
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
        served(gateway.answer) as gateway_port,
        served(api.answer) as api_port,
        aiohttp.ClientSession() as http,
    ):
        with ForwardAuth([gateway_port, gateway_port], api_port) as nginx:
            yield Guarded(nginx, gateway, api, http)


@pytest.fixture
def guarded(running: Guarded) -> Guarded:
    """Everybody as at first."""
    vars(running.gateway).update(vars(Gateway()))
    vars(running.api).update(vars(Api()))
    return running


# nginx: what goes to whom


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/orders/17?a=b&c=%2F", "/orders/%2e%2e/x//y;z", "/orders/a%20b?access_token=x"])
async def test_the_gateway_is_asked_about_what_the_api_gets(guarded: Guarded, method: str, path: str) -> None:
    """Path, query and method as they came, whatever is in them; the call's own headers beside them."""
    headers = {"Authorization": "Bearer x", "Cookie": "session=y", "X-Api-Token": "z"}
    said = await guarded.call(method, path, headers=headers)
    assert (said.status, said.body["line"]) == (200, f"{method} {path}")
    (question,) = guarded.gateway.asked
    assert question.headers["X-Original-URI"] == path
    assert question.headers["X-Original-Method"] == method
    assert headers.items() <= dict(question.headers).items()


async def test_the_caller_names_no_call_and_no_identity(guarded: Guarded) -> None:
    """What it says of either reaches neither the gateway nor the API, in whichever spelling."""
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


async def test_the_api_is_told_whose_call_it_is(guarded: Guarded) -> None:
    """Every header of an admitted call reaches it, and none of them the caller."""
    guarded.gateway.headers = {name: f"the {name}" for name in IDENTITY}
    said = await guarded.call("GET", "/orders")
    told = {name: value for name, value in said.body["headers"].items() if name.startswith("x-tokenwire")}
    assert told == {name.lower(): f"the {name}" for name in IDENTITY}
    assert not [name for name in said.headers if name.lower().startswith("x-tokenwire")]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_body_goes_to_the_api_only(guarded: Guarded, chunked: bool) -> None:
    """The gateway is asked without it."""
    said = await guarded.call("POST", "/orders", data=io.BytesIO(b"x" * 500_000), chunked=chunked or None)
    assert (said.status, said.body["bytes"]) == (200, 500_000)
    (call,) = guarded.api.reached
    assert call.headers["Content-Length"] == "500000"


async def test_the_api_s_own_answers_are_left_alone(guarded: Guarded) -> None:
    """Its 401, 403 and 500 are not taken for refusals of the gateway."""
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
    """Status, body and challenge, once each, never to be stored; and the API hears nothing of the call."""
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
    """And the status that GET would have."""
    guarded.gateway.refuses(403, "Key not authorised", WWW_Authenticate=CHALLENGE)
    said = await guarded.call("HEAD", "/orders")
    assert (said.status, said.raw) == (403, b"")


async def test_a_limit_is_told_as_the_gateway_tells_it(guarded: Guarded) -> None:
    """What is left, and when to come back; on an admitted call what is left."""
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
    """400 without a body to pass on: the gateway found the question itself malformed."""
    guarded.gateway.status = 400
    said = await guarded.call("GET", "/orders")
    assert (said.status, said.body) == (400, {"error": "the request is malformed"})


@pytest.mark.parametrize("status", [302, 413, 500, 502, 503])
async def test_who_cannot_be_checked_is_not_let_through(guarded: Guarded, status: int) -> None:
    """503 and when to come back, whatever is wrong with the gateway."""
    guarded.gateway.status = status
    said = await guarded.call("GET", "/orders")
    assert (said.status, said.headers["Retry-After"]) == (503, "1")
    assert set(said.body) == {"error"}
    assert guarded.api.reached == []


async def test_without_a_gateway_nobody_gets_through(guarded: Guarded) -> None:
    """503; and where one of two answers, nothing is lost."""
    async with served(guarded.api.answer) as api, served(guarded.gateway.answer) as gateway:
        with ForwardAuth([free_port()], api) as nginx, ForwardAuth([free_port(), gateway], api) as half:
            async with guarded.http.get(f"{nginx.url}/orders") as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
                assert set(await response.json()) == {"error"}
            assert guarded.api.reached == []
            for _ in range(6):
                async with guarded.http.get(f"{half.url}/orders") as response:
                    assert response.status == 200


async def test_the_question_is_not_for_the_outside(guarded: Guarded) -> None:
    """Who asks for nginx's own location gets 404."""
    for path in ("/.tokenwire/verify", "/%2etokenwire/verify", "//.tokenwire/verify"):
        assert (await guarded.call("GET", path)).status == 404
    assert guarded.gateway.asked == guarded.api.reached == []


async def test_the_log_tells_no_token(guarded: Guarded) -> None:
    """Neither of an admitted call nor of a refused one, and no complaint quotes the request."""
    for status in (200, 400, 503):
        guarded.gateway.status = status
        await guarded.call("GET", f"/orders/{status}?access_token=hush")
    await eventually(lambda: "/orders/503" in guarded.nginx.output)
    assert "hush" not in guarded.nginx.output


# Traefik and Envoy


def example(name: str) -> Any:
    return yaml.safe_load((EDGE / "examples" / name).read_text())


def test_traefik_asks_verify_and_hands_on_what_it_says() -> None:
    """The middleware asks every gateway's /verify, believes no header of the caller's, and replaces every of ours."""
    dynamic = example("traefik.yaml")["http"]
    (router,) = dynamic["routers"].values()
    (middleware,) = [dynamic["middlewares"][name] for name in router["middlewares"]]
    auth = middleware["forwardAuth"]
    assert URL(auth["address"]).path == VERIFY.path
    assert auth["trustForwardHeader"] is False
    assert "authRequestHeaders" not in auth, "the token may be in any header"
    assert router["service"] in dynamic["services"]
    # As Traefik does it: what matches is taken from the caller's headers, then from the answer's.
    pattern = re.compile(auth["authResponseHeadersRegex"])
    spellings = [spelling for name in OURS for spelling in (name, name.replace("-", "_"), name.lower(), name.upper())]
    assert all(pattern.search(spelling) for spelling in spellings)
    assert not any(pattern.search(name) for name in ("Authorization", "X-Forwarded-For", "My-X-Tokenwire-Api-Id"))


def test_envoy_asks_about_the_call_itself_and_hands_on_what_it_says() -> None:
    """The call's path below /verify; X-Tokenwire-* of a caller's are gone before, and only the gateway's come after."""
    (listener,) = example("envoy.yaml")["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    filters = [(each["name"], each["typed_config"]) for each in manager["http_filters"]]
    assert [name.rpartition(".")[2] for name, _ in filters] == ["ext_authz", "router"]
    (_, auth), _ = filters
    (early,) = manager["early_header_mutation_extensions"]
    removed = {step["remove"] for step in early["typed_config"]["mutations"]}
    assert removed == {name.lower() for name in OURS}
    assert manager["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"
    assert manager["normalize_path"] is manager["merge_slashes"] is True
    service = auth["http_service"]
    assert f"{service['path_prefix']}/{{uri}}" in {operation.path for operation in OPERATIONS}
    assert auth["failure_mode_allow"] is False
    assert "with_request_body" not in auth
    response = service["authorization_response"]
    assert response["allowed_upstream_headers"]["patterns"] == [{"prefix": "x-tokenwire-"}]


def test_envoy_passes_no_header_that_could_name_another_call() -> None:
    """Those that /verify reads the call from are not among what the caller may say."""
    (listener,) = example("envoy.yaml")["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (auth,) = [each["typed_config"] for each in manager["http_filters"] if each["name"].endswith("ext_authz")]
    patterns = auth["allowed_headers"]["patterns"]
    assert all(set(pattern) == {"exact"} for pattern in patterns)
    assert {name.lower() for name in NAMING}.isdisjoint({pattern["exact"].lower() for pattern in patterns})


def test_envoy_s_clusters_are_those_it_names() -> None:
    """The gateway is asked where it is, with time enough for its own limits."""
    resources = example("envoy.yaml")["static_resources"]
    clusters = {cluster["name"] for cluster in resources["clusters"]}
    text = (EDGE / "examples/envoy.yaml").read_text()
    assert set(re.findall(r"\bcluster: (\w+)", text)) == clusters


# The page


def test_the_page_names_every_header_and_every_example() -> None:
    """docs/forward-auth.md is a table of what the code says, not of what it once said."""
    page = DOCUMENTED.read_text()
    assert set(re.findall(r"X-Tokenwire-[A-Z][A-Za-z-]+", page)) == OURS
    assert all(f"`{name}`" in page for name in NAMING)
    for path in (EDGE / "examples").iterdir():
        assert f"edge/examples/{path.name}" in page
