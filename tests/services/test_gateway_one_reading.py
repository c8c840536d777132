"""The gateway's decision matches what the upstream receives: versions, injected headers, method overrides."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote, unquote_plus

import pytest
from yarl import URL

from tests.builders import Response, settle
from tests.services.system import Party, System, document, keyless, raw
from tests.services.test_cross_origin import CORS, ORIGIN, PREFLIGHT, SETTINGS, protocol
from tests.services.test_gateway_rights import limited_to
from tests.services.upstreams import Protected, Upstream, protected, upstream

VERSIONS = "x-tyk-api-gateway__info__versioning"
TRANSFORM = "x-tyk-api-gateway__middleware__global__transformRequestHeaders"
UPSTREAM = "x-tyk-api-gateway__upstream__url"
HEADER = "X-Api-Version"


@pytest.fixture(name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


async def versioned(system: System, behind: Upstream, location: str, key: str = "", *opened: str) -> Protected:
    """An API with versions v1 (default) and v2, and a token whose policy grants those named; else v1 only."""
    versioning = {
        "enabled": True,
        "name": "v1",
        "default": "v1",
        "location": location,
        "key": key,
        "versions": [{"name": "v2", "id": "another"}],
    }
    issuing = await system.party(document(**{VERSIONS: versioning, UPSTREAM: behind.url}))
    party = await limited_to(system, issuing, versions=list(opened or ("v1",)))
    return Protected(party, (await party.tokens()).access)


def status(response: bytes) -> int:
    """Of a response."""
    return int(response.split(b" ", 2)[1])


# Versions


@pytest.mark.parametrize(
    "path",
    [
        "v2/a",
        "%76%32/a",
        "v%32/a",
        "v%2532/a",
        "/v2/a",
        "./v2/a",
        "v1/../v2/a",
        "v1/%2e%2e/v2/a",
        "v1/..%2fv2/a",
        "v1\\..\\v2\\a",
        "v1%5c..%5cv2/a",
        "v1/..;x/v2/a",
        "v2;x=y/a",
        "x/..//v2/a",
        "V2/a",
        "v2./a",
        "v2%20/a",
        "v2%00/a",
        "v2%3fx/a",
        "%ef%bd%962/a",
        "v1/c/%252e%252e/%252e%252e/%2e%2e/v2/..;/v2/x",
        "v2",
        "v2?x=/v1/",
    ],
)
async def test_a1_url_version_is_read_in_every_spelling(system: System, behind: Upstream, path: str) -> None:
    """A version in the path is found in every reading of the path; a version that is not granted refuses the call."""
    api = await versioned(system, behind, "url")
    assert status(await api.raw("GET", path)) in {400, 403}
    asked = await system.verify(api.at(path), Authorization=f"Bearer {api.token}")
    assert asked.status in {400, 403}
    assert behind.asked == []


@pytest.mark.parametrize("path", ["v1/a", "v1/a%20b/c;d", "a", "", "v1//a/./b", "v1/v2", "v21/a"])
async def test_a1_a_path_of_an_open_version_goes_on(system: System, behind: Upstream, path: str) -> None:
    """A granted path is forwarded byte for byte, however it is written below the version."""
    api = await versioned(system, behind, "url")
    assert status(await api.raw("GET", path)) == 200
    assert behind.latest.target == f"/{path}"


async def test_a1_where_every_version_is_open_every_spelling_goes_on(system: System, behind: Upstream) -> None:
    """If all versions are granted, any spelling is forwarded."""
    api = await versioned(system, behind, "url", "", "v1", "v2")
    for path in ("v1/../v2/a", "%76%32/a", "/v2/a"):
        assert status(await api.raw("GET", path)) == 200, path


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("version=v1", 200),
        ("version=%76%31&x=version=v2", 200),
        ("x=1&%76ersion=v1", 200),
        ("versions=v2&my-version=v2", 200),
        ("next=/x%3Fversion%3Dv2%26a=b", 200),
        ("", 200),
        ("version=v2", 403),
        ("%76ersion=v2", 403),
        ("version=v1%26version=v2", 403),
        ("version=v2&version=v1", 400),
        ("version=v1&version=v2", 400),
        ("version=v1&version=v1", 400),
        ("version=v1&%76ersion=v2", 400),
        ("version=v1;version=v2", 400),
        ("a=b;version=v2", 400),
        ("version=v1;a=b", 400),
        ("a;version=v2&version=v1", 400),
        ("VERSION=v2", 400),
        ("Version=v2&version=v1", 400),
        ("version[]=v2", 400),
        ("version%5B%5D=v2", 400),
        ("version[0]=v2&version=v1", 400),
        ("[version]=v2", 400),
        ("+version=v2", 400),
        ("%20version=v2", 400),
        ("version%20=v2", 400),
        ("version%00=v2", 400),
        ("version.=v2", 400),
        ("?version=v2", 400),
        ("%2576ersion=v2", 400),
        ("ver%C5%BFion=v2", 400),
        ("version&version=v2", 400),
        ("version=v1&version=", 400),
    ],
)
async def test_a1_a_version_in_the_query_is_given_once(
    system: System, behind: Upstream, query: str, expected: int
) -> None:
    """A version in the query must be unambiguous: servers differ on repeated parameters, separators and names."""
    api = await versioned(system, behind, "url-param", "version")
    assert status(await api.raw("GET", f"a?{query}")) == expected
    asked = await system.verify(api.at(f"a?{query}"), Authorization=f"Bearer {api.token}")
    assert asked.status == expected
    assert [each.target for each in behind.asked] == ([f"/a?{query}".rstrip("?")] if expected == 200 else [])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], 200),
        (["X-Api-Version: v1"], 200),
        (["x-api-VERSION: v1"], 200),
        (["X-Api-Version: v2"], 403),
        (["X-Api-Version: v1", "X-Api-Version: v2"], 400),
        (["X-Api-Version: v2", "X-Api-Version: v1"], 400),
        (["X-Api-Version: v1", "x-api-version: v1"], 400),
        (["X-Api-Version: v1, v2"], 400),
        (["X-Api-Version: v1,"], 400),
        (["X_Api_Version: v2"], 400),
        (["X_Api_Version: v1"], 400),
        (["X-Api-Version: v1", "X_Api_Version: v2"], 400),
        (["X.Api-Version: v2"], 400),
        (["X-Api-Version: v1", "Connection: X-Api-Version"], 400),
        (["X-Api-Version: v1", "Connection: close, x-api-version ,"], 400),
        (["X-Api-Version: v1", "Connection: X_Api_Version"], 400),
        (["Connection: X-Api-Version"], 400),
    ],
)
async def test_a1_a_version_in_a_header_is_given_once_and_reaches_the_upstream(
    system: System, behind: Upstream, lines: list[str], expected: int
) -> None:
    """A version header must occur once, without a list, folded spelling or `Connection` option, and reach the
    upstream.
    """
    api = await versioned(system, behind, "header", HEADER)
    assert status(await api.raw("GET", "a", *lines)) == expected
    head = api.head("GET", "", f"X-Forwarded-Uri: {api.at('a')}", "Connection: close", *lines)
    asked = head.replace(f"GET {api.at('')} ".encode(), b"GET /verify ", 1)
    assert status(await raw(system.call, asked)) == expected
    assert len(behind.asked) == (1 if expected == 200 else 0)


async def test_a1_a_refused_version_says_what_to_change(system: System, behind: Upstream) -> None:
    """A refused version is explained in the gateway's text."""
    api = await versioned(system, behind, "header", HEADER)
    response = await api.raw("GET", "a", "X-Api-Version: v1", "X-Api-Version: v1")
    assert b"send it once, under the name that the API has for it" in response


@pytest.mark.parametrize("option", ["Authorization", "authorization , x", "close, AUTHORIZATION"])
async def test_a1_the_token_s_header_is_for_the_upstream_too(system: System, behind: Upstream, option: str) -> None:
    """`Connection: Authorization` is refused: the header would decide here and not reach the upstream."""
    api = await protected(system, behind.url)
    assert status(await api.raw("GET", "a", f"Connection: {option}")) == 400
    twice = await api.raw("GET", "a", "Authorization: Bearer other")
    assert status(twice) == 400
    assert b"The header with the token must occur once" in twice
    assert behind.asked == []


async def test_a1_a_host_is_named_once(system: System, behind: Upstream) -> None:
    """RFC 9112 §3.2: several Host headers get 400; the host of an absolute target takes precedence (§3.2.2)."""
    api = await protected(system, behind.url)
    assert status(await api.raw("GET", "a", "Host: other.example")) == 400
    absolute = api.head("GET", "a", "Connection: close").replace(b"GET /", b"GET http://shop.example/", 1)
    assert status(await raw(system.call, absolute)) == 200
    assert behind.latest.one("X-Forwarded-Host") == "shop.example"
    assert len(behind.asked) == 1


@pytest.mark.parametrize(
    "target", ["api.example:80", "//api.example/x", "http:/x", "http://user@api.example/x", "ftp://x/y", "http://\\x/y"]
)
async def test_a1_a_target_of_another_form_is_no_call(system: System, behind: Upstream, target: str) -> None:
    """Other forms of the request target are refused or match no API."""
    api = await protected(system, behind.url)
    head = api.head("GET", "", "Connection: close").replace(api.at("").encode(), target.encode(), 1)
    assert status(await raw(system.call, head)) in {400, 404}
    assert behind.asked == []


async def test_a1_a_body_has_one_length(system: System, behind: Upstream) -> None:
    """Two lengths of a body are refused, because two servers could see two requests (request smuggling)."""
    api = await protected(system, behind.url)
    for lines in (("Content-Length: 3", "Transfer-Encoding: chunked"), ("Content-Length: 3", "Content-Length: 4")):
        assert status(await api.raw("POST", "a", *lines, body=b"0\r\n\r\n")) == 400
    assert behind.asked == []


@pytest.mark.parametrize("method", ["get", "GET,POST", "GE T", "G\xe9T"])
async def test_a1_the_method_is_taken_as_it_is(system: System, behind: Upstream, method: str) -> None:
    """Methods are case-sensitive (RFC 9110 §9.1): `get` is not GET."""
    api = await protected(system, behind.url)
    asked = await system.verify(api.at("x"), Authorization=f"Bearer {api.token}", **{"X-Forwarded-Method": method})
    assert asked.status == 400


# Headers set by the definition


ADDED = [{"name": "X-Role", "value": "$tyk_meta.role"}, {"name": "X-User", "value": "$tyk_meta.user"}]
ROLE = {"enabled": True, "add": ADDED, "remove": ["X-Internal", "X_Debug"]}
SPELLINGS = [
    *("X-Role: admin", "x-role: admin", "X_Role: admin", "X_ROLE: admin", "X.Role: admin", "X-role: admin"),
    *("X-User: admin", "X_User: admin", "X-Internal: admin", "X_Internal: admin", "x.internal: admin"),
    *("X-Debug: admin", "X_Debug: admin", "X!Debug: admin", "X-Tokenwire-Subject: admin", "X_Tokenwire_Scope: admin"),
    *("X.Tokenwire.Grant-Id: admin", "X-Tokenwire_Anything: admin"),
]


async def with_role(system: System, behind: Upstream, meta_data: dict[str, Any]) -> Protected:
    """A token whose metadata the definition maps to X-Role and X-User."""
    issuing = await system.party(document(**{TRANSFORM: ROLE, UPSTREAM: behind.url}))
    party = await system.client_of(issuing.api, meta_data=meta_data)
    return Protected(party, (await party.tokens(subject="alice")).access)


@pytest.mark.parametrize(
    "role",
    [
        pytest.param({}, id="absent"),
        pytest.param({"role": None}, id="null"),
        pytest.param({"role": ""}, id="empty"),
        pytest.param({"role": ["x"]}, id="list"),
        pytest.param({"role": {"a": "b"}}, id="object"),
    ],
)
async def test_a2_a_header_of_the_definition_never_comes_from_the_caller(
    system: System, behind: Upstream, role: dict[str, Any]
) -> None:
    """A header set by the definition is never taken from the caller, in any spelling, even if the grant has no value
    for it.
    """
    api = await with_role(system, behind, {"user": "alice", **role})
    response = await api.raw("GET", "x", *SPELLINGS)
    assert status(response) == 200
    assert "admin" not in dict(behind.latest.headers).values()
    assert behind.latest.all("X-Role") == []
    assert behind.latest.one("X-User") == "alice"


async def test_a2_forward_auth_answers_an_empty_value_where_there_is_none(system: System, behind: Upstream) -> None:
    """/verify returns an empty value where there is none, so that the proxy overwrites the caller's header."""
    api = await with_role(system, behind, {"user": "alice", "role": ["x"]})
    asked = await system.verify(api.at("x"), Authorization=f"Bearer {api.token}", **{"X-Role": "admin"})
    declared = ("X-Role", "X-User", "X-Internal", "X_Debug")
    assert {name: asked.headers.getall(name) for name in declared} == {
        "X-Role": [""],
        "X-User": ["alice"],
        "X-Internal": [""],
        "X_Debug": [""],
    }
    assert asked.headers["X-Tokenwire-Scope"] == ""


async def test_a2_an_api_without_tokens_gets_no_identity_headers(system: System, behind: Upstream) -> None:
    """A keyless API gets the definition's headers, and no identity from anyone."""
    definition = keyless()
    extension = definition["x-tyk-api-gateway"]
    extension["upstream"]["url"] = behind.url
    added = [*ADDED, {"name": "X-Shop", "value": "berlin"}]
    extension["middleware"] = {"global": {"transformRequestHeaders": {**ROLE, "add": added}}}
    party = await system.party(definition)
    api = Protected(party, "none")
    assert status(await api.raw("GET", "x", *SPELLINGS, bearer=False)) == 200
    assert "admin" not in dict(behind.latest.headers).values()
    assert behind.latest.one("X-Shop") == "berlin"
    asked = await system.verify(api.at("x"))
    assert [asked.headers[name] for name in ("X-Role", "X-Shop", "X-Tokenwire-Subject")] == ["", "berlin", ""]


async def test_a2_a_hidden_token_comes_back_in_no_other_spelling(system: System, behind: Upstream) -> None:
    """`stripAuthorizationData` removes the header and every spelling that an upstream would read as it."""
    api = await protected(
        system,
        behind.url,
        **{
            "x-tyk-api-gateway__server__authentication__stripAuthorizationData": True,
            "x-tyk-api-gateway__server__authentication__securitySchemes__tykOAuth__header": {
                "enabled": True,
                "name": "X-Token",
            },
        },
    )
    response = await api.raw("GET", "x", f"X-Token: {api.token}", "X_Token: admin", "X.Token: admin", bearer=False)
    assert status(response) == 200
    assert [name for name, _ in behind.latest.headers if "oken" in name and "okenwire" not in name] == []


@pytest.mark.parametrize("name", ["Content_Length", "Transfer_Encoding", "X_Request_Id", "Content.Type", "Cookie_"])
async def test_a2_meaningful_headers_have_one_spelling(system: System, behind: Upstream, name: str) -> None:
    """Headers with a meaning here are refused in other spellings, which an upstream may fold."""
    api = await protected(system, behind.url)
    assert status(await api.raw("GET", "x", f"{name}: 99")) == 200
    assert ("99" in dict(behind.latest.headers).values()) == (name == "Cookie_")


OPERATIONS = "x-tyk-api-gateway__middleware__operations"


async def test_a2_headers_of_one_operation_come_from_no_caller(system: System, behind: Upstream) -> None:
    """Headers set for one operation are removed from callers' requests on every path."""
    paths = {"/a": {"get": {"operationId": "a"}}}
    change = {"enabled": True, "add": [{"name": "X-Role", "value": "user"}], "remove": ["X-Internal"]}
    operations = {"a": {"transformRequestHeaders": change}}
    api = await protected(system, behind.url, paths=paths, **{OPERATIONS: operations})
    for path in ("a", "b"):
        lines = ("X-Role: forged", "X_ROLE: forged", "x.role: forged", "X_Internal: forged", "X-Own: mine")
        assert status(await api.raw("GET", path, *lines)) == 200
        assert "forged" not in dict(behind.latest.headers).values()
        assert behind.latest.one("X-Own") == "mine"


async def test_a2_a_response_says_nothing_in_the_gateway_s_name(system: System, behind: Upstream) -> None:
    """An upstream's `X-Tokenwire-*` response headers do not reach the caller."""

    async def response(asked: Any) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\nX-Tokenwire-Refusal: x\r\nX-Own: y\r\nContent-Length: 0\r\n\r\n")

    behind.answering = response
    answered = await (await protected(system, behind.url))("GET", "x")
    assert answered.headers["X-Own"] == "y"
    assert "X-Tokenwire-Refusal" not in answered.headers


# Overrides


OVERRIDES = [
    *("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Rewrite-URL", "X-Original-URL", "Proxy"),
    *("X-Original-Method", "X-Original-URI", "X-Forwarded-Method", "X-Forwarded-Uri", "X-Rewrite-URI"),
    *("x-http-method-override", "X_HTTP_METHOD_OVERRIDE", "X.Http-Method_Override", "X_Original_Url", "PROXY"),
    *("X-HTTP-Path-Override", "X-Override-URL", "X-Envoy-Original-Path", "Forwarded", "X-Host", "X_Host"),
    *("X-Original-Host", "X-Forwarded-Host", "X-Forwarded-Server", "X-Http-Host-Override"),
    *("X-Method", "X-REST-Method", "X-Verb", "X-HTTP-Override", "X_Verb", "X-Request-Method"),
]
META_VARIABLES = [
    *("SCRIPT_NAME", "Script-Name", "script.name", "X-Script-Name", "PATH_INFO", "path-info", "ORIG_PATH_INFO"),
    *("PATH_TRANSLATED", "REQUEST_URI", "REQUEST_METHOD", "Request-Method", "QUERY_STRING", "SERVER_NAME"),
    *("SERVER_PORT", "SERVER_PROTOCOL", "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_USER", "Remote-User", "AUTH_TYPE"),
    *("HTTP_PROXY", "Http-Proxy", "HTTP_HOST", "HTTP_AUTHORIZATION", "HTTPS", "DOCUMENT_ROOT", "SCRIPT_FILENAME"),
    *("wsgi.url_scheme", "WSGI_URL_SCHEME", "PHP_VALUE", "PHP_AUTH_USER", "GATEWAY_INTERFACE", "CONTENT_LENGTH"),
    *("UWSGI_FILE", "SSL_CLIENT_VERIFY", "REDIRECT_URL", "UNENCODED_URL", "RAW_URI", "CONTENT_TYPE"),
]


@pytest.mark.parametrize("name", OVERRIDES)
async def test_a13_nothing_overrides_the_request_line(system: System, behind: Upstream, name: str) -> None:
    """Headers that override method, path or host are refused."""
    api = await protected(system, behind.url)
    assert status(await api.raw("GET", "x", f"{name}: DELETE")) == 200
    assert "DELETE" not in dict(behind.latest.headers).values()


@pytest.mark.parametrize("name", META_VARIABLES)
async def test_a13_no_header_takes_the_place_of_a_variable_of_cgi(system: System, behind: Upstream, name: str) -> None:
    """Headers that become CGI variables are refused: gunicorn takes `SCRIPT_NAME` from a header (RFC 3875 §4.1.13)."""
    api = await protected(system, behind.url)
    assert status(await api.raw("GET", "x", f"{name}: /public")) == 200
    assert "/public" not in dict(behind.latest.headers).values()


async def test_a13_headers_of_the_api_s_own_still_pass(system: System, behind: Upstream) -> None:
    """Similar names that have no such meaning pass."""
    own = ["X-Method-Name", "X-Request-Start", "Server", "X-Auth-Token", "X-Client-Id", "X-Client-Version", "X-Script"]
    own += ("Path", "X-Remote", "X-Host-Id", "Method", "X-Source", "Remote-Job", "Auth-Token", "Https-Only")
    api = await protected(system, behind.url)
    assert status(await api.raw("GET", "x", *(f"{name}: own" for name in own))) == 200
    assert [name for name, value in behind.latest.headers if value == "own"] == own


async def test_a13_a_definition_may_set_a_variable_itself(system: System, behind: Upstream) -> None:
    """A definition may set such a header; the upstream gets only its value."""
    change = {"enabled": True, "add": [{"name": "Script-Name", "value": "/mine"}]}
    api = await protected(system, behind.url, **{TRANSFORM: change})
    assert status(await api.raw("GET", "x", "SCRIPT_NAME: /public", "Script-Name: /public")) == 200
    assert behind.latest.one("Script-Name") == "/mine"
    assert "/public" not in dict(behind.latest.headers).values()


def only_get(party: Party) -> list[dict[str, Any]]:
    """A policy that allows only GET."""
    return [{"url": f"^{party.at('')}", "methods": ["GET", "POST"]}]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("_method=POST", 200),
        ("method=DELETE", 200),
        ("a=_method=DELETE", 200),
        ("_method=DELETE", 403),
        ("_method=delete", 403),
        ("%5Fmethod=DELETE", 403),
        ("%255fmethod=DELETE", 403),
        ("a=b;_method=DELETE", 403),
        ("_METHOD=DELETE", 403),
        ("_method[]=DELETE", 403),
        (".method=DELETE", 403),
        ("_method=POST&_method=DELETE", 403),
        ("X-HTTP-Method-Override=DELETE", 403),
        ("_HttpMethod=DELETE", 403),
    ],
)
async def test_a13_a_method_in_the_query_must_be_allowed_too(
    system: System, behind: Upstream, query: str, expected: int
) -> None:
    """Frameworks use a `_method` query parameter, so if a policy lists methods, both must be allowed."""
    issuing = await system.party(document(**{UPSTREAM: behind.url}))
    party = await limited_to(system, issuing, allowed_urls=only_get(issuing))
    api = Protected(party, (await party.tokens()).access)
    assert status(await api.raw("POST", f"x?{query}", "Content-Length: 0")) == expected
    headers = {"Authorization": f"Bearer {api.token}", "X-Forwarded-Method": "POST"}
    assert (await system.verify(api.at(f"x?{query}"), **headers)).status == expected


async def test_a13_behind_a_proxy_an_overriding_header_must_be_allowed_too(system: System) -> None:
    """At /verify an overriding header must be allowed too, unless the proxy removes it."""
    issuing = await system.party()
    party = await limited_to(system, issuing, allowed_urls=only_get(issuing))
    bearer = {"Authorization": f"Bearer {(await party.tokens()).access}", "X-Forwarded-Method": "POST"}
    for name in ("X-HTTP-Method-Override", "X_Method_Override", "x-http-method"):
        for method, expected in (("GET", 200), ("delete", 403)):
            assert (await system.verify(party.at("x"), **bearer, **{name: method})).status == expected


async def test_a13_a_definition_may_pass_method_overrides_on(system: System, behind: Upstream) -> None:
    """With `methodOverride` the named method must be allowed; URL overrides are still removed."""
    issuing = await system.party(document(methodOverride=True, **{UPSTREAM: behind.url}))
    assert issuing.api.method_override
    party = await limited_to(system, issuing, allowed_urls=only_get(issuing))
    api = Protected(party, (await party.tokens()).access)
    lines = ("Content-Length: 0", "X-Rewrite-URL: /admin", "X_Method_Override: DELETE")
    assert status(await api.raw("POST", "x", *lines[:2], "X-HTTP-Method-Override: GET")) == 200
    assert behind.latest.one("X-HTTP-Method-Override") == "GET"
    assert behind.latest.all("X-Rewrite-URL") == []
    assert status(await api.raw("POST", "x", *lines[:2], "X-HTTP-Method-Override: DELETE")) == 403
    assert status(await api.raw("POST", "x", *lines)) == 403
    assert len(behind.asked) == 1


async def test_a13_a_definition_may_set_an_override_itself(system: System, behind: Upstream) -> None:
    """A definition may set an override header itself."""
    change = {"enabled": True, "add": [{"name": "X-HTTP-Method-Override", "value": "PATCH"}]}
    api = await protected(system, behind.url, **{TRANSFORM: change})
    assert status(await api.raw("POST", "x", "Content-Length: 0", "X_Http_Method_Override: DELETE")) == 200
    assert behind.latest.one("X-HTTP-Method-Override") == "PATCH"
    assert "DELETE" not in dict(behind.latest.headers).values()


# Database reads


FIND = {
    "op": "query",
    "command.readConcern.level": {"$ne": "majority"},
    **{f"command.filter.{name}": {"$exists": False} for name in ("pending_since", "refused_since")},
}
"""Without the outbox's own queries."""


async def lookups(system: System, *targets: str, method: str = "GET", **headers: str) -> list[list[Any]]:
    """MongoDB finds for a call of each target, at /verify and through the proxy."""
    await settle(system.deps)
    database = system.deps.store.mongo["apis"].database
    seen = []
    for target in targets:
        for ask in (
            system.call(method, "/verify", headers={"X-Forwarded-Uri": target, **headers}),
            system.call(method, URL(target, encoded=True), headers=headers),
        ):
            system.deps.catalog.forget()
            await database.command("profile", 2)
            try:
                await ask
            finally:
                await database.command("profile", 0)
            names = ("apis", "clients", "policies", "grants", "resource_owners")
            ours = {"ns": {"$in": [f"{database.name}.{name}" for name in names]}}
            found = database["system.profile"].find({**FIND, **ours}, {"ns": 1, "command.filter": 1})
            seen.append([(each["ns"].rpartition(".")[2], each["command"]["filter"]) async for each in found])
            await database["system.profile"].drop()
    return seen


async def test_a12_a_call_without_a_token_costs_one_look_up(system: System) -> None:
    """A call without a token costs one read, whatever the path, the API or the Origin."""
    party = await system.party()
    strange = ["/../a/..%5cj/%252e%252e/z", "/a/..;/b/%2e%2e/c//d", "/%61/%2562/./c", "/nothing/x", "/;/..%2f", "/"]
    strange += [party.at("x"), party.at("..%2f../y"), f"/{party.api.api_id}/a/%252e%252e/b"]
    for headers in ({}, {"Origin": "https://app.example.test"}):
        assert [found for found in await lookups(system, *strange, **headers) if len(found) > 1] == []
    assert [len(found) for found in await lookups(system, party.at("x"), party.at("%61"))] == [1] * 4


async def test_a12_a_path_with_too_many_readings_is_refused(system: System) -> None:
    """A path with too many readings is refused before any read."""
    party = await system.party()
    path = party.at("%2E/a%62/\\/%25252e%5c;//%2E/..%2f/%25252e%5c;/%2E")
    response = await system.verify(path)
    assert (response.status, response.body["error"][:38]) == (400, "Servers may read the path in too many ")
    assert await lookups(system, path) == [[], []]


# Identity headers


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("boss", "boss"),
        (" boss", "%20boss"),
        ("boss ", "boss%20"),
        (" ", "%20"),
        ("the boss", "the%20boss"),
        ("%20boss", "%2520boss"),
        ("a+b@example.test", "a%2Bb@example.test"),
        ("é", "%C3%A9"),
        ("a,b;c\\d\"e'", "a%2Cb%3Bc%5Cd%22e%27"),
        ("auth0|17/x", "auth0%7C17%2Fx"),
    ],
)
async def test_d1_no_two_users_become_one_on_the_way(
    system: System, behind: Upstream, subject: str, expected: str
) -> None:
    """Bytes outside a safe set are percent-encoded, so no two users look alike to upstream or proxy."""
    api = await protected(system, behind.url)
    token = (await api.party.tokens(subject=subject)).access
    mine = Protected(api.party, token)
    assert status(await mine.raw("GET", "x")) == 200
    assert behind.latest.one("X-Tokenwire-Subject") == expected
    assert unquote(expected) == unquote_plus(expected) == subject
    asked = await system.verify(mine.at("x"), Authorization=f"Bearer {token}")
    assert asked.headers["X-Tokenwire-Subject"] == expected


async def test_d1_metadata_is_encoded_without_loss(system: System, behind: Upstream) -> None:
    """Metadata keeps leading and trailing spaces, and values that look percent-encoded."""
    for user, expected in ((" boss", "%20boss"), ("boss  ", "boss%20%20"), ("%20boss", "%2520boss"), ("  ", "%20%20")):
        api = await with_role(system, behind, {"user": user, "role": "50% of a b"})
        assert status(await api.raw("GET", "x")) == 200
        assert behind.latest.one("X-User") == expected
        assert behind.latest.one("X-Role") == "50% of a b"


# The upstream's URL


@pytest.mark.parametrize(
    ("base", "path", "target"),
    [
        ("/a%2Fb%3A%2B/", "x", "/a%2Fb%3A%2B/x"),
        ("/a/../b/./c//", "x", "/a/../b/./c//x"),
        ("/%7Euser/%c3%a9", "x", "/%7Euser/%c3%a9/x"),
        ("/a?sig=%2F%3a+%20&x=/../y&&z", "b?c=%2f", "/a/b?sig=%2F%3a+%20&x=/../y&&z&c=%2f"),
        ("/a:b@c,d;e=f", "", "/a:b@c,d;e=f/"),
        ("?only=%41", "x", "/x?only=%41"),
        ("", "%41%2f%2e/é", None),
    ],
)
async def test_d5_the_upstream_s_url_is_used_byte_for_byte(
    system: System, behind: Upstream, base: str, path: str, target: str | None
) -> None:
    """The upstream's URL and the caller's path and query are used byte for byte."""
    api = await protected(system, behind.url + base)
    if target is None:
        assert status(await api.raw("GET", "%41%2f%2e")) == 200
        assert behind.latest.target == "/%41%2f%2e"
    else:
        assert status(await api.raw("GET", path)) == 200
        assert behind.latest.target == target


# Checks by method


@pytest.mark.parametrize("passthrough", [False, True])
@pytest.mark.parametrize("as_headers", [True, False])
async def test_d7_a_preflight_is_answered_at_verify(system: System, passthrough: bool, as_headers: bool) -> None:
    """/verify answers a preflight with 204 and CORS headers, or 200 if the upstream handles it; no token is needed."""
    party = await system.party(document(**{CORS: {**SETTINGS, "optionsPassthrough": passthrough}}))

    async def ask(**headers: str) -> Response:
        if as_headers:
            return await system.verify(party.at("x"), **{"X-Forwarded-Method": "OPTIONS", **PREFLIGHT, **headers})
        return await system.call("OPTIONS", f"/verify{party.at('x')}", headers=PREFLIGHT | headers)

    response = await ask()
    assert response.status == (200 if passthrough else 204)
    if passthrough:
        assert response.headers["X-Tokenwire-Client-Id"] == ""
        assert protocol(response.headers) == {}
    else:
        assert response.raw == b""
        assert response.headers["Vary"] == "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        assert protocol(response.headers) == {
            "Access-Control-Allow-Origin": ORIGIN,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Allow-Methods": "GET, POST, HEAD",
            "Access-Control-Allow-Headers": "Authorization",
        }
        assert protocol((await ask(Origin="https://other.example.test")).headers) == {}
    # With a method override it is a call and needs a token.
    assert (await ask(**{"X-HTTP-Method-Override": "DELETE"})).status == 400


async def test_d7_only_a_preflight_is_answered_without_a_token(system: System) -> None:
    """Only a real preflight passes without a token."""
    party, other = await system.party(document(**{CORS: SETTINGS})), await system.party()
    asked = "Access-Control-Request-Method"
    for method, at, headers in (
        ("GET", party, PREFLIGHT),
        ("OPTIONS", party, {"Origin": ORIGIN}),
        ("OPTIONS", party, {asked: "POST"}),
        ("OPTIONS", other, PREFLIGHT),
    ):
        response = await system.verify(at.at("x"), **{"X-Forwarded-Method": method}, **headers)
        assert (response.status, response.body) == (400, {"error": "Authorization field missing"})
    query = await system.verify(party.at("x?_method=DELETE"), **{"X-Forwarded-Method": "OPTIONS"}, **PREFLIGHT)
    assert query.status == 400


async def test_d7_verify_responses_have_cors_headers(system: System) -> None:
    """CORS headers are part of /verify's responses, for the proxy to pass on."""
    party = await system.party(document(**{CORS: SETTINGS}))
    token = (await party.tokens()).access
    for bearer, expected in ((token, 200), ("wrong", 403)):
        response = await system.verify(party.at("x"), Authorization=f"Bearer {bearer}", Origin=ORIGIN)
        assert response.status == expected
        assert protocol(response.headers)["Access-Control-Allow-Origin"] == ORIGIN
        assert response.headers["Vary"] == "Origin"


def told(response: Response) -> dict[str, str]:
    """The headers without those that differ between responses."""
    return {name: value for name, value in response.headers.items() if name.lower() not in {"x-request-id", "date"}}


@pytest.mark.parametrize("path", ["/verify", "/verify/"])
async def test_d8_head_is_answered_as_get(system: System, path: str) -> None:
    """HEAD gets the status and headers of GET; the call's method is in a header, or GET."""
    issuing = await system.party()
    party = await limited_to(system, issuing, allowed_urls=[{"url": "", "methods": ["GET", "POST"]}])
    token = (await party.tokens()).access
    for named, bearer in (({}, token), ({"X-Forwarded-Method": "POST"}, token), ({}, "x"), ({}, "")):
        headers = {"X-Forwarded-Uri": party.at("x"), "Authorization": f"Bearer {bearer}", **named}
        get, head = [await system.call(method, path, headers=headers) for method in ("GET", "HEAD")]
        assert (head.status, head.raw) == (get.status, b"")
        assert told(head) == told(get)


async def test_d8_below_verify_head_is_the_call_s_own_method(system: System) -> None:
    """Below /verify, HEAD is the call's own method."""
    issuing = await system.party()
    party = await limited_to(system, issuing, allowed_urls=[{"url": "", "methods": ["HEAD"]}])
    bearer = {"Authorization": f"Bearer {(await party.tokens()).access}"}
    for method, expected in (("HEAD", 200), ("GET", 403)):
        assert (await system.call(method, f"/verify{party.at('x')}", headers=bearer)).status == expected
