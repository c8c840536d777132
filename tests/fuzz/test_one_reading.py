"""What a policy forbids is not reachable at any upstream, however it reads a request and however the request is
written.
"""

import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import CALLBACK, api_document
from tests.fuzz import servers
from tests.fuzz.extent import examples
from tests.fuzz.running import Running
from tests.unit.tyk_definitions import changed

EXTENSION = "x-tyk-api-gateway"
KEY = "X-Api-Version"
PARAMETER = "version"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
PATIENCE = 20.0
OPEN = {"url": re.compile(r"/(v1/)?public(/.*)?", re.DOTALL), "other": re.compile(r"/public(/.*)?", re.DOTALL)}
"""What the policy allows below the listen path, with GET and for version v1."""


class Recorder:
    """An upstream that records requests."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        received = b""
        while b"\r\n\r\n" not in received and (piece := connection.recv(65536)):
            received += piece
        if not received:
            return
        self.heads += received.removesuffix(b"\r\n\r\n").split(b"\r\n\r\n")  # a second one would be a smuggled request
        connection.sendall(ANSWER)


@dataclass(frozen=True)
class Api:
    """An API whose policy allows one version, path and method."""

    location: str
    api_id: str
    place: str
    """The listen path without slashes."""
    token: str


@dataclass(frozen=True)
class World:
    """The gateway, its upstream, and an API for each place of the version."""

    port: int
    recorder: Recorder
    apis: dict[str, Api]

    def status(self, request: bytes) -> int:
        """Status of the response to these bytes."""
        received = b""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection,
            suppress(ConnectionError),
        ):
            connection.sendall(request)
            while b"\r\n" not in received and (piece := connection.recv(65536)):
                received += piece
        return int(received.split(b" ", 2)[1])


def _api(running: Running, recorder: Recorder, location: str) -> Api:
    versioning = {"enabled": True, "name": "v1", "default": "v1", "location": location}
    versioning["key"] = {"header": KEY, "url-param": PARAMETER, "url": ""}[location]
    versioning["versions"] = [{"name": "v2", "id": "another"}]
    added = [{"name": "X-Role", "value": "$tyk_meta.role"}, {"name": "X-User", "value": "$tyk_meta.user"}]
    document: dict[str, Any] = api_document()
    document = changed(document, f"{EXTENSION}/upstream/url", recorder.url)
    document = changed(document, f"{EXTENSION}/info/versioning", versioning)
    transform = {"enabled": True, "add": added, "remove": ["X-Internal"]}
    document = changed(document, f"{EXTENSION}/middleware", {"global": {"transformRequestHeaders": transform}})
    api_id = running.ask("POST", "/api/apis/oas", json=document)["ID"]
    place = document[EXTENSION]["server"]["listenPath"]["value"].strip("/")
    version = "(v1/)?" if location == "url" else ""
    urls = [{"url": f"^/({place}|{api_id})/{version}public(/|$)", "methods": ["GET"]}]
    right = {"api_id": api_id, "versions": ["v1"], "allowed_urls": urls}
    policy = running.ask("POST", "/api/portal/policies", json={"name": "one", "access_rights": {api_id: right}})["ID"]
    said = {"redirect_uri": CALLBACK, "policy_id": policy, "meta_data": {"user": "alice"}}
    client = running.ask("POST", f"/api/apis/oauth/{api_id}", json=said)
    code = running.ask(
        "POST",
        f"/api/apis/oauth/{api_id}/authorize-client",
        data={
            "response_type": "code",
            "client_id": client["client_id"],
            "redirect_uri": CALLBACK,
            "subject": "alice",
        },
    )["code"]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK}
    credentials = {"client_id": client["client_id"], "client_secret": client["secret"]}
    tokens = running.ask("POST", f"/{place}/oauth/token", data=form | credentials, headers={"Authorization": None})
    return Api(location, api_id, place, tokens["access_token"])


@pytest.fixture(scope="module")
def world(running: Running) -> Iterator[World]:
    """Created once, because calls do not use up a token."""
    recorder = Recorder()
    apis = {location: _api(running, recorder, location) for location in ("url", "url-param", "header")}
    yield World(running.port, recorder, apis)
    recorder.close()


SEGMENTS = (
    *("public", "public", "v1", "v2", "admin", "x", "..", ".", "", "%2e%2e", "%2E", ".%2e", "..;x", "%252e%252e", "V2"),
    *("v%32", "%76%32", "%2576%2532", "v2;a=b", "v2%20", "v2.", "v2%00", "public%2f..%2fadmin", "..%2fv2", "..%5cv2"),
    *("\\", "..\\v2", "%5c..%5c", "PUBLIC", "public;x", ";", "%2f", "%3b", "%252f", "v2%3fx", "%c0%ae", "a%20b", "~"),
)
PARAMETERS = (
    *(
        "version=v1",
        "version=v2",
        "version=",
        "version",
        "%76ersion=v2",
        "%2576ersion=v2",
        "VERSION=v2",
        "version[]=v2",
    ),
    *("version[0]=v2", "[version]=v2", "version%00=v2", "+version=v2", "version%20=v2", "version=v1%26version=v2"),
    *("a=b", "_method=DELETE", "_method=GET", "%5fmethod=DELETE", ".method=DELETE", "+_method=DELETE", "_METHOD=PUT"),
    *("_method[]=DELETE", "version=%76%32", "version=v%2532", "x=/../v2/", "versions=v2", "??"),
)
LINES = (
    *("X-Api-Version: v1", "X-Api-Version: v2", "x-api-version: v2", "X_Api_Version: v2", "X-Api-Version: v1, v2"),
    *("X.Api.Version: v2", "X-Api-Version:", "Connection: X-Api-Version", "Connection: x-role, X_Api_Version"),
    *("X-Role: admin", "X_Role: admin", "x.role: admin", "X-User: admin", "X_USER: admin", "X-Internal: admin"),
    *("X_Internal: admin", "X-Tokenwire-Subject: admin", "X_Tokenwire_Subject: admin", "X-Tokenwire.Client-Id: admin"),
    *("X-HTTP-Method-Override: DELETE", "X_HTTP_METHOD: DELETE", "X-Method-Override: DELETE", "X-Rewrite-URL: /admin"),
    *("X-Original-URL: /admin", "X_Original_Url: /admin", "X-Forwarded-Uri: /admin", "Proxy: http://evil.test"),
    *("Connection: keep-alive, Authorization", "Authorization: Bearer other", "X-Forwarded-Host: evil.test"),
    *("Host: evil.test", "Content-Length: 0", "Transfer_Encoding: chunked", "TE: trailers", "X-Plain: 1"),
)
METHODS = ("GET", "GET", "GET", "GET", "GET", "POST", "HEAD", "DELETE", "OPTIONS", "QUERY")


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, str, str, Sequence[str]]:
    """Place of the version, method, target and headers; mostly valid, so that many are admitted."""
    location = draw(st.sampled_from(["url", "url-param", "header"]))
    start = draw(st.sampled_from(["/PLACE/"] * 8 + ["/ID/", "//PLACE/", "/./PLACE/", "/x/../PLACE/", "/PLACE//"]))
    opened = ["public"] if location != "url" else draw(st.sampled_from([["public"], ["v1", "public"]]))
    before = draw(st.lists(st.sampled_from(SEGMENTS), max_size=2)) if draw(st.integers(0, 2)) == 0 else []
    after = draw(st.lists(st.sampled_from(SEGMENTS), max_size=4))
    separator = draw(st.sampled_from("&&&;"))
    query = separator.join(draw(st.lists(st.sampled_from(PARAMETERS), max_size=3)))
    lines = draw(st.lists(st.sampled_from(LINES), max_size=3))
    target = start + "/".join([*before, *opened, *after]) + (f"?{query}" if query else "")
    if draw(st.integers(0, 19)) == 0:
        target = f"http://other.test{target}"
    return location, draw(st.sampled_from(METHODS)), target, lines


def _complaints(seen: servers.Seen, api: Api) -> Iterator[str]:
    """What a server model would do or believe for this request although the policy forbids it or the gateway did not
    say it.
    """
    pattern = OPEN["url" if api.location == "url" else "other"]
    for server, path in servers.paths(seen):
        if not pattern.fullmatch(path):
            yield f"{server} serves {path!r}"
    for server, method in servers.methods(seen):
        if method not in {"GET", ""}:
            yield f"{server} does {method!r}"
    if api.location == "url-param":
        yield from (f"{who} takes v2" for who, value in servers.query_values(seen.query, PARAMETER) if value == "v2")
    if api.location == "header":
        yield from (f"{who} takes v2" for who, value in servers.header_values(seen.lines, KEY) if value == "v2")
    said = {"X-Role": set(), "X-Internal": set(), "X-User": {"alice"}, "X-Tokenwire-Subject": {"alice"}, "Proxy": set()}
    for name, expected in said.items():
        if found := {value for _, value in servers.header_values(seen.lines, name)} - expected:
            yield f"{name} is {found}"


def test_item2_no_request_reaches_what_a_policy_forbids(world: World) -> None:
    """Unusual paths, repeated and hop-by-hop headers and parameters reach an upstream that is any of the models.

    None of them serves what is forbidden, and enough requests are admitted for the test to mean something.
    """
    outcomes: Counter[str] = Counter()

    @examples(600)
    @given(_requests())
    def attempt(request: tuple[str, str, str, Sequence[str]]) -> None:
        location, method, target, lines = request
        api = world.apis[location]
        target = target.replace("PLACE", api.place).replace("ID", api.api_id)
        head = [f"{method} {target} HTTP/1.1", "Host: api.test", f"Authorization: Bearer {api.token}", *lines]
        world.recorder.heads.clear()
        status = world.status("\r\n".join([*head, "Connection: close", "", ""]).encode())
        heads = list(world.recorder.heads)
        assert len(heads) == (1 if status == 200 else 0), (status, heads)
        outcomes["admitted" if heads else str(status)] += 1
        for arrived in heads:
            assert list(_complaints(servers.Seen.of(arrived), api)) == [], arrived

    attempt()
    assert set(outcomes) <= {"admitted", "400", "403", "404", "405"}, outcomes
    assert outcomes["admitted"] >= sum(outcomes.values()) / 20, outcomes


@pytest.mark.parametrize("location", ["url", "url-param", "header"])
def test_item2_the_models_serve_what_is_allowed(world: World, location: str) -> None:
    """The test works: a normal call passes, and a bypass would be noticed."""
    api = world.apis[location]
    world.recorder.heads.clear()
    head = f"GET /{api.place}/public/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {api.token}\r\n"
    assert world.status(f"{head}Connection: close\r\n\r\n".encode()) == 200
    (arrived,) = world.recorder.heads
    assert list(_complaints(servers.Seen.of(arrived), api)) == []
    bypass = arrived.replace(b"/public/x", b"/public/..%2fadmin?version=v2&_method=DELETE&%76ersion=v1", 1)
    bypass += b"\r\nX_Role: admin\r\nX-Api-Version: v2\r\nX-HTTP-Method: DELETE\r\nX-Rewrite-URL: /v2"
    said = " ".join(_complaints(servers.Seen.of(bypass), api))
    for word in ("admin", "DELETE", "X-Role is", *(["takes v2"] if location != "url" else [])):
        assert word in said
