"""The designer's form: values read from a definition, and written into it without touching anything else."""

import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.apis import Api, DefinitionFormat, GrantType, RefreshReuse, TokenLocation
from contracts.guards import Guards
from libs.tyk.authentication import TokenwireSettings
from libs.tyk.classic import read_classic
from libs.tyk.definition_text import format_of
from libs.tyk.oas import read_oas
from libs.tyk.oas_members import ISSUING_SCHEME
from services.console.definition_fields import WrongField, has_secret, new_definition, values_of, written
from tests.unit.tyk_definitions import ABSENT, GUARDED_CLASSIC, GUARDED_OAS, GUARDED_VERSION, changed, definition

NOW = datetime(2026, 8, 1, tzinfo=UTC)
TYK = "x-tyk-api-gateway"
OAS, CLASSIC = definition("orders-oas.json"), definition("orders-classic.json")
AUTHENTICATION = f"{TYK}/server/authentication"
BOTH = pytest.mark.parametrize("document", [pytest.param(OAS, id="oas"), pytest.param(CLASSIC, id="classic")])


def read(document: dict[str, Any]) -> Api:
    """The API that the definition makes."""
    reader = read_oas if format_of(document) is DefinitionFormat.OAS else read_classic
    return reader(document, api_id="generated", now=NOW, accept_unsupported=True)


def everything(document: dict[str, Any], members: dict[str, Any]) -> dict[str, Any]:
    for path, value in members.items():
        document = changed(document, path, value)
    return document


KEYLESS_OAS = changed(OAS, AUTHENTICATION, {"enabled": False})
KEYLESS_CLASSIC = {**CLASSIC, "use_oauth2": False, "use_keyless": True}
ALL = {
    "oas": OAS,
    "small-oas": definition("my-oauth-api.json"),
    "guarded-oas": everything(OAS, GUARDED_OAS),
    "keyless-oas": KEYLESS_OAS,
    "no-codes": changed(OAS, f"{AUTHENTICATION}/securitySchemes/tykOAuth/allowedAuthorizeTypes", ["token"]),
    "multi-line-scope": changed(OAS, "components/securitySchemes/tykOAuth/flows/password/scopes", {"x": "two\n lines"}),
    "own-settings": {**OAS, "x-tokenwire": {"accessTokenLifetime": 60, "pkceRequired": True, "scopes": ["own"]}},
    "null-members": changed(OAS, f"{AUTHENTICATION}/securitySchemes/tykOAuth/notifications", None),
    "spaces": changed(OAS, f"{TYK}/info/name", "  Orders  "),
    "classic": CLASSIC,
    "guarded-classic": everything(CLASSIC, {**GUARDED_CLASSIC, "version_data/versions/Default": GUARDED_VERSION}),
    "keyless-classic": KEYLESS_CLASSIC,
    "wrapped": {"api_definition": CLASSIC, "hook_references": []},
    "foreign-types": changed(CLASSIC, "oauth_meta/allowed_access_types", ["assertion", "refresh_token", "password"]),
}


@pytest.mark.parametrize("document", [pytest.param(document, id=name) for name, document in ALL.items()])
def test_a_form_that_was_not_changed_changes_nothing(document: dict[str, Any]) -> None:
    """The values of a definition, written into it, give the same definition, also with a browser's line ends."""
    before = copy.deepcopy(document)
    values = {name: value.replace("\n", "\r\n") for name, value in values_of(document).items()}
    assert written(document, values) == document
    assert document == before
    assert json.dumps(written(document, values)) == json.dumps(document)


CHANGES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "name": ({"name": "Things"}, {"name": "Things"}),
    "inactive": ({"active": ""}, {"active": False}),
    "listen-path": ({"listen_path": "/things/"}, {"listen_path": "/things/"}),
    "not-stripped": ({"strip_listen_path": ""}, {"strip_listen_path": False}),
    "upstream": ({"upstream_url": "https://u.example/"}, {"upstream_url": "https://u.example/"}),
    "internal": ({"internal": "1"}, {"guards": Guards(internal=True)}),
    "method-override": ({"method_override": "1", "anonymous_grants": "true"}, {"method_override": True}),
    "token-kept": ({"strip_authorization_data": ""}, {"strip_authorization_data": False}),
    "cookie": (
        {"cookie": "1", "cookie_name": "session"},
        {"token_location": TokenLocation(header="Authorization", cookie="session")},
    ),
    "query-alone": (
        {"header": "", "query": "1", "query_name": "key"},
        {"token_location": TokenLocation(header=None, query="key")},
    ),
    "other-header": ({"header_name": "X-Token"}, {"token_location": TokenLocation(header="X-Token")}),
}
OAUTH_CHANGES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "one-grant": (
        {"grants": "client_credentials", "refresh_token": ""},
        {"grant_types": (GrantType.CLIENT_CREDENTIALS,), "refresh_token": False, "response_types": ()},
    ),
    "no-refresh": (
        {"refresh_token": ""},
        {
            "refresh_token": False,
            "grant_types": (GrantType.AUTHORIZATION_CODE, GrantType.CLIENT_CREDENTIALS, GrantType.PASSWORD),
        },
    ),
    "login": ({"login_url": "https://l.example/x"}, {"login_url": "https://l.example/x"}),
    "no-login": ({"login_url": ""}, {"login_url": None}),
    "lifetimes": (
        {"access_token_lifetime": "60", "refresh_token_lifetime": "120", "code_lifetime": "5", "grant_lifetime": "180"},
        {
            "access_token_lifetime": timedelta(seconds=60),
            "refresh_token_lifetime": timedelta(seconds=120),
            "code_lifetime": timedelta(seconds=5),
            "grant_lifetime": timedelta(seconds=180),
            "anonymous_grants": False,  # by default, as soon as a setting of Tokenwire's own is used
        },
    ),
    "pkce": ({"pkce_required": "1", "anonymous_grants": "true"}, {"pkce_required": True}),
    "strict": (
        {"refresh_reuse": "strict", "anonymous_grants": "true"},
        {"refresh_reuse": RefreshReuse.STRICT},
    ),
    "scopes": ({"scopes": "read Read things\nnew"}, {"scopes": ("read", "new")}),
    "no-webhooks": ({"notifications_url": ""}, {"notifications": None}),
}


@BOTH
@pytest.mark.parametrize(("values", "expected"), [pytest.param(*each, id=name) for name, each in CHANGES.items()])
def test_each_value_of_the_api_changes_what_it_names_and_nothing_else(
    document: dict[str, Any], values: dict[str, str], expected: dict[str, Any]
) -> None:
    """In both formats, the API that the new definition makes differs in exactly these fields."""
    before, after = read(document), read(written(document, values_of(document) | values))
    assert after == before.model_copy(update={**expected, "definition": after.definition})
    assert after != before


@BOTH
@pytest.mark.parametrize(("values", "expected"), [pytest.param(*each, id=name) for name, each in OAUTH_CHANGES.items()])
def test_each_oauth_value_changes_what_it_names_and_nothing_else(
    document: dict[str, Any], values: dict[str, str], expected: dict[str, Any]
) -> None:
    """In both formats, the way in which the API issues tokens differs in exactly these settings."""
    before, after = read(document), read(written(document, values_of(document) | values))
    assert before.oauth is not None
    assert after == before.model_copy(
        update={"oauth": before.oauth.model_copy(update=expected), "definition": after.definition}
    )


REVIEWED = {"acceptedUnsupported"}
"""Settings that the page of the review decides."""
ELSEWHERE = {"providers", "scopeCheck", "tokenExchange", "protectedResourceMetadata"}
"""Members of a scheme that does not issue tokens here."""
FILLED = {
    **dict.fromkeys(("access_token_lifetime", "refresh_token_lifetime", "grant_lifetime", "code_lifetime"), "60"),
    **dict.fromkeys(("header_name", "cookie_name", "query_name", "shared_secret"), "text"),
    "login_url": "https://l.example/",
    "notifications_url": "https://n.example/",
    "refresh_reuse": "strict",
    "anonymous_grants": "true",
    "scopes": "read",
    "grants": "authorization_code",
    "shared_secret_header": "",
}


@BOTH
def test_the_form_has_every_setting_of_tokenwires_own(document: dict[str, Any]) -> None:
    """The extension of a definition that was written with every value of the form names all that there are."""
    shown = {name: value for name, value in values_of(document).items() if name != "issues_tokens"}
    boxes = {name: "" if value == "1" else "1" for name, value in shown.items() if value in {"", "1"}}
    own = "x-tokenwire" if "openapi" in document else "tokenwire"
    scopes = [] if own == "tokenwire" else ["own"]  # a definition of OAS has them with its flows, and keeps these
    before = {**document, own: {"scopes": scopes}} if scopes else document
    made = written(before, values_of(before) | boxes | FILLED | {"scopes": "own\nread"})
    assert made[own].keys() == {field.alias for field in TokenwireSettings.model_fields.values()} - REVIEWED


def test_the_form_has_every_setting_of_a_scheme_that_issues_tokens() -> None:
    """What the import reads of such a scheme in Tyk OAS is what the form writes."""
    made = written(new_definition(DefinitionFormat.OAS), FILLED | dict.fromkeys(("name", "issues_tokens"), "1"))
    known = ISSUING_SCHEME.known.keys() - ELSEWHERE - {"allowedAuthorizeTypes"}  # which an absent list allows
    everything_on = dict.fromkeys(("header", "cookie", "query", "refresh_token"), "1")
    full = written(made, values_of(made) | everything_on | {"shared_secret": "secret"})
    (scheme,) = full[TYK]["server"]["authentication"]["securitySchemes"].values()
    assert scheme.keys() == known
    for name in ("header", "cookie", "query", "notifications"):
        assert scheme[name].keys() == ISSUING_SCHEME.known[name].known.keys()


@BOTH
def test_the_shared_secret_is_replaced_removed_or_left_as_it_is(document: dict[str, Any]) -> None:
    """It is no value of the form; empty means unchanged."""

    def secret(values: dict[str, str]) -> str:
        api = read(written(document, values_of(document) | values))
        assert api.oauth is not None
        assert api.oauth.notifications is not None
        return api.oauth.notifications.shared_secret.get_secret_value()

    assert "s3cr3t" not in values_of(document).values()
    assert secret({"shared_secret": ""}) == "s3cr3t"
    assert secret({"shared_secret": "another-secret"}) == "another-secret"
    assert secret({"forget_secret": "1"}) == ""
    assert has_secret(document)
    assert not has_secret(written(document, values_of(document) | {"forget_secret": "1"}))


@pytest.mark.parametrize("form", list(DefinitionFormat))
def test_a_new_definition_lacks_only_what_nobody_can_guess(form: DefinitionFormat) -> None:
    """With name, listen path and upstream it is an API with the code grant, PKCE and refresh tokens."""
    begun = new_definition(form)
    given = {"name": "Things", "listen_path": "/things/", "upstream_url": "https://u.example/", "scopes": "read"}
    api = read(written(begun, values_of(begun) | given))
    assert (api.format, api.name, api.listen_path, api.active, api.strip_listen_path) == (
        form,
        "Things",
        "/things/",
        True,
        True,
    )
    assert api.oauth is not None
    assert api.oauth.grant_types == (GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN)
    assert (api.oauth.pkce_required, api.oauth.anonymous_grants, api.oauth.scopes) == (True, False, ("read",))
    assert api.token_location == TokenLocation(header="Authorization")


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(KEYLESS_OAS, id="keyless-oas"),
        pytest.param({**KEYLESS_OAS, "security": [], "components": {}}, id="nothing-declared"),
        pytest.param(changed(KEYLESS_OAS, AUTHENTICATION, ABSENT), id="no-authentication"),
        pytest.param(KEYLESS_CLASSIC, id="keyless-classic"),
        pytest.param({"name": "A", "proxy": CLASSIC["proxy"]}, id="auth-token-classic"),
    ],
)
def test_an_api_without_tokens_begins_to_issue_them(document: dict[str, Any]) -> None:
    """With the box, the suggested settings count; without it, none of them is written."""
    values = values_of(document)
    assert values["issues_tokens"] == ""
    assert written(document, values | {"pkce_required": "1", "scopes": "x"}) == document
    api = read(written(document, values | {"issues_tokens": "1", "grants": "client_credentials", "refresh_token": ""}))
    assert api.oauth is not None
    assert api.oauth.grant_types == (GrantType.CLIENT_CREDENTIALS,)
    assert api.token_location.header == "Authorization"


def test_a_scope_stays_declared_when_its_flow_goes_and_is_forgotten_everywhere() -> None:
    """Scopes belong to the API: a grant that goes takes none with it, and one that comes declares them too."""
    flows = "components/securitySchemes/tykOAuth/flows"
    document = changed(OAS, f"{flows}/password/scopes", {"only": "Only here"})
    without = written(document, values_of(document) | {"grants": "client_credentials"})
    (flow,) = without["components"]["securitySchemes"]["tykOAuth"]["flows"].values()
    assert flow["scopes"]["only"] == "Only here"
    back = written(without, values_of(without) | {"grants": "client_credentials\nauthorization_code"})
    assert back["components"]["securitySchemes"]["tykOAuth"]["flows"]["authorizationCode"]["scopes"] == flow["scopes"]
    none = written({**document, "x-tokenwire": {"scopes": ["own"]}}, values_of(document) | {"scopes": "read See"})
    assert [flow["scopes"] for flow in none["components"]["securitySchemes"]["tykOAuth"]["flows"].values()] == [
        {"read": "See"}
    ] * 3
    assert none["x-tokenwire"] == {"scopes": []}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        pytest.param({"access_token_lifetime": "an hour"}, "accessTokenLifetime", id="words"),
        pytest.param({"code_lifetime": "-1"}, "codeLifetime", id="negative"),
        pytest.param({"grants": "implicit"}, "implicit", id="unknown-grant"),
        pytest.param({"anonymous_grants": "perhaps"}, "anonymousGrants", id="unknown-choice"),
        pytest.param({"issues_tokens": ""}, "text", id="stop-issuing"),
    ],
)
@BOTH
def test_a_value_that_cannot_be_written_is_named(document: dict[str, Any], values: dict[str, str], named: str) -> None:
    """WrongField says which; the definition is not changed halfway."""
    before = copy.deepcopy(document)
    with pytest.raises(WrongField, match=named):
        written(document, values_of(document) | values)
    assert document == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        "security", "components", f"{TYK}/info", f"{TYK}/server", AUTHENTICATION, "x-tokenwire", "api_definition",
        f"{AUTHENTICATION}/securitySchemes", f"{AUTHENTICATION}/securitySchemes/tykOAuth", "oauth_meta", "auth_configs",
        "components/securitySchemes/tykOAuth/flows", "tokenwire", "notifications", "proxy", "use_oauth2",
    ]
)  # fmt: skip


@given(document=st.sampled_from([OAS, CLASSIC]), path=PATHS, value=JSON)
def test_a_definition_of_any_shape_gets_a_form(document: dict[str, Any], path: str, value: Any) -> None:
    """Text that people edit may be anything; the form neither fails nor changes it."""
    document = changed(document, path, value)
    assert written(document, values_of(document)) == document
