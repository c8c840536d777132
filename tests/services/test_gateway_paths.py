"""Which API a call belongs to: the one the proxy in front will send it to, however it parses the path."""

import itertools
from dataclasses import dataclass
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.paths import readings
from tests.builders import unique
from tests.fuzz import servers
from tests.fuzz.extent import examples
from tests.services.system import Party, System, document, keyless
from tests.unit.tyk_definitions import changed

PLACE = "x-tyk-api-gateway/server/listenPath/value"


@dataclass(frozen=True)
class Places:
    """`/<name>/` needs a token; `/<name>/open/` below it and `/<name>-open/` beside it do not."""

    name: str
    closed: Party
    nested: Party
    beside: Party


@pytest.fixture(scope="module", name="places")
async def _places(system: System) -> Places:
    name = unique("place")
    return Places(
        name,
        await system.party(changed(document(), PLACE, f"/{name}/")),
        await system.party(changed(keyless(), PLACE, f"/{name}/open/")),
        await system.party(changed(keyless(), PLACE, f"/{name}-open/")),
    )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/{}", "closed", id="without-a-slash"),
        pytest.param("/{}/", "closed", id="with-a-slash"),
        pytest.param("/{}/a/b.c/d;e=f/~g", "closed", id="below"),
        pytest.param("/{}/opened", "closed", id="longer-segment"),
        pytest.param("/{}/Open/", "closed", id="other-case"),
        pytest.param("/{}/x/open/", "closed", id="deeper"),
        pytest.param("/{}/open", "nested", id="nested-without-a-slash"),
        pytest.param("/{}/open/x", "nested", id="longest-wins"),
        pytest.param("/{}-open/x", "beside", id="beside"),
        pytest.param("/{}?/open/", "closed", id="query"),
        pytest.param("/{}/?x=/../{}-open/", "closed", id="dots-in-the-query"),
        pytest.param("/{}/a%2Fb", "closed", id="encoded-slash-below"),
        pytest.param("/{}/a%20b%C3%A9/%25", "closed", id="encoded-below"),
        pytest.param("/{}/a//b", "closed", id="empty-segment-below"),
        pytest.param("/{}/a/../b", "closed", id="dots-that-stay-below"),
        pytest.param("/{}/.hidden/x", "closed", id="hidden-file"),
        pytest.param("/{}/open/a%2Fb/..", "nested", id="dots-that-stay-in-the-nested"),
        pytest.param("/{}/%zz", "closed", id="no-encoding"),
    ],
)
async def test_a_path_belongs_to_the_longest_listen_path_above_it(places: Places, path: str, expected: str) -> None:
    """A path belongs to the API with the longest listen path above it, compared segment by segment."""
    response = await places.closed.system.verify(path.replace("{}", places.name))
    if expected == "closed":
        assert response.status == 400
        assert response.body == {"error": "Authorization field missing"}
    else:
        assert response.status == 200
        assert response.headers["X-Tokenwire-Api-Id"] == getattr(places, expected).api.api_id


@pytest.mark.parametrize("path", ["/{}-evil/x", "/{}x/", "/x{}/", "/", "/x/{}/", "/%00/", "/{}%00/", "/~/", "/:/"])
async def test_a_similar_path_belongs_to_no_api(places: Places, path: str) -> None:
    """`/my-api-evil/x` is not under `/my-api/`: 404."""
    response = await places.closed.system.verify(path.replace("{}", places.name))
    assert (response.status, response.body) == (404, {"error": "There is no such API"})


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/{}/open/../x", id="dots"),
        pytest.param("/{}/open/..", id="dots-at-the-end"),
        pytest.param("/{}/open/./../x", id="dot-and-dots"),
        pytest.param("/{}/open/%2e%2e/x", id="encoded-dots"),
        pytest.param("/{}/open/.%2E/x", id="half-encoded-dots"),
        pytest.param("/{}/open/..%2fx", id="encoded-slash"),
        pytest.param("/{}/open%2f..%2fx", id="all-encoded"),
        pytest.param("/{}/open/%252e%252e/x", id="encoded-twice"),
        pytest.param("/{}/open/..%5cx", id="encoded-backslash"),
        pytest.param("/{}/open/..\\x", id="backslash"),
        pytest.param("/{}/open/..;/x", id="dots-with-a-parameter"),
        pytest.param("/{}/open//../../x", id="dots-after-an-empty-segment"),
        pytest.param("/{}/open/../../{}-open/x", id="over-to-the-neighbour"),
        pytest.param("/{}-open/../{}/x", id="from-the-neighbour"),
        pytest.param("/{}-open/..%2f{}/x", id="from-the-neighbour-encoded"),
        pytest.param("/{}//open/x", id="empty-segment"),
        pytest.param("/{}/open;x/y", id="parameter"),
        pytest.param("/{}/%6fpen/x", id="encoded-letter"),
        pytest.param("/{}%2fopen/x", id="encoded-slash-between"),
        pytest.param("/{}%2fx", id="encoded-slash-after"),
        pytest.param("//{}/x", id="two-slashes-first"),
        pytest.param("//{}-open/{}/x", id="like-a-host"),
        pytest.param("/./{}/x", id="dot-first"),
        pytest.param("/x/../{}/x", id="from-nowhere"),
        pytest.param("/{}/../x", id="to-nowhere"),
        pytest.param("/{}/..", id="to-the-root"),
        pytest.param("/%2e%2e/{}/x", id="above-the-root"),
    ],
)
async def test_a_path_that_leads_to_two_apis_leads_to_none(places: Places, path: str) -> None:
    """A path that belongs to two APIs in different readings gets 400, with or without a token."""
    tokens = await places.closed.tokens()
    uri = path.replace("{}", places.name)
    for headers in ({}, {"Authorization": f"Bearer {tokens.access}"}):
        response = await places.closed.system.verify(uri, **headers)
        message = "Servers may read this as the path of different APIs; send it in its plain form"
        assert (response.status, response.body) == (400, {"error": message})


segments = st.sampled_from(["a", "b", "..", ".", "", "%2e%2e", "%2E", "a%2fb", "..%2f", "%252e", "\\", "..;x", "a%62"])


@given(st.lists(segments, max_size=6).map(lambda parts: "/" + "/".join(parts)))
def test_every_reading_of_a_path_is_among_its_readings(path: str) -> None:
    """Readings are the path as it is, decoded, with merged slashes, and with dots resolved (RFC 3986 §5.2.4), in
    nginx's order.
    """
    found = readings(path)
    if not found:
        return  # refused
    decoded = unquote(path)
    merged = "/" + "/".join(part for part in decoded.split("/") if part)
    assert {path, decoded} <= found
    assert remove_dot_segments(path).rstrip("/") in {reading.rstrip("/") for reading in found}
    assert remove_dot_segments(merged).rstrip("/") in {reading.rstrip("/") for reading in found}
    assert len(found) <= 128


SERVERS = [servers.plain, servers.nginx, servers.go, servers.tomcat, servers.spring, servers.jetty]
"""Servers that keep the case of a path."""


@examples(400)
@given(st.lists(segments, max_size=6).map(lambda parts: "/" + "/".join(parts)))
def test_a1_readings_cover_two_servers_in_a_row(path: str) -> None:
    """Whatever two servers in a row make of a path by decoding, merging, resolving and dropping is one of its
    readings.
    """
    found = {reading.rstrip("/") for reading in readings(path)}
    for first, second in itertools.product(SERVERS, repeat=2) if found else ():
        assert second(first(path)).rstrip("/") in found, (first.__name__, second.__name__)


def test_a1_the_readings_of_a_path_are_bounded() -> None:
    """Number and length of readings are bounded for the longest accepted path; beyond that it is refused."""
    paths = ["/" + "%25" * 2700, "/%252525252e%2f;" * 255, "/a%252f..//;x\\" * 250, "/" + "%e4%b8%ad" * 900, "/;" * 255]
    paths += ["/%2E/a%62/\\/%25252e%5c;//%2E/..%2f/%25252e%5c;/%2E", "/a/.." * 128, "/%2e%2e" * 255]
    for path in paths:
        found = readings(path)
        assert len(found) <= 128
        assert sum(map(len, found)) <= 32 * 1024
    assert readings("/" + "%e4%b8%ad" * 900)
    assert not readings("/%2E/a%62/\\/%25252e%5c;//%2E/..%2f/%25252e%5c;/%2E")


def remove_dot_segments(path: str) -> str:
    """RFC 3986 §5.2.4, for a path that begins with a slash."""
    output: list[str] = []
    *middle, last = path[1:].split("/")
    for segment in middle:
        if segment == "..":
            output = output[:-1]
        elif segment != ".":
            output.append(segment + "/")
    if last == "..":
        output = output[:-1]
    elif last != ".":
        output.append(last)
    return "/" + "".join(output)
