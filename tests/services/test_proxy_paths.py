"""The upstream's path: its base path followed by what comes after the listen path, byte for byte."""

from collections.abc import AsyncIterator

import pytest

from tests.builders import unique
from tests.services.system import System, keyless
from tests.services.upstreams import Protected, Upstream, protected, upstream

STRIP = "x-tyk-api-gateway__server__listenPath__strip"
PLACE = "x-tyk-api-gateway__server__listenPath__value"


@pytest.fixture(name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


@pytest.mark.parametrize(
    ("base", "path", "target"),
    [
        pytest.param("", "/", "/", id="nothing"),
        pytest.param("", "", "/", id="without-a-slash"),
        pytest.param("/", "/x", "/x", id="slash"),
        pytest.param("/base", "/x", "/base/x", id="base"),
        pytest.param("/base/", "/x", "/base/x", id="base-with-a-slash"),
        pytest.param("/base/", "", "/base/", id="base-alone"),
        pytest.param("/base", "", "/base", id="base-alone-without-a-slash"),
        pytest.param("/base", "/", "/base/", id="base-and-slash"),
        pytest.param("/base?own=1", "/x", "/base/x?own=1", id="own-query"),
        pytest.param("/base?own=%20", "/x?a=%2F&b", "/base/x?own=%20&a=%2F&b", id="both-queries"),
        pytest.param("", "/a%2Fb%20c%C3%A9/%7e~", "/a%2Fb%20c%C3%A9/%7e~", id="encoding-untouched"),
        pytest.param(
            "", "/a%zz", "/a%zz", id="no-encoding", marks=pytest.mark.built_in_only("nginx refuses such a path, 400")
        ),
        pytest.param("", "/a//b/", "/a//b/", id="empty-segment"),
        pytest.param("", "/a/./b/../c", "/a/./b/../c", id="dots-below"),
        pytest.param("", "/x;v=1/y=2,3@:!$&'()*+", "/x;v=1/y=2,3@:!$&'()*+", id="punctuation"),
        pytest.param("", '/x"<>`^|{}\\', '/x"<>`^|{}\\', id="what-should-be-encoded"),
        pytest.param("", "/x?a=1&a=2&&b==&%zz=+%2B", "/x?a=1&a=2&&b==&%zz=+%2B", id="query-untouched"),
        pytest.param("", "/x?y=/../..//?z", "/x?y=/../..//?z", id="path-in-the-query"),
        pytest.param("", "/x?" + "y" * 12_000, "/x?" + "y" * 12_000, id="long"),
    ],
)
@pytest.mark.parametrize("by", ["listen path", "id"])
async def test_the_rest_of_the_path_is_forwarded_byte_for_byte(
    system: System, behind: Upstream, by: str, base: str, path: str, target: str
) -> None:
    """The listen path (or the API's id) is stripped and the rest is unchanged."""
    api = await protected(system, behind.url + base)
    place = api.party.api.listen_path if by == "listen path" else f"/{api.party.api.api_id}/"
    below = Protected(_Placed(api, place), api.token)  # type: ignore[arg-type]
    response = await below.raw("GET", path)
    assert response.startswith(b"HTTP/1.1 200 "), response
    assert behind.latest.target == target


class _Placed:
    """A party whose paths begin right after the listen path."""

    def __init__(self, api: Protected, place: str) -> None:
        self.system = api.party.system
        self._place = place.rstrip("/")

    def at(self, path: str) -> str:
        return self._place + path


async def test_the_listen_path_stays_where_it_is_not_stripped(system: System, behind: Upstream) -> None:
    """With `strip: false` the listen path stays."""
    api = await protected(system, f"{behind.url}/base", **{STRIP: False})
    assert (await api("GET", "x/y?z=1")).status == 200
    assert behind.latest.target == f"/base{api.at('x/y?z=1')}"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("../{}/x", id="back-by-name"),
        pytest.param("..%2f{}%2fx", id="encoded"),
        pytest.param("%2e%2e/{}/x", id="encoded-dots"),
        pytest.param("x/../../{}/y", id="deeper"),
        pytest.param("x//../../{}/y", id="over-an-empty-segment"),
        pytest.param("..;v/{}/x", id="parameter"),
        pytest.param("..\\{}\\x", id="backslash"),
    ],
)
@pytest.mark.parametrize("strip", [True, False])
async def test_no_path_climbs_out_of_the_upstream_s_own(
    system: System, behind: Upstream, path: str, strip: bool
) -> None:
    """Paths that could leave the upstream's base path are refused: `/b/../b/x` stays below `/a/` here, but not
    there.
    """
    name = unique("inner")
    changes = {STRIP: strip, PLACE: f"/{unique('outer')}/{name}/"}
    api = await protected(system, f"{behind.url}/base", **changes)
    path = path.replace("{}", name)
    response = await api.raw("GET", path)
    if strip:
        assert response.startswith(b"HTTP/1.1 400 "), response
        assert b'"error":' in response
        assert behind.asked == []
    else:
        assert response.startswith(b"HTTP/1.1 200 "), response
        assert behind.latest.target == "/base" + api.at(path)


@pytest.mark.parametrize("path", ["/../..", "/../../../{}", "/x/../../../../{}/x"])
async def test_nor_does_one_by_way_of_the_root(system: System, behind: Upstream, path: str) -> None:
    """The same for more `..` than segments, which servers resolve differently."""
    api = await protected(system, f"{behind.url}/base", **{STRIP: False})
    response = await api.raw("GET", path[1:].replace("{}", api.party.api.listen_path.strip("/")))
    assert response.startswith(b"HTTP/1.1 400 "), response
    assert behind.asked == []


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param("http://elsewhere.example<path>x?y", 200, id="absolute"),
        pytest.param("<path>x#fragment", 400, id="fragment"),
        pytest.param("*", 404, id="asterisk", marks=pytest.mark.built_in_only("nginx refuses it itself, with 400")),
    ],
)
async def test_the_target_of_a_request_has_several_forms(
    system: System, behind: Upstream, target: str, status: int
) -> None:
    """RFC 9112 §3.2: the absolute form is accepted; other forms are refused."""
    api = await protected(system, behind.url)
    written = target.replace("<path>", api.party.api.listen_path)
    head = api.head("OPTIONS", "", "Connection: close").replace(api.at("").encode(), written.encode(), 1)
    async with api.connection() as (reader, writer):
        writer.write(head)
        assert (await reader.read()).startswith(f"HTTP/1.1 {status} ".encode())
    assert [asked.target for asked in behind.asked] == (["/x?y"] if status == 200 else [])


async def test_connect_is_refused(system: System, behind: Upstream) -> None:
    """CONNECT is refused (RFC 9110 §9.3.6)."""
    api = await protected(system, behind.url)
    for target in (f"127.0.0.1:{behind.port}", api.at("x")):
        async with api.connection() as (reader, writer):
            writer.write(api.head("CONNECT", "", "Connection: close").replace(api.at("").encode(), target.encode(), 1))
            assert (await reader.read()).split(b" ")[1] in {b"400", b"404", b"405"}
    assert behind.connections == 0


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "MKCOL", "REPORT", "PURGE", "QUERY"]
)
async def test_every_method_is_forwarded(system: System, behind: Upstream, method: str) -> None:
    """Every method passes, with its body."""
    bodies: list[bytes] = []

    async def response(asked: object) -> None:
        bodies.append(await behind.latest.body())
        await behind.latest.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    behind.answering = response
    api = await protected(system, behind.url)
    assert (await api.raw(method, "x", "Content-Length: 4", body=b"body")).startswith(b"HTTP/1.1 204 ")
    assert (await api.raw(method, "x")).startswith(b"HTTP/1.1 204 ")
    assert [asked.method for asked in behind.asked] == [method] * 2
    assert bodies == [b"body", b""]


# Tokenwire's own paths


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param(
            "POST", "/healthz", 405, id="operations", marks=pytest.mark.built_in_only("not available at the edge: 404")
        ),
        pytest.param("GET", "/api/nothing", 404, id="management"),
        pytest.param("PUT", "/api/apis", 405, id="management-method"),
        pytest.param("GET", "/hello", 404, id="reserved"),
        pytest.param("GET", "/tyk/keys", 404, id="reserved-below"),
        pytest.param("GET", "/oauth/nothing", 404, id="oauth"),
        pytest.param("POST", "/verify", 405, id="verify"),
        pytest.param("GET", "<path>oauth/token", 405, id="token"),
        pytest.param("GET", "<path>oauth/token/", 405, id="token-slash"),
        pytest.param("DELETE", "<path>oauth/authorize", 405, id="authorize"),
        pytest.param("PUT", "<path>oauth/revoke_all", 405, id="revoke"),
        pytest.param("GET", "<path>tyk/oauth/authorize-client", 405, id="code"),
    ],
)
async def test_the_way_through_hides_nothing_of_tokenwire_s_own(
    system: System, behind: Upstream, method: str, path: str, status: int
) -> None:
    """Paths of services and operators are never forwarded to an upstream."""
    api = await protected(system, behind.url)
    headers = api.bearer
    response = await system.call(method, path.replace("<path>", api.party.api.listen_path), headers=headers)
    assert response.status == status
    assert behind.asked == []


@pytest.mark.parametrize("path", ["oauth/token/17", "oauth", "oauth/introspect", "verify", "healthz", "api/apis"])
async def test_similar_paths_belong_to_the_upstream(system: System, behind: Upstream, path: str) -> None:
    """Below a listen path only the OAuth endpoints are Tokenwire's."""
    api = await protected(system, behind.url)
    assert (await api("GET", path)).status == 200
    assert behind.latest.target == f"/{path}"


async def test_an_api_without_tokens_is_open(system: System, behind: Upstream) -> None:
    """A keyless API forwards `Authorization` unchanged and sets no identity."""
    definition = keyless()
    definition["x-tyk-api-gateway"]["upstream"]["url"] = behind.url
    party = await system.party(definition)
    response = await system.call("GET", party.at("x"), headers={"Authorization": "Basic eDp5"})
    assert response.status == 200
    assert behind.latest.one("Authorization") == "Basic eDp5"
    assert behind.latest.one("X-Tokenwire-Api-Id") == party.api.api_id
    assert behind.latest.all("X-Tokenwire-Client-Id") == []


async def test_an_edited_upstream_is_asked_at_once(system: System, behind: Upstream) -> None:
    """An edited upstream URL applies at once."""
    api = await protected(system, "http://127.0.0.1:1/")
    assert (await api("GET", "x")).status == 502
    before = api.party.api
    ctx = system.deps.event_context("tests")
    after = before.model_copy(update={"upstream_url": behind.url})
    assert await system.deps.store.apis.replace(before, after, ctx)
    assert (await api("GET", "x")).status == 200


async def test_where_no_api_is_is_404(system: System) -> None:
    """An unknown path gets the gateway's 404."""
    response = await system.call("GET", "/nothing-here/x")
    assert (response.status, response.body) == (404, {"error": "There is no such API"})
