"""Routing: which handler answers a path, at a bounded cost."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from libs.bus.local import LocalBus
from libs.http.operations import add_operations
from libs.http.routing import MAX_PATH, MAX_SEGMENTS, PathTooLong, Router, TooManySegments, check_path
from libs.runtime import new_deps
from libs.settings import Settings
from services.gateway.paths import leads_out, readings
from tests.builders import NOTIFIER_PUBLIC_KEY, settings
from tests.services.system import INSTALLED

PATHS = [
    "/a/oauth/token", "/a/b/oauth/token/", "//oauth/token", "/a//oauth/token", "/a/oauth/token//",
    "/a%2Fb/oauth/token", "/a%252Fb/oauth/token", "/a%0Ab/oauth/token", "/%E4%B8%AD/oauth/authorize", "/a/oauth/tokens",
    "/oauth/token/oauth/token", "/api/apis/oauth/token", "/api/x/oauth/token", "/verify/a/oauth/token", "/verify",
    "/a/tyk/oauth/authorize-client", "/a/tyk/rate-limits", "/oauth/introspect/", "/healthz", "/healthz/", "/", "//",
    "/api/apis/oauth/client/tokens", "/api/apis/oauth/api/client/tokens/", "/api/apis/oauth/api/client/rotate",
    "/api/apis/keys/basic/someone%2Felse", "/.well-known/oauth-authorization-server/a/b/", "/.well-known/x",
    "/api/apis/oauth/x/authorize-client", "/api", "/api/", "/a/b/c/d/e/f/g/h", "/a/oauth/revoke_all",
    "/a/" + "b/" * 200,
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"]


class Request:
    """The part of a request that routing needs."""

    def __init__(self, method: str, path: str) -> None:
        self.method = method
        self.headers: dict[str, str] = {}
        self.rel_url = URL.build(path=path, encoded=True)


async def found(router: web.UrlDispatcher, method: str, path: str) -> Any:
    """The route with its variables, or the error."""
    match = await router.resolve(Request(method, path))  # type: ignore[arg-type]
    if match.http_exception is not None:
        return match.http_exception.status, match.http_exception.headers.get("Allow")
    assert match.route.resource is not None
    return match.route.method, match.route.resource.canonical, dict(match)


def every_route(router: web.UrlDispatcher) -> web.UrlDispatcher:
    """The router with the routes of all services."""
    values = {"notifier_public_key": NOTIFIER_PUBLIC_KEY}

    def load(kind: type[Any]) -> Any:
        own = {name: value for name, value in values.items() if name in kind.model_fields}
        return settings(kind, "mongodb://127.0.0.1:1/", "routes", **own)

    app = web.Application()
    app._router = router
    deps = new_deps(load(Settings), "routes", bus=LocalBus())
    add_operations(app, deps.health)
    for install in INSTALLED.values():
        install(app, load, deps)
    return router


@pytest.fixture(scope="module")
def router() -> web.UrlDispatcher:
    return every_route(Router())


async def test_c9_an_api_at_the_root_has_oauth_endpoints(router: web.UrlDispatcher) -> None:
    """`/oauth/token` is the token endpoint of the API with the listen path `/`; aiohttp finds none."""
    for path in ("/oauth/token", "/oauth/token/"):
        method, canonical, variables = await found(router, "POST", path)
        assert (method, canonical.rstrip("/"), variables) == ("POST", "/{api_ref}/oauth/token", {"api_ref": ""})
    assert (await found(router, "GET", "/oauth/token"))[0] == 405


async def test_every_path_is_answered_as_by_the_dispatcher_of_aiohttp(router: web.UrlDispatcher) -> None:
    """The result is that of aiohttp's dispatcher for every path."""
    theirs = every_route(web.UrlDispatcher())
    for path in PATHS:
        for method in METHODS:
            assert await found(router, method, path) == await found(theirs, method, path), (method, path)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/" + "a" * (MAX_PATH - 1), 200, id="longest"),
        pytest.param("/" + "a" * MAX_PATH, 414, id="too-long"),
        pytest.param("/a" * MAX_SEGMENTS, 200, id="most-segments"),
        pytest.param("/" * (MAX_SEGMENTS + 1), 400, id="slashes"),
        pytest.param("/a/oauth/token" + "/" * MAX_SEGMENTS, 400, id="slashes-at-the-end"),
        pytest.param("/" + "\\" * MAX_SEGMENTS, 400, id="backslashes"),
        pytest.param("/" + "%2F" * MAX_SEGMENTS, 400, id="encoded"),
        pytest.param("/" + "%5c" * MAX_SEGMENTS, 400, id="encoded-backslashes"),
        pytest.param("/" + "%25252f" * MAX_SEGMENTS, 400, id="encoded-repeatedly"),
        pytest.param("/" + "%2%2f" * MAX_SEGMENTS, 400, id="beside-broken-escapes"),
        pytest.param("/" + "%2541" * (MAX_SEGMENTS + 1), 400, id="encoded-percent-signs"),
        pytest.param("/" + "%zz" * (MAX_SEGMENTS + 1), 400, id="stray-percent-signs"),
        pytest.param("/" + "%20" * 1025, 400, id="escapes"),
        pytest.param("/" + "%20" * 1024, 200, id="escapes-that-end-no-segment"),
    ],
)
async def test_a3_a_path_over_the_limits_is_refused_before_it_is_routed(
    router: web.UrlDispatcher, path: str, status: int
) -> None:
    """An oversized path gets 414, one with too many segments 400, however spelled."""
    match = await router.resolve(Request("GET", path))  # type: ignore[arg-type]
    refused = match.http_exception.status if match.http_exception else 200
    assert refused == status
    refusals: dict[int, type[Exception]] = {414: PathTooLong, 400: TooManySegments}
    expected = refusals.get(status)
    if expected:
        with pytest.raises(expected):
            check_path(path)


def steps(act: Callable[[], object]) -> int:
    """Number of Python and C calls made by the function."""
    counted = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return counted


def resolved(router: web.UrlDispatcher, path: str) -> None:
    """Route a request for the path."""
    try:
        router.resolve(Request("GET", path)).send(None)  # type: ignore[arg-type]
    except StopIteration:
        return
    raise AssertionError("routing waited for something")


@pytest.mark.parametrize("unit", ["/", "/a", "/a%61", "/.."])
def test_a3_the_work_of_routing_does_not_grow_with_the_segments(router: web.UrlDispatcher, unit: str) -> None:
    """240 segments take as many steps as 24; a dispatcher that looks up every prefix takes ten times as many."""
    resolved(router, "/warm/up")
    few, many = (steps(partial(resolved, router, "/x" + unit * n)) for n in (24, 240))
    assert many <= 1.5 * few


LONGEST = {
    "segments": "/" + "a" * 31,
    "dots": "/../" + "a." * 14,
    "parameters": "/..;" + "x;" * 14,
    "encoded": "%2f" + "%61" * 7,
    "encoded-twice": "%252f..;x" + "%61" * 6,
    "backslashes": "\\..\\" + "%2e" * 8,
}


@pytest.mark.parametrize("times", [15, 30, 60, 120])
@pytest.mark.parametrize("unit", LONGEST.values(), ids=list(LONGEST))
def test_a3_the_work_of_reading_a_path_is_bounded(unit: str, times: int) -> None:
    """The cost of normalising any path up to the longest is bounded."""
    path = "/x" + unit * times
    check_path(path)
    assert steps(lambda: (readings(path), leads_out(path))) < 64 * MAX_SEGMENTS
