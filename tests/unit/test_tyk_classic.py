"""Tyk Classic definitions: what is read, and what is refused."""

import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.apis import Api, DefinitionFormat, GrantType, OAuthSettings, TokenLocation
from libs.tyk.classic import read_classic
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.oas import read_oas
from tests.unit.tyk_definitions import ABSENT, ORDERS_GRANTS, changed, definition

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
ORDERS = definition("orders-classic.json")
OAUTH = "auth_configs/oauth"


def read(document: Any, **named: Any) -> Api:
    return read_classic(document, **{"api_id": "generated", "now": NOW, **named})


def read_changed(path: str, value: Any) -> Api:
    return read(changed(ORDERS, path, value))


def oauth_of(api: Api) -> OAuthSettings:
    assert api.oauth is not None
    return api.oauth


def refusal(document: Any) -> str:
    with pytest.raises(InvalidDefinition) as refused:
        read(document)
    return str(refused.value)


def without_oauth(**members: Any) -> dict[str, Any]:
    return {**ORDERS, "use_oauth2": False, **members}


def test_the_same_api_in_both_languages() -> None:
    """The orders API has the same meaning in Classic and OAS."""
    classic = read(ORDERS).model_dump(exclude={"format", "definition"})
    oas = read_oas(definition("orders-oas.json"), api_id="other", now=NOW).model_dump(exclude={"format", "definition"})
    assert classic == oas
    assert read(ORDERS).format is DefinitionFormat.CLASSIC
    assert oauth_of(read(ORDERS)).grant_types == ORDERS_GRANTS


def test_a_bare_definition_is_kept_with_its_id() -> None:
    """A bare definition is returned with the id that it got."""
    document = changed(ORDERS, "api_id", ABSENT)
    before = copy.deepcopy(document)
    api = read(document)
    assert document == before
    assert api.api_id == "generated"
    assert json.loads(api.definition.get_secret_value()) == {**before, "api_id": "generated"}


def test_the_dashboards_wrapper_is_read_and_kept() -> None:
    """The Dashboard's export format is accepted; the id goes into the inner definition."""
    wrapper = {"api_model": {}, "api_definition": changed(ORDERS, "api_id", ""), "hook_references": []}
    api = read(wrapper)
    assert api.listen_path == "/orders/"
    assert json.loads(api.definition.get_secret_value()) == changed(wrapper, "api_definition/api_id", "generated")


def test_a_refusal_inside_the_wrapper_names_the_whole_path() -> None:
    """An error in the wrapper has the full path."""
    wrapper = {"api_definition": changed(ORDERS, "proxy/listen_path", "")}
    assert refusal(wrapper).startswith("api_definition.proxy.listen_path: a listen path is expected")


def test_a_replacement_keeps_its_creation_and_counts_its_version() -> None:
    """A replacement keeps the creation time and increments the version."""
    earlier = NOW - timedelta(days=1)
    api = read(ORDERS, created_at=earlier, version=7)
    assert (api.version, api.created_at, api.updated_at) == (7, earlier, NOW)


@pytest.mark.parametrize(
    ("config", "location"),
    [
        pytest.param(ABSENT, TokenLocation(), id="absent"),
        pytest.param({"auth_header_name": ""}, TokenLocation(), id="header-without-name"),
        pytest.param({"auth_header_name": "X-Token"}, TokenLocation(header="X-Token"), id="header"),
        pytest.param({"disable_header": True}, TokenLocation(header=None), id="no-header"),
        pytest.param({"use_param": True}, TokenLocation(query="Authorization"), id="query-named-as-header"),
        pytest.param({"use_param": True, "param_name": "t"}, TokenLocation(query="t"), id="query"),
        pytest.param({"use_cookie": True}, TokenLocation(cookie="Authorization"), id="cookie-named-as-header"),
        pytest.param({"use_cookie": True, "cookie_name": "t"}, TokenLocation(cookie="t"), id="cookie"),
        pytest.param({"param_name": "t", "cookie_name": "t"}, TokenLocation(), id="named-but-not-used"),
    ],
)
def test_the_token_is_looked_for_where_the_config_says(config: Any, location: TokenLocation) -> None:
    """As in Tyk Classic the header is read unless disabled, other places if enabled."""
    assert read_changed(OAUTH, config).token_location == location


def test_the_deprecated_auth_object_is_not_for_oauth() -> None:
    """The deprecated `auth` object is used for the Auth Token method only, as in Tyk."""
    document = changed(changed(ORDERS, "auth_configs", ABSENT), "auth", {"auth_header_name": "X-Key"})
    assert read(document).token_location == TokenLocation()
    assert read({**document, "use_oauth2": False}).token_location == TokenLocation(header="X-Key")


@pytest.mark.parametrize(
    ("access_types", "grant_types"),
    [
        pytest.param(["client_credentials"], (GrantType.CLIENT_CREDENTIALS,), id="client-credentials"),
        pytest.param(
            ["refresh_token", "password"], (GrantType.PASSWORD, GrantType.REFRESH_TOKEN), id="password-and-refresh"
        ),
        pytest.param(["assertion", "password", "__implicit"], (GrantType.PASSWORD,), id="what-is-not-offered"),
        pytest.param(["password", "password"], (GrantType.PASSWORD,), id="named-twice"),
    ],
)
def test_the_access_types_are_the_grants(access_types: list[str], grant_types: tuple[GrantType, ...]) -> None:
    """Tyk's access types map to grant types; assertion and implicit are not offered."""
    oauth = oauth_of(read_changed("oauth_meta/allowed_access_types", access_types))
    assert oauth.grant_types == grant_types
    assert oauth.refresh_token is (GrantType.REFRESH_TOKEN in grant_types)
    assert oauth.response_types == ()


def test_the_code_grant_needs_the_type_code() -> None:
    """If only `token` may be authorized, the code grant is not offered."""
    oauth = oauth_of(read_changed("oauth_meta/allowed_authorize_types", ["token"]))
    assert oauth.response_types == ()
    assert oauth.grant_types == (GrantType.CLIENT_CREDENTIALS, GrantType.PASSWORD, GrantType.REFRESH_TOKEN)


def test_no_url_no_notifications() -> None:
    """An empty URL disables notifications."""
    assert oauth_of(read_changed("notifications/oauth_on_keychange_url", "")).notifications is None


def test_tokenwires_own_settings() -> None:
    """`tokenwire` has the settings that Tyk Classic lacks."""
    oauth = oauth_of(read_changed("tokenwire", {"accessTokenLifetime": 60, "pkceRequired": True}))
    assert (oauth.access_token_lifetime, oauth.pkce_required) == (timedelta(minutes=1), True)


@pytest.mark.parametrize(("given", "active"), [(ABSENT, True), (True, True), (False, False)])
def test_an_api_is_active_by_default(given: object, active: bool) -> None:
    """An API is active unless it says otherwise."""
    assert read_changed("active", given).active is active


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"use_standard_auth": True}, id="chosen"),
        pytest.param({}, id="no-method-at-all"),
    ],
)
def test_the_auth_token_method(members: dict[str, Any]) -> None:
    """Auth Token is selected, or the default without a method, as in Tyk."""
    config = {"authToken": {"auth_header_name": "X-Key"}, "oauth": {"auth_header_name": "X-OAuth"}}
    api = read(without_oauth(auth_configs=config, **members))
    assert (api.oauth, api.auth_token, api.token_location) == (None, True, TokenLocation(header="X-Key"))


def test_with_both_methods_one_token_serves_for_both() -> None:
    """An API with both methods reads one token from one place."""
    api = read({**ORDERS, "use_standard_auth": True})
    assert api.oauth is not None
    assert (api.auth_token, api.token_location) == (True, TokenLocation())


def test_a8_with_both_methods_in_two_places_a_call_would_need_two_tokens() -> None:
    """Both methods with different places are refused: Tyk would require two tokens."""
    document = {**ORDERS, "use_standard_auth": True}
    document = changed(document, "auth_configs/authToken", {"auth_header_name": "X-Key"})
    assert "use_standard_auth: a second token" in refusal(document)
    assert read(document, accept_unsupported=True).token_location == TokenLocation()


def test_a_keyless_api() -> None:
    """A `use_keyless` API neither issues nor accepts tokens."""
    api = read({**ORDERS, "use_keyless": True})
    assert (api.oauth, api.auth_token) == (None, False)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param("name", ABSENT, "name: a name is expected", id="no-name"),
        pytest.param("name", {}, "name: a string is expected", id="name-as-object"),
        pytest.param("api_id", "a.b", "api_id: an id holds", id="id-with-dot"),
        pytest.param("api_id", "oauth", "api_id: 'oauth' is reserved", id="reserved-id"),
        pytest.param("org_id", 1, "org_id: a string is expected", id="organisation-as-number"),
        pytest.param("active", "true", "active: true or false is expected", id="active-as-text"),
        pytest.param("use_oauth2", 1, "use_oauth2: true or false is expected", id="oauth-as-number"),
        pytest.param("protocol", "tcp", "protocol: only APIs over HTTP", id="tcp"),
        pytest.param("protocol", "tls", "protocol: only APIs over HTTP", id="tls"),
        pytest.param("proxy", ABSENT, "proxy.listen_path: a listen path is expected", id="no-proxy"),
        pytest.param("proxy/listen_path", "/tyk/", "proxy.listen_path: /tyk/ is reserved", id="reserved-listen-path"),
        pytest.param(
            "oauth_meta/allowed_authorize_types",
            [None],
            "allowed_authorize_types[0]: a string",
            id="null-type",
        ),
        pytest.param(
            "oauth_meta/auth_login_redirect", "login", "auth_login_redirect: an absolute", id="relative-login"
        ),
        pytest.param(
            "notifications/oauth_on_keychange_url", "http:/x", "oauth_on_keychange_url: an absolute", id="bad-webhook"
        ),
        pytest.param("notifications/shared_secret", "a\nb", "shared_secret: it is sent in a header", id="bad-secret"),
        pytest.param("auth_configs", [], "auth_configs: an object is expected", id="configs-as-array"),
        pytest.param(
            f"{OAUTH}/auth_header_name", "a:b", "oauth.auth_header_name: the name of a header", id="bad-header"
        ),
        pytest.param(f"{OAUTH}/disable_header", 0, "oauth.disable_header: true or false", id="flag-as-number"),
        pytest.param(
            "tokenwire", {"lifetime": 1}, "tokenwire.lifetime: there is no such setting", id="unknown-setting"
        ),
        pytest.param("api_definition", [], "api_definition: an object is expected", id="wrapped-array"),
        pytest.param("api_definition", {}, "api_definition.name: a name is expected", id="wrapped-nothing"),
    ],
)
def test_an_invalid_field_is_refused_by_name(path: str, value: Any, message: str) -> None:
    """The error names the wrong field and what is expected."""
    assert message in refusal(changed(ORDERS, path, value))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        pytest.param({"enable_jwt": True}, "enable_jwt: not a method offered here", id="jwt"),
        pytest.param({"use_basic_auth": True}, "use_basic_auth: not a method offered here", id="basic"),
        pytest.param({"use_openid": True, "enable_jwt": True}, "use_openid: not a method offered here", id="two"),
        pytest.param({"external_oauth": {"enabled": True}}, "external_oauth: not a method", id="external-oauth"),
    ],
)
def test_an_api_of_another_method_alone_is_refused(members: dict[str, Any], message: str) -> None:
    """An API with only an unsupported method is refused, or it would be unprotected."""
    assert message in refusal(without_oauth(**members))


@pytest.mark.parametrize("document", [None, True, 1, "x", [], [{}], {}])
def test_json_other_than_an_object_is_refused(document: object) -> None:
    """JSON values other than objects are refused."""
    assert refusal(document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_json_gives_an_api_or_a_refusal(document: Any) -> None:
    """Any JSON either gives an API or raises InvalidDefinition."""
    with pytest.raises(InvalidDefinition):
        read(document)


PLACES = [
    *ORDERS,
    *(
        f"{parent}/{key}"
        for parent in ("proxy", "oauth_meta", "notifications", "auth_configs")
        for key in ORDERS[parent]
    ),
    *(f"{OAUTH}/{key}" for key in ORDERS["auth_configs"]["oauth"]),
    "tokenwire",
    "tokenwire/codeLifetime",
    "use_standard_auth",
    "external_oauth",
    "api_definition",
]


@given(st.sampled_from(PLACES), JSON)
def test_any_json_in_any_place_gives_an_api_or_a_refusal(path: str, value: Any) -> None:
    """The same for any JSON in any member; what is read keeps the whole document."""
    document = changed(ORDERS, path, value)
    try:
        api = read(document)
    except InvalidDefinition:
        return
    assert json.loads(api.definition.get_secret_value()) == {**document, "api_id": api.api_id}


@pytest.mark.parametrize("name", ["a\x01b", "x" * 257])
def test_a_version_that_no_call_could_name_is_refused(name: str) -> None:
    """A version name that no call could send is refused, with its path."""
    versions = {"not_versioned": False, "default_version": "v1", "versions": {"v1": {}, name: {}}}
    assert refusal(changed(ORDERS, "version_data", versions)).startswith("version_data.versions.name: ")
