"""Where a call goes: the path and query below the listen path, as they came, after the upstream's own."""

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
        pytest.param("", "/a%2Fb%20c%C3%A9%zz/%7e~", "/a%2Fb%20c%C3%A9%zz/%7e~", id="encoding-untouched"),
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
async def test_the_rest_of_the_path_goes_on_byte_for_byte(
    system: System, behind: Upstream, by: str, base: str, path: str, target: str
) -> None:
    """The listen path is stripped, or the API's id where the call names it by that (product.md section 2)."""
    api = await protected(system, behind.url + base)
    place = api.party.api.listen_path if by == "listen path" else f"/{api.party.api.api_id}/"
    below = Protected(_Placed(api, place), api.token)  # type: ignore[arg-type]
    answer = await below.raw("GET", path)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert behind.latest.target == target


class _Placed:
    """A party whose paths begin right after the place."""

    def __init__(self, api: Protected, place: str) -> None:
        self.system = api.party.system
        self._place = place.rstrip("/")

    def at(self, path: str) -> str:
        return self._place + path


async def test_the_listen_path_stays_where_it_is_not_stripped(system: System, behind: Upstream) -> None:
    """`strip: false`: an upstream that knows its own public path."""
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
    """`/a/b/../b/x` is under `/a/b/` for everybody; behind the base path of an upstream it would be above it."""
    name = unique("inner")
    changes = {STRIP: strip, PLACE: f"/{unique('outer')}/{name}/"}
    api = await protected(system, f"{behind.url}/base", **changes)
    path = path.replace("{}", name)
    answer = await api.raw("GET", path)
    if strip:
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert b'"error":' in answer
        assert behind.asked == []
    else:
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert behind.latest.target == "/base" + api.at(path)


@pytest.mark.parametrize("path", ["/../..", "/../../../{}", "/x/../../../../{}/x"])
async def test_nor_does_one_by_way_of_the_root(system: System, behind: Upstream, path: str) -> None:
    """More dots than there are segments lead to the root and not further for some, and out for others."""
    api = await protected(system, f"{behind.url}/base", **{STRIP: False})
    answer = await api.raw("GET", path[1:].replace("{}", api.party.api.listen_path.strip("/")))
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert behind.asked == []


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param("http://elsewhere.example<path>x?y", 200, id="absolute"),
        pytest.param("<path>x#fragment", 400, id="fragment"),
        pytest.param("*", 404, id="asterisk"),
    ],
)
async def test_the_target_of_a_request_has_several_forms(
    system: System, behind: Upstream, target: str, status: int
) -> None:
    """RFC 9112 §3.2: the absolute form is taken by its path; what is no target of ours is refused."""
    api = await protected(system, behind.url)
    written = target.replace("<path>", api.party.api.listen_path)
    head = api.head("OPTIONS", "", "Connection: close").replace(api.at("").encode(), written.encode(), 1)
    async with api.connection() as (reader, writer):
        writer.write(head)
        assert (await reader.read()).startswith(f"HTTP/1.1 {status} ".encode())
    assert [asked.target for asked in behind.asked] == (["/x?y"] if status == 200 else [])


async def test_nobody_is_connected_through(system: System, behind: Upstream) -> None:
    """CONNECT asks for a tunnel to anywhere (RFC 9110 §9.3.6): there is none."""
    api = await protected(system, behind.url)
    for target in (f"127.0.0.1:{behind.port}", api.at("x")):
        async with api.connection() as (reader, writer):
            writer.write(api.head("CONNECT", "", "Connection: close").replace(api.at("").encode(), target.encode(), 1))
            assert (await reader.read()).split(b" ")[1] in {b"400", b"404"}
    assert behind.connections == 0


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "MKCOL", "REPORT", "PURGE", "QUERY"]
)
async def test_every_method_goes_on(system: System, behind: Upstream, method: str) -> None:
    """With its body, where it has one."""
    bodies: list[bytes] = []

    async def answer(asked: object) -> None:
        bodies.append(await behind.latest.body())
        await behind.latest.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    behind.answering = answer
    api = await protected(system, behind.url)
    assert (await api.raw(method, "x", "Content-Length: 4", body=b"body")).startswith(b"HTTP/1.1 204 ")
    assert (await api.raw(method, "x")).startswith(b"HTTP/1.1 204 ")
    assert [asked.method for asked in behind.asked] == [method] * 2
    assert bodies == [b"body", b""]


# What is not the upstream's


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("POST", "/healthz", 405, id="operations"),
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
    """What a service or the operators are answered stays as it is, whatever the upstream would say."""
    api = await protected(system, behind.url)
    headers = api.bearer
    answer = await system.call(method, path.replace("<path>", api.party.api.listen_path), headers=headers)
    assert answer.status == status
    assert behind.asked == []


@pytest.mark.parametrize("path", ["oauth/token/17", "oauth", "oauth/introspect", "verify", "healthz", "api/apis"])
async def test_what_only_resembles_tokenwire_s_own_is_the_upstream_s(
    system: System, behind: Upstream, path: str
) -> None:
    """Below a listen path only the OAuth endpoints are not."""
    api = await protected(system, behind.url)
    assert (await api("GET", path)).status == 200
    assert behind.latest.target == f"/{path}"


async def test_an_api_without_tokens_is_open(system: System, behind: Upstream) -> None:
    """Keyless: whatever `Authorization` says is the upstream's affair, and nobody is named."""
    definition = keyless()
    definition["x-tyk-api-gateway"]["upstream"]["url"] = behind.url
    party = await system.party(definition)
    answer = await system.call("GET", party.at("x"), headers={"Authorization": "Basic eDp5"})
    assert answer.status == 200
    assert behind.latest.one("Authorization") == "Basic eDp5"
    assert behind.latest.one("X-Tokenwire-Api-Id") == party.api.api_id
    assert behind.latest.all("X-Tokenwire-Client-Id") == []


async def test_an_edited_upstream_is_asked_at_once(system: System, behind: Upstream) -> None:
    """The API's definition counts as it is now."""
    api = await protected(system, "http://127.0.0.1:1/")
    assert (await api("GET", "x")).status == 502
    before = api.party.api
    at = system.deps.origin("tests")
    after = before.model_copy(update={"upstream_url": behind.url})
    assert await system.deps.store.apis.replace(before, after, at)
    assert (await api("GET", "x")).status == 200


async def test_where_no_api_is_is_404(system: System) -> None:
    """In the gateway's words."""
    answer = await system.call("GET", "/nothing-here/x")
    assert (answer.status, answer.body) == (404, {"error": "There is no such API"})
