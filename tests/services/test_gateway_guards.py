"""Guards in API definitions apply at both the proxy and /verify."""

import asyncio
import copy
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from multidict import CIMultiDict

from libs.bus.local import LocalBroker, LocalBus
from tests.builders import Caller, Response, api_document, make_policy, unique
from tests.services.system import Party, System, open_system, raw
from tests.services.upstreams import Upstream, upstream
from tests.unit.tyk_definitions import changed

TYK = "x-tyk-api-gateway"
ON = {"enabled": True}
CALLER = "192.0.2.7"
DOORS = ("proxy", "verify")
LANGUAGES = ("oas", "classic")

ADDRESS = (403, "access from this IP has been disallowed")
FORBIDDEN = (403, "Requested endpoint is forbidden")
NO_API = (404, "There is no such API")
MISSING = "Authorization field missing"
EXPIRED = (403, "API has expired, please check documentation or contact administrator")
TOO_LARGE = (413, "Request is too large")
OVER = (429, "API Rate Limit Exceeded")


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    """Behind a trusted proxy on this machine."""
    async with open_system(mongodb_url, trusted_proxies="127.0.0.1") as system:
        yield system


@pytest.fixture(scope="module", name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


class Endpoint(NamedTuple):
    """An endpoint of a definition with its guards, in both definition formats."""

    method: str
    path: str
    oas: dict[str, Any]
    classic: tuple[str, dict[str, Any]]


def blocked(method: str, path: str) -> Endpoint:
    return Endpoint(method, path, {"block": ON}, ("black_list", {}))


def allowed(method: str, path: str) -> Endpoint:
    return Endpoint(method, path, {"allow": ON}, ("white_list", {}))


def ignored(method: str, path: str) -> Endpoint:
    return Endpoint(method, path, {"ignoreAuthentication": ON}, ("ignored", {}))


def internal(method: str, path: str) -> Endpoint:
    return Endpoint(method, path, {"internal": ON}, ("internal", {}))


def virtual(method: str, path: str) -> Endpoint:
    return Endpoint(
        method, path, {"virtualEndpoint": {**ON, "functionName": "f"}}, ("virtual", {"response_function_name": "f"})
    )


def mocked(method: str, path: str, code: int) -> Endpoint:
    return Endpoint(method, path, {"mockResponse": {**ON, "code": code}}, ("mock_response", {"code": code}))


def rated(method: str, path: str, rate: int) -> Endpoint:
    return Endpoint(
        method, path, {"rateLimit": {**ON, "rate": rate, "per": "1m"}}, ("rate_limit", {"rate": rate, "per": 60})
    )


def sized(method: str, path: str, most: int) -> Endpoint:
    return Endpoint(method, path, {"requestSizeLimit": {**ON, "value": most}}, ("size_limits", {"size_limit": most}))


COMMON: dict[str, dict[str, dict[str, Any]]] = {
    "addresses-allowed": {
        "oas": {f"{TYK}/server/ipAccessControl": {**ON, "allow": ["192.0.2.0/24", "2001:db8::1"]}},
        "classic": {"enable_ip_whitelisting": True, "allowed_ips": ["192.0.2.0/24", "2001:db8::1"]},
    },
    "addresses-blocked": {
        "oas": {f"{TYK}/server/ipAccessControl": {**ON, "block": ["192.0.2.8", "2001:db8:1::/48"]}},
        "classic": {"enable_ip_blacklisting": True, "blacklisted_ips": ["192.0.2.8", "2001:db8:1::/48"]},
    },
    "internal": {"oas": {f"{TYK}/info/state/internal": True}, "classic": {"internal": True}},
    "domain": {
        "oas": {f"{TYK}/server/customDomain": {**ON, "name": "api.example.test"}},
        "classic": {"domain": "api.example.test"},
    },
    "domain-pattern": {
        "oas": {f"{TYK}/server/customDomain": {**ON, "name": "{tenant:[a-z]+}.api.example.test"}},
        "classic": {"domain": "{tenant:[a-z]+}.api.example.test"},
    },
    "size": {
        "oas": {f"{TYK}/middleware/global/requestSizeLimit": {**ON, "value": 10}},
        "classic": {"version_data/versions/Default/global_size_limit": 10},
    },
    "rate": {
        "oas": {f"{TYK}/upstream/rateLimit": {**ON, "rate": 2, "per": "1m"}},
        "classic": {"global_rate_limit": {"rate": 2, "per": 60}},
    },
    "expiry": {
        "oas": {f"{TYK}/info/expiration": "2020-01-01 00:00"},
        "classic": {"expiration": "2020-01-01 00:00"},
    },
    "keyless": {"oas": {f"{TYK}/server/authentication/enabled": False}, "classic": {"use_keyless": True}},
}


def guarded(language: str, upstream_url: str, *guards: str | Endpoint) -> dict[str, Any]:
    """The definition in this format with these guards."""
    common = [guard for guard in guards if isinstance(guard, str)]
    endpoints = [guard for guard in guards if isinstance(guard, Endpoint)]
    if language == "oas":
        document = api_document(**{f"{TYK}__upstream__url": upstream_url})
        for endpoint in endpoints:
            name = f"{endpoint.method}-{endpoint.path.strip('/').replace('/', '-')}"
            document = copy.deepcopy(document)
            document["paths"].setdefault(endpoint.path, {})[endpoint.method.lower()] = {"operationId": name}
            operations = document[TYK].setdefault("middleware", {}).setdefault("operations", {})
            operations.setdefault(name, {}).update(endpoint.oas)
    else:
        document = api_document("orders-classic.json", proxy__target_url=upstream_url)
        lists: dict[str, list[dict[str, Any]]] = {}
        for endpoint in endpoints:
            name, more = endpoint.classic
            lists.setdefault(name, []).append({"path": endpoint.path, "method": endpoint.method, **more})
        document = changed(document, "version_data/versions/Default/extended_paths", lists)
    for name in common:
        for path, value in COMMON[name][language].items():
            document = changed(document, path, value)
    return document


@dataclass(frozen=True)
class Guarded:
    """A client of a guarded API, with a token."""

    party: Party
    token: str

    async def ask(
        self,
        door: str,
        path: str = "things",
        method: str = "GET",
        *,
        token: bool = True,
        address: str = CALLER,
        host: str = "api.example.test",
        body: bytes = b"",
        call: Caller | None = None,
    ) -> Response:
        """Call the API, or ask about the call."""
        headers = {"X-Forwarded-For": address}
        if token:
            headers["Authorization"] = f"Bearer {self.token}"
        call = call or self.party.system.call
        if door == "proxy":
            return await sent(call, method, self.party.at(path), {**headers, "Host": host}, body)
        headers |= {"X-Forwarded-Uri": self.party.at(path), "X-Forwarded-Method": method, "X-Forwarded-Host": host}
        if body:
            headers["X-Original-Content-Length"] = str(len(body))
        return await call("GET", "/verify", headers=headers)


async def sent(call: Caller, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
    """Send a request with exactly this target."""
    headers = {**headers, "Connection": "close", "Content-Length": str(len(body))}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    head, _, rest = (await raw(call, "\r\n".join(lines).encode() + body)).partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    named = [field.partition(": ") for field in fields]
    return Response(int(line.split(" ")[1]), CIMultiDict((name, value) for name, _, value in named), rest)


async def made(system: System, document: dict[str, Any]) -> Guarded:
    party = await system.party(document)
    keyless = party.api.oauth is None
    return Guarded(party, "" if keyless else (await party.tokens()).access)


def said(response: Response) -> tuple[int, str]:
    return response.status, response.body.get("error", "") if response.status >= 400 else ""


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("guard", "admitted", "refused"),
    [
        pytest.param(
            "addresses-allowed",
            ["192.0.2.7", "192.0.2.255", "2001:db8::1", "::ffff:192.0.2.7"],
            ["192.0.3.1", "2001:db8::2", "198.51.100.1, 203.0.113.9", "no-address"],
            id="allowed",
        ),
        pytest.param(
            "addresses-blocked",
            ["192.0.2.7", "2001:db8:2::1"],
            ["192.0.2.8", "::ffff:192.0.2.8", "2001:db8:1::7", "192.0.2.7, 192.0.2.8"],
            id="blocked",
        ),
    ],
)
async def test_c2_ip_lists(
    system: System, behind: Upstream, door: str, language: str, guard: str, admitted: list[str], refused: list[str]
) -> None:
    """IP lists use the address seen by the trusted proxy, before any token is checked."""
    api = await made(system, guarded(language, behind.url, guard))
    for address in admitted:
        assert said(await api.ask(door, address=address)) == (200, ""), address
    for address in refused:
        for token in (True, False):
            expected = ADDRESS if address != "no-address" or guard == "addresses-allowed" else (200, "")
            assert said(await api.ask(door, address=address, token=token)) == expected, address


async def test_c2_an_ip_list_counts_the_peer_where_no_proxy_is_trusted(mongodb_url: str, behind: Upstream) -> None:
    """Without trusted proxies the peer address counts; headers have no effect."""
    async with open_system(mongodb_url) as system:
        api = await made(system, guarded("oas", behind.url, "addresses-allowed"))
        for door in DOORS:
            assert said(await api.ask(door, address="192.0.2.7")) == ADDRESS


PATHS = [
    pytest.param(blocked("GET", "/admin"), "admin", "GET", FORBIDDEN, id="blocked"),
    pytest.param(blocked("GET", "/admin"), "admin/x?y", "GET", FORBIDDEN, id="blocked-below"),
    pytest.param(blocked("GET", "/admin"), "x/administrators", "GET", FORBIDDEN, id="blocked-as-tyk-finds-it"),
    pytest.param(blocked("GET", "/admin"), "admin", "HEAD", FORBIDDEN, id="blocked-head"),
    pytest.param(blocked("GET", "/admin"), "admin", "POST", (200, ""), id="other-method"),
    pytest.param(blocked("GET", "/admin"), "things", "GET", (200, ""), id="other-path"),
    pytest.param(blocked("DELETE", "/users/{id}"), "users/7", "DELETE", FORBIDDEN, id="blocked-template"),
    pytest.param(blocked("DELETE", "/users/{id}"), "users", "DELETE", (200, ""), id="template-needs-a-segment"),
    *(
        pytest.param(blocked("GET", "/admin"), spelling, "GET", FORBIDDEN, id=f"blocked-{number}")
        for number, spelling in enumerate(
            (
                "%61dmin",
                "x/../admin",
                "./admin",
                "x/%2e%2e/admin",
                "x%2f..%2fadmin",
                "/admin",
                "x;y/..;/admin",
                "%2561dmin",
                "x\\..\\admin",
                "admin;x=1",
                "ad%6din/",
            )
        )
    ),
    pytest.param(allowed("GET", "/users/{id}"), "users/7", "GET", (200, ""), id="allowed"),
    pytest.param(allowed("GET", "/users/{id}"), "users/7", "POST", FORBIDDEN, id="not-this-method"),
    pytest.param(allowed("GET", "/users/{id}"), "admin", "GET", FORBIDDEN, id="not-allowed"),
    pytest.param(allowed("GET", "/users"), "users/../admin", "GET", FORBIDDEN, id="allowed-in-one-reading"),
    pytest.param(allowed("GET", "/users"), "admin/..%2fusers", "GET", FORBIDDEN, id="allowed-once-decoded"),
    pytest.param(internal("GET", "/inner"), "inner", "GET", FORBIDDEN, id="internal-endpoint"),
    pytest.param(internal("GET", "/inner"), "outer", "GET", (200, ""), id="beside-the-internal-endpoint"),
    pytest.param(virtual("GET", "/made"), "made", "GET", FORBIDDEN, id="virtual-endpoint"),
    pytest.param(virtual("GET", "/made"), "made", "POST", (200, ""), id="beside-the-virtual-endpoint"),
]


@pytest.mark.parametrize(("endpoint", "path", "method", "expected"), PATHS)
async def test_c2_path_lists(
    system: System,
    behind: Upstream,
    door: str,
    language: str,
    endpoint: Endpoint,
    path: str,
    method: str,
    expected: tuple[int, str],
) -> None:
    """Path lists apply to every reading of a path that an upstream may have, with or without a token."""
    api = await made(system, guarded(language, behind.url, endpoint))
    response = await api.ask(door, path, method)
    assert response.status == expected[0]
    if door == "verify" or method != "HEAD":
        assert said(response) == expected
    if expected == FORBIDDEN and method != "HEAD":
        assert said(await api.ask(door, path, method, token=False)) == FORBIDDEN


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        pytest.param("public", "GET", 200, id="public"),
        pytest.param("public?x=1", "GET", 200, id="query"),
        pytest.param("%70ublic", "GET", 400, id="encoded"),
        pytest.param("public", "POST", 400, id="other-method"),
        pytest.param("private", "GET", 400, id="other-path"),
        pytest.param("private/../public", "GET", 400, id="one-reading-is-public"),
        pytest.param("public/../private", "GET", 400, id="one-reading-is-private"),
        pytest.param("public%2f..%2fprivate", "GET", 400, id="private-once-decoded"),
    ],
)
async def test_c2_ignored_paths_need_no_token(
    system: System, behind: Upstream, door: str, language: str, path: str, method: str, status: int
) -> None:
    """Ignored paths need no token, unless some reading of the path is another one."""
    public = ignored("GET", "/public") if language == "oas" else ignored("GET", "^/public$")
    api = await made(system, guarded(language, behind.url, public))
    response = await api.ask(door, path, method, token=False)
    assert response.status == status, response.body
    assert status == 200 or response.body["error"] == MISSING
    assert (await api.ask(door, path, method)).status == 200


async def test_c2_a_token_on_an_ignored_path_is_stripped_all_the_same(system: System, behind: Upstream) -> None:
    """`strip_auth_data` removes a token on ignored paths, too."""
    document = guarded("classic", behind.url, ignored("GET", "/public"))
    api = await made(system, document)
    assert said(await api.ask("proxy", "public")) == (200, "")
    assert behind.latest.all("Authorization") == []
    open_api = await made(system, guarded("classic", behind.url, "keyless"))
    await open_api.ask("proxy")
    assert behind.latest.one("Authorization") == "Bearer"


async def test_c2_an_openapi_path_template_opens_only_itself(system: System, behind: Upstream, door: str) -> None:
    """A path of OpenAPI `paths` matches as a whole, not as a prefix."""
    document = guarded("oas", behind.url, ignored("GET", "/public/{id}"))
    api = await made(system, document)
    expected = {"public/7": 200, "public/7/": 200, "public/7/secret": 400, "x/public/7": 400, "public": 400}
    found = {path: (await api.ask(door, path, token=False)).status for path in expected}
    assert found == expected


async def test_c2_lists_count_in_tyk_s_order(system: System, behind: Upstream, door: str, language: str) -> None:
    """The order is Tyk's: internal, ignored, blocked, allowed; a blocked address is refused on ignored paths, too."""
    guards = (
        ignored("GET", "/a"),
        blocked("GET", "/a"),
        blocked("GET", "/b"),
        allowed("GET", "/b"),
        "addresses-blocked",
    )
    api = await made(system, guarded(language, behind.url, *guards))
    assert said(await api.ask(door, "a", token=False)) == (200, "")
    assert said(await api.ask(door, "b")) == FORBIDDEN
    assert said(await api.ask(door, "c")) == FORBIDDEN
    assert said(await api.ask(door, "a", token=False, address="192.0.2.8")) == ADDRESS


@pytest.mark.parametrize("closed", [virtual("GET", "/a"), mocked("GET", "/a", 404)], ids=["virtual", "mock"])
async def test_c2_what_tyk_answers_itself_is_closed_without_a_token_too(
    system: System, behind: Upstream, door: str, language: str, closed: Endpoint
) -> None:
    """Tyk forwards no call of a virtual endpoint or of a mock: an upstream must not get one on an ignored path."""
    api = await made(system, guarded(language, behind.url, ignored("GET", "/a"), closed))
    assert said(await api.ask(door, "a", token=False)) == FORBIDDEN
    assert said(await api.ask(door, "a")) == FORBIDDEN


async def test_c2_the_old_lists_of_tyk_classic(system: System, behind: Upstream, door: str) -> None:
    """Tyk Classic's old lists: strings for every method, and `method_actions`."""
    document = guarded("classic", behind.url)
    version = "version_data/versions/Default"
    plain = changed(document, f"{version}/use_extended_paths", False)
    plain = changed(
        plain, f"{version}/paths", {"ignored": ["/public"], "white_list": ["/ok"], "black_list": ["/ok/not"]}
    )
    api = await made(system, plain)
    assert said(await api.ask(door, "public", "POST", token=False)) == (200, "")
    assert said(await api.ask(door, "ok", "PUT")) == (200, "")
    assert said(await api.ask(door, "ok/not")) == FORBIDDEN
    assert said(await api.ask(door, "else")) == FORBIDDEN
    action = {"action": "no_action", "code": 200, "data": "", "headers": {}}
    lists = {
        "ignored": [{"path": "/public", "ignore_case": True, "method_actions": {"GET": action}}],
        "black_list": [{"path": "/admin", "method_actions": {}}, {"path": "/off", "disabled": True}],
    }
    document = guarded("classic", behind.url)
    api = await made(system, changed(document, f"{version}/extended_paths", lists))
    assert said(await api.ask(door, "Public", token=False)) == (200, "")
    assert said(await api.ask(door, "public", "POST", token=False)) == (400, MISSING)
    assert said(await api.ask(door, "admin")) == FORBIDDEN
    assert said(await api.ask(door, "off")) == (200, "")


@pytest.mark.parametrize("guard", ["blocked", "addresses", "size", "rate"])
async def test_c2_guards_of_an_api_that_asks_for_no_token(
    system: System, behind: Upstream, door: str, language: str, guard: str
) -> None:
    """Guards work on a keyless API."""
    guards: dict[str, tuple[str | Endpoint, tuple[int, Any]]] = {
        "blocked": (blocked("POST", "/things"), FORBIDDEN),
        "addresses": ("addresses-blocked", ADDRESS),
        "size": ("size", TOO_LARGE),
        "rate": (rated("POST", "/things", 1), OVER),
    }
    chosen, expected = guards[guard]
    api = await made(system, guarded(language, behind.url, "keyless", chosen))
    if guard == "rate":
        assert said(await api.ask(door, method="POST", token=False)) == (200, "")
    response = await api.ask(door, method="POST", token=False, address="192.0.2.8", body=b"x" * 11)
    assert said(response) == expected


async def test_c2_an_internal_api_is_not_there(system: System, behind: Upstream, door: str, language: str) -> None:
    """An internal API gets 404 even with a valid token, and is not in introspection."""
    open_api = await made(system, guarded(language, behind.url))
    document = guarded(language, behind.url, "internal")
    api = await made(system, document)
    assert said(await api.ask(door)) == NO_API
    assert said(await api.ask(door, token=False)) == NO_API
    shown = await system.operator("POST", "/oauth/introspect", data={"token": api.token})
    assert shown.body == {"active": False}
    assert said(await open_api.ask(door)) == (200, "")
    limits = api.party.at("tyk/rate-limits")
    bearer = {"Authorization": f"Bearer {api.token}"}
    assert (await system.call("GET", limits, headers=bearer)).status == 404


@pytest.mark.parametrize(
    ("guard", "ours", "others"),
    [
        pytest.param(
            "domain",
            ["api.example.test", "API.Example.Test:8080", "api.example.test."],
            ["example.test", "evil-api.example.test", "api.example.test.evil", "127.0.0.1", "apiXexample.test"],
            id="name",
        ),
        pytest.param(
            "domain-pattern",
            ["a.api.example.test"],
            ["api.example.test", "1.api.example.test", "a.b.api.example.test"],
            id="pattern",
        ),
    ],
)
async def test_c2_a_custom_domain(
    system: System, behind: Upstream, door: str, language: str, guard: str, ours: list[str], others: list[str]
) -> None:
    """A call with another Host does not reach an API with a custom domain, as in Tyk."""
    api = await made(system, guarded(language, behind.url, guard))
    for host in ours:
        assert said(await api.ask(door, host=host)) == (200, ""), host
    for host in others:
        assert said(await api.ask(door, host=host)) == NO_API, host


async def test_c2_an_expired_api(system: System, behind: Upstream, door: str, language: str) -> None:
    """After its expiry an API refuses every call."""
    api = await made(system, guarded(language, behind.url, "expiry"))
    assert said(await api.ask(door)) == EXPIRED
    shown = await system.operator("POST", "/oauth/introspect", data={"token": api.token})
    assert shown.body == {"active": False}
    later = system.clock() + timedelta(days=1)
    path = f"{TYK}/info/expiration" if language == "oas" else "expiration"
    document = changed(guarded(language, behind.url), path, later.strftime("%Y-%m-%d %H:%M"))
    assert said(await (await made(system, document)).ask(door)) == (200, "")


async def test_c2_request_sizes(system: System, behind: Upstream, door: str, language: str) -> None:
    """The smaller of the API's and the endpoint's size limit applies; requests without body pass."""
    api = await made(
        system, guarded(language, behind.url, "size", sized("POST", "/small", 5), sized("POST", "/large", 50))
    )
    sizes = {("things", 10): 200, ("things", 11): 413, ("small", 5): 200, ("small", 6): 413, ("large", 11): 413}
    for (path, size), status in sizes.items():
        response = await api.ask(door, path, "POST", body=b"x" * size)
        assert response.status == status, (path, size)
        if status == 413:
            assert said(response) == TOO_LARGE
    assert said(await api.ask(door, "small", "GET")) == (200, "")


async def test_c2_a_body_of_unknown_size_needs_its_length(system: System, behind: Upstream) -> None:
    """With a size limit a body needs a Content-Length (Tyk's 411)."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    limited, free = (
        await made(system, guarded("oas", behind.url, "size")),
        await made(system, guarded("oas", behind.url)),
    )
    for api, expected in ((limited, 411), (free, 200)):
        bearer = {"Authorization": f"Bearer {api.token}"}
        assert (await system.call("POST", api.party.at("x"), headers=bearer, data=pieces())).status == expected


async def test_c2_rates_of_the_api_and_of_an_endpoint(system: System, behind: Upstream, language: str) -> None:
    """Rates are counted over all callers and both the proxy and /verify; an endpoint's rate replaces the API's."""
    api = await made(system, guarded(language, behind.url, "rate", rated("GET", "/one", 1)))
    other = Guarded(api.party, (await api.party.tokens()).access)
    assert said(await api.ask("proxy", "one")) == (200, "")
    response = await other.ask("verify", "one")
    assert said(response) == OVER
    assert int(response.headers["Retry-After"]) >= 1
    assert said(await other.ask("proxy", "%6fne")) == OVER
    assert said(await api.ask("verify", "two")) == (200, "")
    statuses = [said(await caller.ask("proxy", "two"))[0] for caller in (other, api)]
    assert statuses == [200, 429]


@pytest.mark.parametrize("switch", ["skipped", "off"])
async def test_c2_a_rate_that_is_switched_off(system: System, behind: Upstream, language: str, switch: str) -> None:
    """A rate can be disabled by its own switch and by the API's."""
    document = guarded(language, behind.url, "rate")
    paths = {
        ("oas", "skipped"): f"{TYK}/middleware/global/skipRateLimit",
        ("oas", "off"): f"{TYK}/upstream/rateLimit/enabled",
        ("classic", "skipped"): "disable_rate_limit",
        ("classic", "off"): "global_rate_limit/disabled",
    }
    path = paths[language, switch]
    api = await made(system, changed(document, path, not path.endswith("enabled")))
    assert [(await api.ask("verify")).status for _ in range(4)] == [200] * 4


async def test_c2_a_refused_call_counts_for_nothing(system: System, behind: Upstream) -> None:
    """A refused call is not counted, neither against the API's rate nor the client's quota."""
    api = await made(system, guarded("oas", behind.url, "rate", blocked("GET", "/admin")))
    for _ in range(4):
        assert (await api.ask("verify", token=False)).status == 400
    assert said(await api.ask("verify")) == (200, "")
    policy = await make_policy(system.deps, api.party.api.api_id, quota_max=1)
    party = await system.client_of(api.party.api, policy_ids=(policy.policy_id,))
    limited = Guarded(party, (await party.tokens()).access)
    assert said(await limited.ask("verify", "admin")) == FORBIDDEN
    assert said(await limited.ask("verify")) == (200, "")


async def test_c2_a_rate_is_exact_over_instances(mongodb_url: str, behind: Upstream) -> None:
    """Two gateways together admit exactly the rate."""
    broker, database = LocalBroker(), f"tokenwire_test_{secrets.token_hex(6)}"
    async with (
        open_system(mongodb_url, database, LocalBus(broker)) as one,
        open_system(mongodb_url, database, LocalBus(broker), one.clock) as two,
    ):
        api = await made(one, guarded("oas", behind.url, rated("GET", "/one", 7)))
        calls = [api.ask("verify", "one", call=system.call) for _ in range(10) for system in (one, two)]
        statuses = [response.status for response in await asyncio.gather(*calls)]
        assert statuses.count(200) == 7
        assert statuses.count(429) == 13


def versioned(behind: Upstream, **version: Any) -> dict[str, Any]:
    """An API whose v1 has no guards and v2 has these."""
    document = guarded("classic", behind.url)
    versions = {"v1": {"name": "v1"}, "v2": {"name": "v2", **version}}
    data = {"not_versioned": False, "default_version": "v1", "versions": versions}
    return changed(changed(document, "version_data", data), "definition", {"location": "url", "key": ""})


async def test_c2_guards_of_one_version(system: System, behind: Upstream, door: str) -> None:
    """Guards of a version apply to the path below it in every reading; an unknown version has none."""
    lists = {"black_list": [{"path": "^/admin"}]}
    api = await made(system, versioned(behind, use_extended_paths=True, extended_paths=lists))
    assert said(await api.ask(door, "v1/admin")) == (200, "")
    assert said(await api.ask(door, "v2/admin")) == FORBIDDEN
    assert said(await api.ask(door, "v2/things")) == (200, "")
    expired = await made(system, versioned(behind, expires="2020-01-01 00:00"))
    assert said(await expired.ask(door, "v1/x")) == (200, "")
    assert said(await expired.ask(door, "v2/x")) == EXPIRED


async def test_c2_a_version_that_does_not_exist_is_refused(system: System, behind: Upstream, door: str) -> None:
    """An unknown version is refused, or it would bypass the guards of the others."""
    document = versioned(behind, use_extended_paths=True, extended_paths={"black_list": [{"path": "/admin"}]})
    document = changed(document, "definition", {"location": "url-param", "key": "v"})
    api = await made(system, document)
    assert said(await api.ask(door, "admin?v=v1")) == (200, "")
    assert said(await api.ask(door, "admin?v=v2")) == FORBIDDEN
    assert said(await api.ask(door, "admin?v=v3")) == (403, "This API version does not seem to exist")
    falling = changed(document, "definition/fallback_to_default", True)
    name = unique("falling-back")
    falling = changed(changed(falling, "api_id", name), "proxy/listen_path", f"/{name}/")
    assert said(await (await made(system, falling)).ask(door, "admin?v=v3")) == (200, "")


async def test_c2_a_preflight_that_the_upstream_answers_is_guarded_too(system: System, behind: Upstream) -> None:
    """`optionsPassthrough` admits OPTIONS without a token, but the lists still apply."""
    cors = {**ON, "optionsPassthrough": True, "allowedOrigins": ["https://app.example.test"]}
    document = guarded("oas", behind.url, "addresses-blocked", blocked("OPTIONS", "/admin"))
    api = await made(system, changed(document, f"{TYK}/middleware/global/cors", cors))
    headers = {"Origin": "https://app.example.test", "Access-Control-Request-Method": "GET"}

    async def preflight(path: str, address: str = CALLER) -> int:
        told = {**headers, "X-Forwarded-For": address}
        return (await system.call("OPTIONS", api.party.at(path), headers=told)).status

    assert await preflight("things") == 200
    assert await preflight("admin") == 403
    assert await preflight("things", "192.0.2.8") == 403
