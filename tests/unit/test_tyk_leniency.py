"""What a Tyk gateway accepts and does not protect anything is accepted here, with a warning where it has no effect."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.apis import Api, GrantType, TokenLocation
from libs.tyk.classic import read_classic
from libs.tyk.import_notes import ImportNotes
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.oas import read_oas
from libs.tyk.upstreams import WITHOUT_UPSTREAM
from tests.unit.tyk_definitions import ABSENT, changed, definition

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
OAS, CLASSIC = definition("orders-oas.json"), definition("orders-classic.json")
TYK = "x-tyk-api-gateway"
AUTHENTICATION = f"{TYK}/server/authentication"
OAUTH = f"{AUTHENTICATION}/securitySchemes/tykOAuth"
ON = {"enabled": True}


def oas(*members: Any) -> dict[str, Any]:
    """The orders API with these members, given as path and value in turn."""
    return with_members(OAS, *members)


def classic(*members: Any) -> dict[str, Any]:
    return with_members(CLASSIC, *members)


def with_members(document: dict[str, Any], *members: Any) -> dict[str, Any]:
    for path, value in zip(members[::2], members[1::2], strict=True):
        document = changed(document, path, value)
    return document


def imported(document: dict[str, Any]) -> tuple[Api, ImportNotes]:
    """The API, as an import without `accept_unsupported` reads it."""
    notes = ImportNotes()
    reader = read_oas if "openapi" in document else read_classic
    return reader(document, api_id="generated", now=NOW, notes=notes), notes


# Upstreams


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("", "there is no upstream", id="empty"),
        pytest.param(None, "there is no upstream", id="null"),
        pytest.param(ABSENT, "there is no upstream", id="absent"),
        pytest.param("tyk://self/things", "another API of the same gateway", id="loop"),
        pytest.param("h2c://grpc.example.test:50051", "HTTP/2 without TLS (gRPC)", id="grpc"),
        pytest.param("env://ORDERS_URL", "nothing replaces this reference", id="environment"),
        pytest.param("vault://secret/data.url", "nothing replaces this reference", id="vault"),
        pytest.param("https://$secret_env.HOST/", "nothing replaces this reference", id="secret"),
    ],
)
def test_c2_an_upstream_that_only_tyk_can_call_is_a_warning(url: Any, reason: str) -> None:
    """Such an API still issues tokens and serves /verify; the warning says that calls cannot be forwarded."""
    api, notes = imported(classic("proxy/target_url", url))
    (said,) = notes.warnings
    assert said.startswith("proxy.target_url: ")
    assert reason in said
    assert said.endswith(WITHOUT_UPSTREAM)
    assert [part.path for part in notes.report.unused] == ["proxy.target_url"]
    assert (api.upstream_url, api.further_upstream_urls) == ("", ())
    if url not in {None, ABSENT}:
        api, notes = imported(oas(f"{TYK}/upstream/url", url))
        assert (api.upstream_url, len(notes.warnings)) == ("", 1)


@pytest.mark.parametrize("url", ["orders", "/orders", "htp://orders.test/", "http://", "mailto:x"])
def test_c2_a_misspelt_upstream_is_still_refused(url: str) -> None:
    """Only what Tyk can call, or resolves before it calls, is let pass."""
    for document in (classic("proxy/target_url", url), oas(f"{TYK}/upstream/url", url)):
        with pytest.raises(InvalidDefinition, match="an absolute http or https URL"):
            imported(document)


def test_c2_targets_may_be_a_host_and_a_port() -> None:
    """Of targets that cannot be called the others are left; without any, calls cannot be forwarded."""
    balanced = classic("proxy/enable_load_balancing", True, "proxy/target_list", ["a.test:8080", "tyk://x", "//b.test"])
    with pytest.raises(InvalidDefinition, match=r"target_list\.\[2\]: an absolute http"):
        imported(balanced)
    api, notes = imported(changed(balanced, "proxy/target_list", ["a.test:8080", "tyk://x", "https://b.test/"]))
    assert (api.upstream_url, api.further_upstream_urls) == ("http://a.test:8080", ("https://b.test/",))
    assert [said.endswith("so it gets no calls") for said in notes.warnings] == [True]
    targets = [{"url": "a.test", "weight": 1}, {"url": "env://B", "weight": 2}]
    api, _ = imported(oas(f"{TYK}/upstream/loadBalancing", {**ON, "targets": targets}))
    assert (api.upstream_url, api.further_upstream_urls) == ("http://a.test", ())
    api, notes = imported(oas(f"{TYK}/upstream/loadBalancing", {**ON, "targets": targets[1:]}))
    assert (api.upstream_url, notes.warnings[-1].endswith(WITHOUT_UPSTREAM)) == ("", True)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        pytest.param(oas(f"{TYK}/upstream/mutualTLS", ON), f"{TYK}.upstream.mutualTLS", id="oas-mtls"),
        pytest.param(
            oas(f"{TYK}/upstream/authentication", {**ON, "basicAuth": {**ON, "username": "u", "password": "p"}}),
            f"{TYK}.upstream.authentication.basicAuth",
            id="oas-basic",
        ),
        pytest.param(
            classic("upstream_auth", {**ON, "oauth": {**ON, "client_credentials": {"client_id": "c"}}}),
            "upstream_auth",
            id="classic-oauth",
        ),
        pytest.param(classic("upstream_certificates", {"*": "c"}), "upstream_certificates", id="classic-certificates"),
        pytest.param(
            classic("request_signing", {"is_enabled": True}), "request_signing.is_enabled", id="classic-signing"
        ),
    ],
)
def test_c2_credentials_for_the_upstream_are_a_warning(document: dict[str, Any], path: str) -> None:
    """They admit calls to the upstream and protect nothing here: without them it refuses, or asks for none."""
    api, notes = imported(document)
    assert api.unsupported == ()
    assert [said.startswith(f"{path}: not used; the upstream gets calls without it") for said in notes.warnings] == [
        True
    ]


@pytest.mark.parametrize("secret", ["env://HOOK_SECRET", "vault://secret/data.hook", "$secret_env.HOOK"])
def test_c2_a_shared_secret_that_nothing_replaces_is_refused(secret: str) -> None:
    """Anybody who knows the definition could forge webhooks that are signed with the reference itself."""
    for document in (
        classic("notifications/shared_secret", secret),
        oas(f"{OAUTH}/notifications/sharedSecret", secret),
    ):
        with pytest.raises(InvalidDefinition, match="nothing replaces this reference"):
            imported(document)


# Authentication


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(classic("oauth_meta", ABSENT), id="classic-no-settings"),
        pytest.param(classic("oauth_meta/allowed_access_types", ["refresh_token"]), id="classic-refresh-alone"),
        pytest.param(classic("oauth_meta/allowed_access_types", ["authorisation_code"]), id="classic-misspelt"),
        pytest.param(
            classic(
                "oauth_meta/allowed_access_types",
                ["authorization_code"],
                "oauth_meta/allowed_authorize_types",
                ["token"],
            ),
            id="classic-implicit",
        ),
        pytest.param(oas("components/securitySchemes/tykOAuth/flows", {}), id="oas-no-flows"),
        pytest.param(
            oas("components/securitySchemes/tykOAuth/flows", {"implicit": {"authorizationUrl": "/", "scopes": {}}}),
            id="oas-implicit",
        ),
    ],
)
def test_c2_an_oauth_api_without_a_grant_issues_no_tokens(document: dict[str, Any]) -> None:
    """Calls still need one: of another API, opened by a common policy. A warning says so."""
    api, notes = imported(document)
    assert api.oauth is not None
    assert (api.oauth.grant_types, api.oauth.response_types, api.oauth.refresh_token) == ((), (), False)
    assert any("the API issues no tokens" in said for said in notes.warnings)


def test_c2_an_unknown_access_type_is_left_out_with_a_warning() -> None:
    """The others count; a list of authorize types without a known one is still not an empty one."""
    api, notes = imported(classic("oauth_meta/allowed_access_types", ["password", "authorisation_code"]))
    assert api.oauth is not None
    assert api.oauth.grant_types == (GrantType.PASSWORD,)
    assert notes.warnings[0].startswith("oauth_meta.allowed_access_types[1]: not used: one of authorization_code")
    api, _ = imported(classic("oauth_meta/allowed_authorize_types", ["cod"]))
    assert api.oauth is not None
    assert GrantType.AUTHORIZATION_CODE not in api.oauth.grant_types
    assert api.oauth.response_types == ()


KEY = {"type": "apiKey", "in": "query", "name": "key"}


@pytest.mark.parametrize(
    ("members", "location"),
    [
        pytest.param(("security", ABSENT), TokenLocation(), id="no-security"),
        pytest.param(("security", [{}]), TokenLocation(), id="empty-requirement"),
        pytest.param(("security", [{"other": []}]), TokenLocation(), id="unknown-scheme"),
        pytest.param((f"{AUTHENTICATION}/securitySchemes", ABSENT), TokenLocation(), id="no-settings"),
        pytest.param((f"{OAUTH}/enabled", False), TokenLocation(), id="scheme-disabled"),
        pytest.param(
            ("components/securitySchemes/key", KEY, "security", [{"key": []}]),
            TokenLocation(header=None, query="key"),
            id="api-key-without-settings",
        ),
    ],
)
def test_c2_authentication_without_a_scheme_is_the_auth_token_method(
    members: tuple[Any, ...], location: TokenLocation
) -> None:
    """As in Tyk, calls need a token; never nothing, because `enabled` is true."""
    api, notes = imported(oas(*members))
    assert (api.oauth, api.auth_token, api.token_location) == (None, True, location)
    assert any("no scheme is enabled, so calls need a token" in said for said in notes.warnings)


@pytest.mark.parametrize("method", ["hmac", "oidc", "custom"])
def test_c2_authentication_by_another_method_alone_is_refused(method: str) -> None:
    """A method without a scheme of the document is one; it is not offered, whatever is accepted."""
    document = oas("security", ABSENT, f"{AUTHENTICATION}/{method}", ON)
    with pytest.raises(InvalidDefinition, match="authentication is enabled, but no scheme here"):
        read_oas(document, api_id="x", now=NOW, accept_unsupported=True)


# Lifetimes


def lifetime_of(document: dict[str, Any]) -> tuple[timedelta, tuple[str, ...], int]:
    """The lifetime of access tokens, what is enforced, and how many parts have no effect."""
    api, notes = imported(document)
    assert api.oauth is not None
    return api.oauth.access_token_lifetime, notes.report.enforced, len(notes.report.unused)


HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
CUSTOM = f"{AUTHENTICATION}/customKeyLifetime"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(classic("session_lifetime", 60), (MINUTE, ("session_lifetime",), 0), id="classic"),
        pytest.param(classic("session_lifetime", 7200), (HOUR, (), 0), id="classic-longer"),
        pytest.param(classic("session_lifetime", 0), (HOUR, (), 0), id="classic-zero"),
        pytest.param(classic("session_lifetime", -1), (HOUR, (), 0), id="classic-negative"),
        pytest.param(
            classic("session_lifetime", 60, "session_lifetime_respects_key_expiration", True),
            (HOUR, (), 0),
            id="classic-expiry-counts",
        ),
        pytest.param(
            classic("session_lifetime", 60, "tokenwire", {"accessTokenLifetime": 120}),
            (2 * MINUTE, (), 1),
            id="classic-own-setting",
        ),
        pytest.param(
            oas(CUSTOM, {**ON, "value": "1m"}),
            (MINUTE, (f"{TYK}.server.authentication.customKeyLifetime",), 0),
            id="oas",
        ),
        pytest.param(oas(CUSTOM, {"enabled": False, "value": "1m"}), (HOUR, (), 0), id="oas-off"),
        pytest.param(oas(CUSTOM, {**ON, "value": "1m", "respectValidity": True}), (HOUR, (), 0), id="oas-expiry"),
    ],
)
def test_c2_a_token_lives_no_longer_than_a_session_of_tyk_s(document: dict[str, Any], expected: Any) -> None:
    """Where Tyk would forget the session before the token expires, the token expires then."""
    assert lifetime_of(document) == expected


def test_c2_the_lifetime_of_sessions_says_nothing_where_no_tokens_are_issued() -> None:
    """An Auth Token API takes tokens of others, whose lifetime is theirs; a warning says so."""
    api, notes = imported(classic("use_oauth2", False, "use_standard_auth", True, "session_lifetime", 60))
    assert api.oauth is None
    assert [part.path for part in notes.report.unused] == ["session_lifetime"]


# What has no effect


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"cache_options": {"enable_cache": True, "cache_timeout": 60}}, id="cache"),
        pytest.param({"enable_batch_request_support": True}, id="batches"),
        pytest.param({"enable_context_vars": True}, id="context-variables"),
        pytest.param({"event_handlers": {"events": {"KeyExpired": [{"handler_name": "eh_log"}]}}}, id="events"),
        pytest.param({"uptime_tests": {"check_list": [{"url": "http://a.test/"}]}}, id="uptime-tests"),
        pytest.param({"response_processors": [{"name": "header_injector"}]}, id="response-processors"),
        pytest.param({"custom_middleware": {"response": [{"name": "f", "path": "f.js"}]}}, id="response-plugin"),
        pytest.param({"config_data": {"a": 1}}, id="data-for-plugins"),
        pytest.param({"tag_headers": ["X-Tenant"], "enable_detailed_recording": True}, id="analytics"),
        pytest.param({"error_overrides": {"404": {"message": "x"}}}, id="error-bodies"),
        pytest.param({"proxy/preserve_host_header": True}, id="host-header"),
        pytest.param({"proxy/service_discovery": {"use_discovery_service": True}}, id="service-discovery"),
        pytest.param({"proxy/transport": {"ssl_insecure_skip_verify": True}}, id="unverified-upstream"),
        pytest.param({"certificates": ["c"], "listen_port": 8443}, id="listener"),
        pytest.param({"souin": {"ttl": "1m"}}, id="settings-of-a-plugin"),
        *(
            pytest.param({f"version_data/versions/Default/extended_paths/{key}": [{"path": "/a", **more}]}, id=key)
            for key, more in (
                ("transform", {"template_data": {"template_source": "e30="}}),
                ("transform_response", {"template_data": {"template_source": "e30="}}),
                ("transform_jq", {"filter": "."}),
                ("transform_response_headers", {"add_headers": {"X-A": "b"}}),
                ("url_rewrites", {"match_pattern": "/a", "rewrite_to": "/b"}),
                ("method_transforms", {"to_method": "PUT"}),
                ("hard_timeouts", {"timeout": 3}),
                ("circuit_breakers", {"threshold_percent": 0.5, "samples": 5}),
                ("advance_cache_config", {"cache_response_codes": [200]}),
                ("mock_response", {"code": 200, "body": "{}"}),
            )
        ),
    ],
)
def test_c2_a_feature_that_protects_nothing_is_a_warning(members: dict[str, Any]) -> None:
    """The API is accepted as it is, and the report names the part."""
    document = classic(*(part for member in members.items() for part in member))
    api, notes = imported(document)
    assert api.unsupported == ()
    assert notes.report.refused == ()
    assert len(notes.report.unused) >= 1


LISTED = {"path": "/things", "method": "GET"}
MOCKED = "version_data/versions/Default/extended_paths"
OPERATIONS = f"{TYK}/middleware/operations"
THINGS = ("paths", {"/things": {"get": {"operationId": "things"}}})


@pytest.mark.parametrize(
    ("document", "refused"),
    [
        pytest.param(classic(MOCKED, {"mock_response": [{**LISTED, "code": 403}]}), True, id="classic"),
        pytest.param(classic(MOCKED, {"mock_response": [{**LISTED, "code": 200}]}), False, id="classic-success"),
        pytest.param(
            classic(MOCKED, {"mock_response": [{**LISTED, "code": 403, "disabled": True}]}), False, id="classic-off"
        ),
        pytest.param(oas(*THINGS, OPERATIONS, {"things": {"mockResponse": {**ON, "code": 404}}}), True, id="oas"),
        pytest.param(
            oas(*THINGS, OPERATIONS, {"things": {"mockResponse": {"enabled": False, "code": 404}}}), False, id="oas-off"
        ),
        pytest.param(
            oas(*THINGS, OPERATIONS, {"things": {"mockResponse": {**ON, "code": 500, "fromOASExamples": ON}}}),
            False,
            id="oas-from-examples",
        ),
    ],
)
def test_c2_a_mock_of_an_error_closes_its_endpoint(document: dict[str, Any], refused: bool) -> None:
    """Tyk forwards no such call, so none reaches the upstream here; it is enforced, and not also unused."""
    api, notes = imported(document)
    closed = [rule.pattern for paths in (api.guards.paths if api.guards else ()) for rule in paths.internal]
    assert closed == (["/things"] if refused else [])
    assert len(notes.report.enforced) == (1 if refused else 0)
    if refused:
        assert notes.report.unused == ()
        assert "refused with 403" in notes.warnings[0]
