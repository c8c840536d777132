"""Tyk OAS definitions: what is read from them, and what is refused."""

import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.apis import Api, DefinitionFormat, GrantType, RefreshReuse, TokenLocation
from libs.tyk.errors import InvalidDefinition
from libs.tyk.oas import read_oas
from tests.unit.tyk_definitions import ABSENT, changed, definition

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
ORDERS = definition("orders-oas.json")
TYK = "x-tyk-api-gateway"
AUTHENTICATION = f"{TYK}/server/authentication"
SETTINGS = f"{AUTHENTICATION}/securitySchemes/tykOAuth"
DECLARED = "components/securitySchemes/tykOAuth"


def read(document: Any, **named: Any) -> Api:
    return read_oas(document, **{"api_id": "generated", "now": NOW, **named})


def read_changed(path: str, value: Any) -> Api:
    return read(changed(ORDERS, path, value))


def refusal(document: Any) -> str:
    with pytest.raises(InvalidDefinition) as refused:
        read(document)
    return str(refused.value)


def with_auth_token(document: dict[str, Any], **declared: Any) -> dict[str, Any]:
    """The document with a second scheme, of the Auth Token method."""
    document = changed(document, "components/securitySchemes/key", {"type": "apiKey", **declared})
    document = changed(document, f"{AUTHENTICATION}/securitySchemes/key", {"enabled": True})
    return {**document, "security": [*document["security"], {"key": []}]}


def test_the_documented_definition_is_imported_as_it_is() -> None:
    """The product's own example becomes an API that issues tokens for codes."""
    api = read(definition("my-oauth-api.json"))
    assert api.api_id == "generated"
    assert (api.name, api.active, api.listen_path, api.strip_listen_path) == (
        "My OAuth API",
        True,
        "/my-oauth-api/",
        True,
    )
    assert (api.upstream_url, api.strip_authorization_data) == ("http://httpbin.org/", False)
    assert api.token_location == TokenLocation(header="Authorization", query=None, cookie=None)
    assert (api.format, api.auth_token) == (DefinitionFormat.OAS, False)
    assert (api.version, api.created_at, api.updated_at) == (1, NOW, NOW)
    assert api.oauth is not None
    assert api.oauth.grant_types == (GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN)
    assert (api.oauth.response_types, api.oauth.refresh_token) == (("code",), True)
    assert api.oauth.login_url == "http://identityserver.com/client-redirect-uri"
    assert api.oauth.notifications is not None
    assert api.oauth.notifications.on_key_change_url == "http://notifyme.com"
    assert api.oauth.notifications.shared_secret.get_secret_value() == "oauth-shared-secret"


def test_every_grant_is_read_from_the_flows() -> None:
    """The flows and `refreshToken` are the grants; id and organisation are the definition's own."""
    api = read(ORDERS)
    assert (api.api_id, api.org_id) == ("orders-api", "5e9d9544a1dcd60001d0ed20")
    assert api.strip_authorization_data is True
    assert api.oauth is not None
    assert api.oauth.grant_types == tuple(GrantType)


def test_the_kept_text_is_the_document_with_its_id() -> None:
    """A reader gets back what was imported, and the id that it got."""
    document = definition("my-oauth-api.json")
    before = copy.deepcopy(document)
    kept = json.loads(read(document).definition.get_secret_value())
    assert document == before
    assert kept == changed(before, f"{TYK}/info/id", "generated")


def test_a_replacement_keeps_its_creation_and_counts_its_version() -> None:
    """Who replaces a definition says since when it exists and the how-manieth version it is."""
    earlier = NOW - timedelta(days=1)
    api = read(ORDERS, created_at=earlier, version=7)
    assert (api.version, api.created_at, api.updated_at) == (7, earlier, NOW)


@pytest.mark.parametrize("empty", [ABSENT, "", None])
def test_without_an_id_it_gets_the_given_one(empty: object) -> None:
    """An absent, empty or null id is no id."""
    api = read_changed(f"{TYK}/info/id", empty)
    assert api.api_id == "generated"
    assert json.loads(api.definition.get_secret_value())[TYK]["info"]["id"] == "generated"


@pytest.mark.parametrize(
    ("source", "value", "location"),
    [
        pytest.param("header", ABSENT, TokenLocation(header=None), id="no-header-is-a-disabled-header"),
        pytest.param("header", {"name": "X-Token"}, TokenLocation(header=None), id="header-not-enabled"),
        pytest.param("header", {"enabled": True}, TokenLocation(), id="header-without-name"),
        pytest.param("header", {"enabled": True, "name": "X-Token"}, TokenLocation(header="X-Token"), id="header"),
        pytest.param("query", {"enabled": True}, TokenLocation(query="Authorization"), id="query-named-as-header"),
        pytest.param("query", {"enabled": True, "name": "token"}, TokenLocation(query="token"), id="query"),
        pytest.param("cookie", {"enabled": True}, TokenLocation(cookie="Authorization"), id="cookie-named-as-header"),
        pytest.param("cookie", {"enabled": True, "name": "token"}, TokenLocation(cookie="token"), id="cookie"),
    ],
)
def test_the_token_is_looked_for_where_the_sources_say(source: str, value: Any, location: TokenLocation) -> None:
    """Tyk's rule: an absent source is a disabled one, and a nameless one is called as the header."""
    assert read_changed(f"{SETTINGS}/{source}", value).token_location == location


@pytest.mark.parametrize(
    ("authorize_types", "codes"),
    [
        pytest.param(["code"], True, id="code"),
        pytest.param(["code", "token"], True, id="code-beside-token"),
        pytest.param(ABSENT, True, id="absent"),
        pytest.param([], True, id="empty"),
        pytest.param(["token"], False, id="token-alone"),
    ],
)
def test_the_implicit_grant_is_left_out(authorize_types: Any, codes: bool) -> None:
    """`token` is ignored; where it stands alone, nothing is authorized and the code grant goes with it."""
    oauth = read_changed(f"{SETTINGS}/allowedAuthorizeTypes", authorize_types).oauth
    assert oauth is not None
    assert oauth.response_types == (("code",) if codes else ())
    assert (GrantType.AUTHORIZATION_CODE in oauth.grant_types) is codes
    assert GrantType.PASSWORD in oauth.grant_types


def test_no_code_flow_no_response_type() -> None:
    """An API without the code grant authorizes nothing, whatever types it lists."""
    oauth = read_changed(f"{DECLARED}/flows", {"clientCredentials": {}}).oauth
    assert oauth is not None
    assert (oauth.grant_types, oauth.response_types) == (
        (GrantType.CLIENT_CREDENTIALS, GrantType.REFRESH_TOKEN),
        (),
    )


@pytest.mark.parametrize("missing", [ABSENT, False, None])
def test_no_refresh_tokens_unless_said(missing: object) -> None:
    """`refreshToken` is false until it is true."""
    oauth = read_changed(f"{SETTINGS}/refreshToken", missing).oauth
    assert oauth is not None
    assert not oauth.refresh_token
    assert GrantType.REFRESH_TOKEN not in oauth.grant_types


@pytest.mark.parametrize("missing", [ABSENT, "", None])
def test_a_login_page_may_be_missing(missing: object) -> None:
    """An identity server can ask for codes without a login page being known here."""
    oauth = read_changed(f"{SETTINGS}/authLoginRedirect", missing).oauth
    assert oauth is not None
    assert oauth.login_url is None
    assert GrantType.AUTHORIZATION_CODE in oauth.grant_types


@pytest.mark.parametrize("missing", [ABSENT, {}, {"onKeyChangeUrl": "", "sharedSecret": "s3cr3t"}])
def test_no_url_no_notifications(missing: object) -> None:
    """An absent or empty URL means that nobody wants to hear of tokens."""
    oauth = read_changed(f"{SETTINGS}/notifications", missing).oauth
    assert oauth is not None
    assert oauth.notifications is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(AUTHENTICATION, ABSENT, id="no-authentication"),
        pytest.param(f"{AUTHENTICATION}/enabled", False, id="disabled"),
    ],
)
def test_without_authentication_the_api_is_keyless(path: str, value: object) -> None:
    """It issues no tokens and takes none."""
    api = read_changed(path, value)
    assert (api.oauth, api.auth_token) == (None, False)


@pytest.mark.parametrize(("given", "active"), [(ABSENT, True), (True, True), (False, False)])
def test_an_api_is_active_unless_it_says_not(given: object, active: bool) -> None:
    """Who registers an API wants it to work."""
    assert read_changed(f"{TYK}/info/state/active", given).active is active


@pytest.mark.parametrize(
    ("declared", "location"),
    [
        pytest.param({"in": "header", "name": "X-Key"}, TokenLocation(header="X-Key"), id="header"),
        pytest.param({"in": "query", "name": "key"}, TokenLocation(header=None, query="key"), id="query"),
        pytest.param({"in": "cookie", "name": "key"}, TokenLocation(header=None, cookie="key"), id="cookie"),
    ],
)
def test_an_auth_token_api_issues_nothing_and_says_where_it_looks(
    declared: dict[str, str], location: TokenLocation
) -> None:
    """An apiKey scheme alone is the Auth Token method, at the place OpenAPI names."""
    api = read(changed(with_auth_token(ORDERS, **declared), f"{SETTINGS}/enabled", False))
    assert (api.oauth, api.auth_token, api.token_location) == (None, True, location)


def test_an_auth_token_scheme_may_add_sources() -> None:
    """Tyk's settings add sources to the place that OpenAPI names."""
    document = changed(with_auth_token(ORDERS, **{"in": "header", "name": "X-Key"}), f"{SETTINGS}/enabled", False)
    query = {"enabled": True, "name": "key"}
    api = read(changed(document, f"{AUTHENTICATION}/securitySchemes/key/query", query))
    assert api.token_location == TokenLocation(header="X-Key", query="key")


def test_with_both_methods_the_token_is_where_oauth_says() -> None:
    """An API may issue tokens and take those of others; there is one place to look."""
    api = read(with_auth_token(ORDERS, **{"in": "header", "name": "X-Key"}))
    assert api.oauth is not None
    assert (api.auth_token, api.token_location) == (True, TokenLocation())


@pytest.mark.parametrize("key", ["providers", "scopeCheck", "tokenExchange", "protectedResourceMetadata"])
def test_a_scheme_of_another_authorization_server_is_skipped(key: str) -> None:
    """Where two oauth2 schemes are enabled, the one whose tokens are issued elsewhere is not ours."""
    document = changed(ORDERS, "components/securitySchemes/elsewhere", {"type": "oauth2", "flows": {"password": {}}})
    document = changed(document, f"{AUTHENTICATION}/securitySchemes/elsewhere", {"enabled": True, key: {"a": 1}})
    api = read({**document, "security": [{"elsewhere": []}, {"tykOAuth": []}]})
    assert api.oauth is not None
    assert api.oauth.grant_types == tuple(GrantType)


def test_the_order_of_security_decides_between_two() -> None:
    """The first named of two schemes that issue tokens is the API's."""
    document = changed(ORDERS, "components/securitySchemes/other", {"type": "oauth2", "flows": {"password": {}}})
    document = changed(document, f"{AUTHENTICATION}/securitySchemes/other", {"enabled": True})
    api = read({**document, "security": [{"other": []}, {"tykOAuth": []}]})
    assert api.oauth is not None
    assert api.oauth.grant_types == (GrantType.PASSWORD,)


def test_tokenwires_own_settings() -> None:
    """`x-tokenwire` says what Tyk has no words for; what it leaves out stays as it is by default."""
    settings = {
        "accessTokenLifetime": 60,
        "refreshTokenLifetime": 3600,
        "grantLifetime": 86400,
        "codeLifetime": 600,
        "pkceRequired": True,
        "refreshReuse": "strict",
    }
    oauth = read_changed("x-tokenwire", settings).oauth
    assert oauth is not None
    assert oauth.access_token_lifetime == timedelta(minutes=1)
    assert oauth.refresh_token_lifetime == timedelta(hours=1)
    assert oauth.grant_lifetime == timedelta(days=1)
    assert oauth.code_lifetime == timedelta(minutes=10)
    assert (oauth.pkce_required, oauth.refresh_reuse) == (True, RefreshReuse.STRICT)
    partly = read_changed("x-tokenwire", {"codeLifetime": 30, "pkceRequired": None}).oauth
    assert partly is not None
    assert (partly.code_lifetime, partly.access_token_lifetime) == (timedelta(seconds=30), timedelta(hours=1))
    assert partly.pkce_required is False


def test_unknown_fields_of_tyk_are_kept_and_ignored() -> None:
    """A definition may use all of Tyk; dots and dollars in keys are text like any other."""
    api = read_changed(f"{TYK}/middleware", {"$set": {"a.b": [None, 1.5, "é"]}})
    assert json.loads(api.definition.get_secret_value())[TYK]["middleware"] == {"$set": {"a.b": [None, 1.5, "é"]}}


SCHEMES = "x-tyk-api-gateway.server.authentication.securitySchemes"
LISTEN_PATH = "x-tyk-api-gateway.server.listenPath.value"
UPSTREAM = "x-tyk-api-gateway.upstream.url"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param("openapi", ABSENT, "openapi: a version of OpenAPI 3", id="no-version"),
        pytest.param("openapi", "2.0", "openapi: a version of OpenAPI 3", id="swagger"),
        pytest.param("openapi", 3.1, "openapi: a string is expected", id="version-as-number"),
        pytest.param(TYK, ABSENT, f"{TYK}: Tyk's extension is expected", id="no-extension"),
        pytest.param(TYK, [], f"{TYK}: an object is expected", id="extension-as-array"),
        pytest.param(f"{TYK}/info", ABSENT, f"{TYK}.info.name: a name is expected", id="no-info"),
        pytest.param(f"{TYK}/info", "x", f"{TYK}.info: an object is expected", id="info-as-string"),
        pytest.param(f"{TYK}/info/name", "  ", f"{TYK}.info.name: a name is expected", id="blank-name"),
        pytest.param(f"{TYK}/info/name", "x" * 257, f"{TYK}.info.name: a string of at most 256", id="long-name"),
        pytest.param(f"{TYK}/info/name", "a\0b", f"{TYK}.info.name: control characters", id="nul-in-name"),
        pytest.param(f"{TYK}/info/id", "a b", f"{TYK}.info.id: an id holds", id="id-with-space"),
        pytest.param(f"{TYK}/info/id", "../x", f"{TYK}.info.id: an id holds", id="id-as-path"),
        pytest.param(f"{TYK}/info/id", "api", f"{TYK}.info.id: 'api' is reserved", id="reserved-id"),
        pytest.param(f"{TYK}/info/id", 7, f"{TYK}.info.id: a string is expected", id="id-as-number"),
        pytest.param(f"{TYK}/info/id", {"$ne": ""}, f"{TYK}.info.id: a string is expected", id="id-as-operator"),
        pytest.param(f"{TYK}/info/state/active", "yes", f"{TYK}.info.state.active: true or false", id="active-as-text"),
        pytest.param(f"{TYK}/server/listenPath", ABSENT, f"{LISTEN_PATH}: a listen path", id="no-listen-path"),
        pytest.param(f"{TYK}/server/listenPath/value", "", f"{LISTEN_PATH}: a listen path", id="empty-listen-path"),
        pytest.param(f"{TYK}/server/listenPath/value", "/", f"{LISTEN_PATH}: a listen path", id="root-listen-path"),
        pytest.param(f"{TYK}/server/listenPath/value", "/a//b/", f"{LISTEN_PATH}: a listen path", id="empty-segment"),
        pytest.param(f"{TYK}/server/listenPath/value", "/a/{x}/", f"{LISTEN_PATH}: a listen path", id="path-pattern"),
        pytest.param(f"{TYK}/server/listenPath/value", "/a/../b/", f"{LISTEN_PATH}: a listen path has no", id="dots"),
        pytest.param(f"{TYK}/server/listenPath/value", "/a/oauth/", f"{LISTEN_PATH}: a listen path has no", id="oauth"),
        pytest.param(f"{TYK}/server/listenPath/value", "/api/x/", f"{LISTEN_PATH}: /api/ is reserved", id="reserved"),
        pytest.param(f"{TYK}/server/listenPath/value", 1, f"{LISTEN_PATH}: a string is expected", id="path-as-number"),
        pytest.param(f"{TYK}/upstream", ABSENT, f"{UPSTREAM}: an absolute http or https URL", id="no-upstream"),
        pytest.param(f"{TYK}/upstream/url", "", f"{UPSTREAM}: an absolute http or https URL", id="empty-upstream"),
        pytest.param(f"{TYK}/upstream/url", "/x", f"{UPSTREAM}: an absolute http or https URL", id="relative-upstream"),
        pytest.param(f"{TYK}/upstream/url", "ftp://h/", f"{UPSTREAM}: an absolute http", id="ftp-upstream"),
        pytest.param(f"{TYK}/upstream/url", "http://", f"{UPSTREAM}: an absolute http", id="upstream-without-host"),
        pytest.param(f"{TYK}/upstream/url", "http://h:x/", f"{UPSTREAM}: an absolute http", id="upstream-bad-port"),
        pytest.param(f"{TYK}/upstream/url", "http://[::1/", f"{UPSTREAM}: an absolute http", id="upstream-bad-bracket"),
        pytest.param(f"{TYK}/upstream/url", "http://u:p@h/", f"{UPSTREAM}: an absolute http", id="upstream-user"),
        pytest.param(f"{TYK}/upstream/url", "http://h/\r\nX: y", f"{UPSTREAM}: an absolute", id="upstream-line-break"),
        pytest.param(f"{TYK}/upstream/url", "http://hé/", f"{UPSTREAM}: an absolute http", id="upstream-not-ascii"),
        pytest.param("security", ABSENT, f"{SCHEMES}: authentication is enabled, but", id="no-security"),
        pytest.param("security", [{}], f"{SCHEMES}: authentication is enabled, but", id="empty-requirement"),
        pytest.param("security", [{"other": []}], f"{SCHEMES}: authentication is enabled, but", id="other-scheme"),
        pytest.param("security", {"tykOAuth": []}, "security: an array is expected", id="security-as-object"),
        pytest.param("security", [[]], "security[0]: an object is expected", id="requirement-as-array"),
        pytest.param("components", ABSENT, f"{SCHEMES}: authentication is enabled, but", id="no-components"),
        pytest.param(f"{DECLARED}/type", "http", f"{SCHEMES}: authentication is enabled, but", id="not-oauth2"),
        pytest.param(SETTINGS, ABSENT, f"{SCHEMES}: authentication is enabled, but", id="no-settings"),
        pytest.param(f"{SETTINGS}/enabled", False, f"{SCHEMES}: authentication is enabled, but", id="scheme-disabled"),
        pytest.param(f"{SETTINGS}/providers", [{}], f"{SCHEMES}: authentication is enabled, but", id="external"),
        pytest.param(f"{SETTINGS}/enabled", "true", f"{SCHEMES}.tykOAuth.enabled: true or false", id="enabled-as-text"),
        pytest.param(SETTINGS, True, f"{SCHEMES}.tykOAuth: an object is expected", id="settings-as-flag"),
        pytest.param(
            f"{AUTHENTICATION}/enabled", ABSENT, "authentication.enabled: true or false", id="enabled-missing"
        ),
        pytest.param(f"{AUTHENTICATION}/enabled", 1, "authentication.enabled: true or false", id="enabled-as-number"),
        pytest.param(
            f"{DECLARED}/flows", {}, "components.securitySchemes.tykOAuth.flows: authorizationCode", id="no-flows"
        ),
        pytest.param(
            f"{DECLARED}/flows", {"implicit": {}}, "tykOAuth.flows: authorizationCode", id="implicit-flow-alone"
        ),
        pytest.param(f"{SETTINGS}/allowedAuthorizeTypes", "code", "an array is expected", id="authorize-types-as-text"),
        pytest.param(
            f"{SETTINGS}/allowedAuthorizeTypes",
            ["code", "coed"],
            f"{SCHEMES}.tykOAuth.allowedAuthorizeTypes[1]: one of code, token",
            id="unknown-authorize-type",
        ),
        pytest.param(
            f"{SETTINGS}/allowedAuthorizeTypes", [{}], "allowedAuthorizeTypes[0]: one of", id="authorize-type-as-object"
        ),
        pytest.param(f"{SETTINGS}/authLoginRedirect", "/login", "authLoginRedirect: an absolute", id="relative-login"),
        pytest.param(
            f"{SETTINGS}/authLoginRedirect", "javascript:alert(1)", "authLoginRedirect: an absolute", id="script-login"
        ),
        pytest.param(
            f"{SETTINGS}/notifications/onKeyChangeUrl", "notifyme", "onKeyChangeUrl: an absolute", id="relative-webhook"
        ),
        pytest.param(
            f"{SETTINGS}/notifications/sharedSecret",
            "a\r\nb: c",
            "sharedSecret: it is sent in a header",
            id="header-injection",
        ),
        pytest.param(f"{SETTINGS}/notifications/sharedSecret", 5, "sharedSecret: a string", id="secret-as-number"),
        pytest.param(f"{SETTINGS}/refreshToken", "true", "refreshToken: true or false", id="refresh-as-text"),
        pytest.param(f"{SETTINGS}/header/name", "X Token", "header.name: the name of a header", id="header-with-space"),
        pytest.param(f"{SETTINGS}/header/enabled", "yes", "header.enabled: true or false", id="header-enabled-as-text"),
        pytest.param("x-tokenwire", [], "x-tokenwire: an object is expected", id="tokenwire-as-array"),
        pytest.param(
            "x-tokenwire",
            {"accessTokenLifeTime": 60},
            "x-tokenwire.accessTokenLifeTime: there is no such setting; there are accessTokenLifetime,",
            id="tokenwire-typo",
        ),
        pytest.param(
            "x-tokenwire",
            {"access_token_lifetime": 60},
            "x-tokenwire.access_token_lifetime: there is no",
            id="snake-case",
        ),
        pytest.param("x-tokenwire/codeLifetime", 601, "x-tokenwire.codeLifetime: ", id="code-beyond-ten-minutes"),
        pytest.param("x-tokenwire/codeLifetime", 0, "x-tokenwire.codeLifetime: ", id="code-of-no-time"),
        pytest.param(
            "x-tokenwire/accessTokenLifetime", "60", "x-tokenwire.accessTokenLifetime: ", id="lifetime-as-text"
        ),
        pytest.param(
            "x-tokenwire/accessTokenLifetime", True, "x-tokenwire.accessTokenLifetime: ", id="lifetime-as-flag"
        ),
        pytest.param("x-tokenwire/accessTokenLifetime", 60.5, "x-tokenwire.accessTokenLifetime: ", id="half-a-second"),
        pytest.param(
            "x-tokenwire/accessTokenLifetime", 10**9, "x-tokenwire.accessTokenLifetime: ", id="access-for-ever"
        ),
        pytest.param("x-tokenwire/grantLifetime", 2**63, "x-tokenwire.grantLifetime: ", id="grant-for-ever"),
        pytest.param("x-tokenwire/pkceRequired", 1, "x-tokenwire.pkceRequired: ", id="pkce-as-number"),
        pytest.param("x-tokenwire/refreshReuse", "never", "x-tokenwire.refreshReuse: ", id="unknown-reuse"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_field(path: str, value: Any, message: str) -> None:
    """The API provider reads which field is wrong and what belongs there."""
    assert message in refusal(changed(ORDERS, path, value))


@pytest.mark.parametrize(
    "path",
    [
        f"{TYK}/info/id",
        f"{TYK}/info/name",
        f"{TYK}/server/listenPath/value",
        f"{TYK}/upstream/url",
        f"{SETTINGS}/authLoginRedirect",
        f"{SETTINGS}/notifications/onKeyChangeUrl",
        f"{SETTINGS}/notifications/sharedSecret",
        f"{SETTINGS}/header/name",
        "x-tokenwire/accessTokenLifetime",
        "x-tokenwire/refreshReuse",
    ],
)
def test_a_refusal_repeats_no_value(path: str) -> None:
    """What stands in the wrong field may be a secret."""
    assert "hunter2" not in refusal(changed(ORDERS, path, "hunter2 \n" * 500))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        pytest.param(
            {"name": "X-Key"}, "components.securitySchemes.key.in: one of header, query, cookie", id="no-place"
        ),
        pytest.param({"in": "body", "name": "key"}, "securitySchemes.key.in: one of header", id="unknown-place"),
        pytest.param({"in": "header", "name": "a b"}, "securitySchemes.key.name: the name of a header", id="bad-name"),
    ],
)
def test_an_auth_token_scheme_needs_its_place(declared: dict[str, str], message: str) -> None:
    """An apiKey scheme says where the key is (OpenAPI 3, Security Scheme Object)."""
    assert message in refusal(changed(with_auth_token(ORDERS, **declared), f"{SETTINGS}/enabled", False))


@pytest.mark.parametrize("document", [None, True, 1, "x", [], [{}], {}])
def test_what_is_no_document_is_refused(document: object) -> None:
    """Any JSON value may arrive where a definition is expected."""
    assert refusal(document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def paths_of(document: dict[str, Any], before: str = "") -> list[str]:
    """The paths of all members."""
    below = [
        path
        for key, value in document.items()
        if isinstance(value, dict)
        for path in paths_of(value, f"{before}{key}/")
    ]
    return [*(f"{before}{key}" for key in document), *below]


@given(JSON)
def test_any_json_gives_an_api_or_a_refusal(document: Any) -> None:
    """No document raises anything but InvalidDefinition."""
    with pytest.raises(InvalidDefinition):
        read(document)


FULL = with_auth_token(
    {**ORDERS, "x-tokenwire": {"codeLifetime": 60, "refreshReuse": "recover"}}, **{"in": "header", "name": "X-Key"}
)


@given(st.sampled_from(paths_of(FULL)), JSON)
def test_any_json_in_any_place_gives_an_api_or_a_refusal(path: str, value: Any) -> None:
    """No member raises anything but InvalidDefinition, and what is read keeps the whole document."""
    document = changed(FULL, path, value)
    try:
        api = read(document)
    except InvalidDefinition:
        return
    assert json.loads(api.definition.get_secret_value()) == changed(document, f"{TYK}/info/id", api.api_id)
