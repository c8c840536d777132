"""Tyk OAS definitions: what is read, and what is refused."""

import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.apis import Api, DefinitionFormat, GrantType, RefreshReuse, TokenLocation
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.oas import read_oas
from tests.unit.tyk_definitions import ABSENT, ORDERS_GRANTS, changed, definition

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
    """The document with an additional Auth Token scheme."""
    document = changed(document, "components/securitySchemes/key", {"type": "apiKey", **declared})
    document = changed(document, f"{AUTHENTICATION}/securitySchemes/key", {"enabled": True})
    return {**document, "security": [*document["security"], {"key": []}]}


def test_the_documented_definition_is_imported_as_it_is() -> None:
    """The product's example is an API that issues tokens for codes."""
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
    """Flows and `refreshToken` determine the grant types; id and organisation come from the definition."""
    api = read(ORDERS)
    assert (api.api_id, api.org_id) == ("orders-api", "5e9d9544a1dcd60001d0ed20")
    assert api.strip_authorization_data is True
    assert api.oauth is not None
    assert api.oauth.grant_types == ORDERS_GRANTS


def test_the_kept_text_is_the_document_with_its_id() -> None:
    """The definition is returned with the id that it got."""
    document = definition("my-oauth-api.json")
    before = copy.deepcopy(document)
    kept = json.loads(read(document).definition.get_secret_value())
    assert document == before
    assert kept == changed(before, f"{TYK}/info/id", "generated")


def test_a_replacement_keeps_its_creation_and_counts_its_version() -> None:
    """A replacement keeps the creation time and increments the version."""
    earlier = NOW - timedelta(days=1)
    api = read(ORDERS, created_at=earlier, version=7)
    assert (api.version, api.created_at, api.updated_at) == (7, earlier, NOW)


@pytest.mark.parametrize("empty", [ABSENT, "", None])
def test_without_an_id_it_gets_the_given_one(empty: object) -> None:
    """A missing, empty or null id is replaced."""
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
    """As in Tyk a missing source is disabled, and a nameless one has the header's name."""
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
    """`token` is ignored; if it is the only response type, the code grant is not offered."""
    oauth = read_changed(f"{SETTINGS}/allowedAuthorizeTypes", authorize_types).oauth
    assert oauth is not None
    assert oauth.response_types == (("code",) if codes else ())
    assert (GrantType.AUTHORIZATION_CODE in oauth.grant_types) is codes
    assert GrantType.PASSWORD in oauth.grant_types


def test_no_code_flow_no_response_type() -> None:
    """Without the code flow no response type is supported."""
    oauth = read_changed(f"{DECLARED}/flows", {"clientCredentials": {}}).oauth
    assert oauth is not None
    assert (oauth.grant_types, oauth.response_types) == (
        (GrantType.CLIENT_CREDENTIALS, GrantType.REFRESH_TOKEN),
        (),
    )


@pytest.mark.parametrize("missing", [ABSENT, False, None])
def test_no_refresh_tokens_by_default(missing: object) -> None:
    """`refreshToken` is false by default."""
    oauth = read_changed(f"{SETTINGS}/refreshToken", missing).oauth
    assert oauth is not None
    assert not oauth.refresh_token
    assert GrantType.REFRESH_TOKEN not in oauth.grant_types


@pytest.mark.parametrize("missing", [ABSENT, "", None])
def test_a_login_page_may_be_missing(missing: object) -> None:
    """The login page may be missing, since an identity server can request codes without it."""
    oauth = read_changed(f"{SETTINGS}/authLoginRedirect", missing).oauth
    assert oauth is not None
    assert oauth.login_url is None
    assert GrantType.AUTHORIZATION_CODE in oauth.grant_types


@pytest.mark.parametrize("missing", [ABSENT, {}, {"onKeyChangeUrl": "", "sharedSecret": "s3cr3t"}])
def test_no_url_no_notifications(missing: object) -> None:
    """A missing or empty URL disables notifications."""
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
    """Without authentication the API neither issues nor accepts tokens."""
    api = read_changed(path, value)
    assert (api.oauth, api.auth_token) == (None, False)


@pytest.mark.parametrize(("given", "active"), [(ABSENT, True), (True, True), (False, False)])
def test_an_api_is_active_by_default(given: object, active: bool) -> None:
    """An API is active unless it says otherwise."""
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
    """An apiKey scheme alone is Auth Token, at OpenAPI's place."""
    api = read(changed(with_auth_token(ORDERS, **declared), f"{SETTINGS}/enabled", False))
    assert (api.oauth, api.auth_token, api.token_location) == (None, True, location)


def test_an_auth_token_scheme_may_add_sources() -> None:
    """Tyk's settings add places to OpenAPI's."""
    document = changed(with_auth_token(ORDERS, **{"in": "header", "name": "X-Key"}), f"{SETTINGS}/enabled", False)
    query = {"enabled": True, "name": "key"}
    api = read(changed(document, f"{AUTHENTICATION}/securitySchemes/key/query", query))
    assert api.token_location == TokenLocation(header="X-Key", query="key")


def test_with_both_methods_the_token_is_where_oauth_says() -> None:
    """With both methods the token is read where the OAuth scheme says."""
    api = read(with_auth_token(ORDERS, **{"in": "header", "name": "X-Key"}))
    assert api.oauth is not None
    assert (api.auth_token, api.token_location) == (True, TokenLocation())


@pytest.mark.parametrize("key", ["providers", "scopeCheck", "tokenExchange", "protectedResourceMetadata"])
def test_a_scheme_of_another_authorization_server_is_skipped(key: str) -> None:
    """An oauth2 scheme of an external authorization server is skipped."""
    document = changed(ORDERS, "components/securitySchemes/elsewhere", {"type": "oauth2", "flows": {"password": {}}})
    document = changed(document, f"{AUTHENTICATION}/securitySchemes/elsewhere", {"enabled": True, key: {"a": 1}})
    api = read({**document, "security": [{"elsewhere": []}, {"tykOAuth": []}]})
    assert api.oauth is not None
    assert api.oauth.grant_types == ORDERS_GRANTS


def test_the_order_of_security_decides_between_two() -> None:
    """Of two schemes that issue tokens, the first in `security` is used."""
    document = changed(ORDERS, "components/securitySchemes/other", {"type": "oauth2", "flows": {"password": {}}})
    document = changed(document, f"{AUTHENTICATION}/securitySchemes/other", {"enabled": True})
    api = read({**document, "security": [{"other": []}, {"tykOAuth": []}]})
    assert api.oauth is not None
    assert api.oauth.grant_types == (GrantType.PASSWORD,)


FLOWS = "components/securitySchemes/tykOAuth/flows"


def test_a19_scopes_are_those_of_every_flow_and_of_our_extension() -> None:
    """Scopes are those of every flow and our extension, once each."""
    flows = {
        "clientCredentials": {"scopes": {"read": "", "write": ""}},
        "implicit": {"scopes": {"write": "", "view": ""}},
        "password": {"scopes": None},
        "authorizationCode": {},
        "x-note": "not a flow",
    }
    api = read(changed(changed(ORDERS, FLOWS, flows), "x-tokenwire", {"scopes": ["own", "read"]}))
    assert api.oauth is not None
    assert set(api.oauth.scopes) == {"read", "write", "view", "own"}
    assert len(api.oauth.scopes) == 4


def test_tokenwires_own_settings() -> None:
    """`x-tokenwire` has the settings that Tyk lacks, with defaults."""
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
    """Unknown Tyk fields are kept, with any characters in their keys."""
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
        pytest.param(
            TYK,
            ABSENT,
            f"{TYK}: Tyk's extension is expected; docs/reference/definitions.md has complete definitions",
            id="no-extension",
        ),
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
        pytest.param(f"{TYK}/server/listenPath/value", "/a//b/", f"{LISTEN_PATH}: a listen path", id="empty-segment"),
        pytest.param(f"{TYK}/server/listenPath/value", "/a/{x}/", f"{LISTEN_PATH}: a listen path", id="path-pattern"),
        pytest.param(f"{TYK}/server/listenPath/value", "/a/../b/", f"{LISTEN_PATH}: a listen path has no", id="dots"),
        pytest.param(f"{TYK}/server/listenPath/value", "/a/oauth/", f"{LISTEN_PATH}: a listen path has no", id="oauth"),
        pytest.param(f"{TYK}/server/listenPath/value", "/api/apis/x", f"{LISTEN_PATH}: /api/apis/ is", id="reserved"),
        pytest.param(f"{TYK}/server/listenPath/value", "/api/", f"{LISTEN_PATH}: /api/ is reserved", id="api"),
        pytest.param(f"{TYK}/server/listenPath/value", 1, f"{LISTEN_PATH}: a string is expected", id="path-as-number"),
        pytest.param(f"{TYK}/upstream", ABSENT, f"{UPSTREAM}: an absolute http or https URL", id="no-upstream"),
        pytest.param(f"{TYK}/upstream/url", "/x", f"{UPSTREAM}: an absolute http or https URL", id="relative-upstream"),
        pytest.param(f"{TYK}/upstream/url", "ftp://h/", f"{UPSTREAM}: an absolute http", id="ftp-upstream"),
        pytest.param(f"{TYK}/upstream/url", "http://", f"{UPSTREAM}: an absolute http", id="upstream-without-host"),
        pytest.param(f"{TYK}/upstream/url", "http://h:x/", f"{UPSTREAM}: an absolute http", id="upstream-bad-port"),
        pytest.param(f"{TYK}/upstream/url", "http://[::1/", f"{UPSTREAM}: an absolute http", id="upstream-bad-bracket"),
        pytest.param(f"{TYK}/upstream/url", "http://u:p@h/", f"{UPSTREAM}: an absolute http", id="upstream-user"),
        pytest.param(f"{TYK}/upstream/url", "http://h/\r\nX: y", f"{UPSTREAM}: a control", id="upstream-line-break"),
        pytest.param(f"{TYK}/upstream/url", "http://hé/", f"{UPSTREAM}: 'é' is not", id="upstream-not-ascii"),
        pytest.param("security", {"tykOAuth": []}, "security: an array is expected", id="security-as-object"),
        pytest.param("security", [[]], "security[0]: an object is expected", id="requirement-as-array"),
        pytest.param("components", ABSENT, f"{SCHEMES}: authentication is enabled, but", id="no-components"),
        pytest.param(f"{DECLARED}/type", "http", f"{SCHEMES}: authentication is enabled, but", id="not-oauth2"),
        pytest.param(f"{SETTINGS}/providers", [{}], f"{SCHEMES}: authentication is enabled, but", id="external"),
        pytest.param(f"{SETTINGS}/enabled", "true", f"{SCHEMES}.tykOAuth.enabled: true or false", id="enabled-as-text"),
        pytest.param(SETTINGS, True, f"{SCHEMES}.tykOAuth: an object is expected", id="settings-as-flag"),
        pytest.param(
            f"{AUTHENTICATION}/enabled", ABSENT, "authentication.enabled: true or false", id="enabled-missing"
        ),
        pytest.param(f"{AUTHENTICATION}/enabled", 1, "authentication.enabled: true or false", id="enabled-as-number"),
        pytest.param(f"{SETTINGS}/allowedAuthorizeTypes", "code", "an array is expected", id="authorize-types-as-text"),
        pytest.param(
            f"{SETTINGS}/allowedAuthorizeTypes",
            [{}],
            "allowedAuthorizeTypes[0]: a string",
            id="authorize-type-as-object",
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
        pytest.param(f"{FLOWS}/password/scopes", ["read"], "scopes: an object", id="a19-scopes-as-a-list"),
        pytest.param(f"{FLOWS}/password/scopes", {"a b": ""}, "password.scopes.a b: a scope is", id="a19-two-in-one"),
        pytest.param(f"{FLOWS}/implicit", {"scopes": {'a"': ""}}, "a scope is 1 to 256", id="a19-quote-in-a-scope"),
        pytest.param(f"{FLOWS}/password/scopes", {"": ""}, "a scope is 1 to 256", id="a19-empty-scope"),
        pytest.param("x-tokenwire", {"scopes": ["a b"]}, "x-tokenwire.scopes.0: ", id="a19-own-two-in-one"),
        pytest.param("x-tokenwire", {"scopes": "a"}, "x-tokenwire.scopes: ", id="a19-own-as-text"),
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
def test_an_invalid_field_is_refused_by_name(path: str, value: Any, message: str) -> None:
    """The error names the wrong field and what is expected."""
    assert message in refusal(changed(ORDERS, path, value))


WEB_ADDRESSES = (f"{TYK}/upstream/url", f"{SETTINGS}/notifications/onKeyChangeUrl", f"{SETTINGS}/authLoginRedirect")


@pytest.mark.parametrize("path", WEB_ADDRESSES)
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://h/{x}", "'{' is not allowed in a URL: write %7B for it"),
        ("http://h/a|b", "'|' is not allowed in a URL: write %7C for it"),
        ("http://h/é", "'é' is not allowed in a URL: percent-encode it"),
        ("http://bücher.test/", "'ü' is not allowed in a URL: percent-encode it, or write the host as xn--"),
        ("http://h/a b", "a space is not allowed in a URL: write %20 for it"),
        ("http://h/ ", "a space is not allowed in a URL: write %20 for it"),
        ("http:\\\\h\\x", "'\\' is not allowed in a URL: write %5C for it"),
        ('http://h/?a="', "'\"' is not allowed in a URL: write %22 for it"),
        ("http://h/<a>", "'<' is not allowed in a URL: write %3C for it"),
        ("http://h/\t", "a control character is not allowed in a URL; remove it"),
        ("http://h/\u200b", "a control character is not allowed in a URL; remove it"),
    ],
)
def test_a8_a_refused_url_names_the_character_that_is_wrong(path: str, url: str, sentence: str) -> None:
    """An invalid URL's error names the wrong character."""
    assert f"{path.replace('/', '.')}: {sentence}" in refusal(changed(ORDERS, path, url))


@pytest.mark.parametrize("url", ["http://h/a#b", "http://h#", "http://h/?a=b#/c"])
def test_a8_a_fragment_is_refused_where_no_browser_reads_it(url: str) -> None:
    """A fragment is refused, except in the login page's URL, which browsers open."""
    for path in WEB_ADDRESSES[:2]:
        assert f"{path.replace('/', '.')}: a fragment" in refusal(changed(ORDERS, path, url))
    api = read(changed(ORDERS, WEB_ADDRESSES[2], url))
    assert api.oauth is not None
    assert api.oauth.login_url == url


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
    """An error never repeats a value, which may be a secret."""
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
def test_an_auth_token_scheme_needs_a_location(declared: dict[str, str], message: str) -> None:
    """An apiKey scheme needs its place (OpenAPI 3, Security Scheme Object)."""
    assert message in refusal(changed(with_auth_token(ORDERS, **declared), f"{SETTINGS}/enabled", False))


@pytest.mark.parametrize("document", [None, True, 1, "x", [], [{}], {}])
def test_json_other_than_an_object_is_refused(document: object) -> None:
    """JSON values other than objects are refused."""
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
    """Any JSON either gives an API or raises InvalidDefinition."""
    with pytest.raises(InvalidDefinition):
        read(document)


FULL = with_auth_token(
    {**ORDERS, "x-tokenwire": {"codeLifetime": 60, "refreshReuse": "recover"}}, **{"in": "header", "name": "X-Key"}
)


@given(st.sampled_from(paths_of(FULL)), JSON)
def test_any_json_in_any_place_gives_an_api_or_a_refusal(path: str, value: Any) -> None:
    """The same for any JSON in any member; what is read keeps the whole document."""
    document = changed(FULL, path, value)
    try:
        api = read(document)
    except InvalidDefinition:
        return
    assert json.loads(api.definition.get_secret_value()) == changed(document, f"{TYK}/info/id", api.api_id)
