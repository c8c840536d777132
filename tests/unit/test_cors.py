"""CORS settings of a definition, and the resulting headers."""

from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.apis import Cors
from libs.http.cors import cors_response_headers, preflight_headers
from libs.tyk.classic import read_classic
from libs.tyk.import_notes import ImportNotes
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.oas import read_oas
from tests.unit.tyk_definitions import changed, definition

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
CORS = "x-tyk-api-gateway/middleware/global/cors"
OAS = {
    "enabled": True,
    "allowedOrigins": ["https://App.example.test", "https://*.example.test:8443"],
    "allowedMethods": ["post", "GET"],
    "allowedHeaders": ["Authorization"],
    "exposedHeaders": ["X-Request-Id"],
    "allowCredentials": True,
    "maxAge": 600,
    "optionsPassthrough": True,
    "debug": False,
}
CLASSIC = {
    "enable": True,
    "allowed_origins": OAS["allowedOrigins"],
    "allowed_methods": OAS["allowedMethods"],
    "allowed_headers": OAS["allowedHeaders"],
    "exposed_headers": OAS["exposedHeaders"],
    "allow_credentials": True,
    "max_age": 600,
    "options_passthrough": True,
    "debug": False,
}
READ = Cors(
    allowed_origins=("https://app.example.test", "https://*.example.test:8443"),
    allowed_methods=("POST", "GET"),
    allowed_headers=("Authorization",),
    exposed_headers=("X-Request-Id",),
    allow_credentials=True,
    max_age=600,
    options_passthrough=True,
)


def of_oas(settings: Any) -> Cors | None:
    document = changed(definition("orders-oas.json"), CORS, settings)
    return read_oas(document, api_id="a", now=NOW).cors


def of_classic(settings: Any) -> Cors | None:
    document = changed(definition("orders-classic.json"), "CORS", settings)
    return read_classic(document, api_id="a", now=NOW).cors


def test_both_languages_say_the_same() -> None:
    """Both definition formats mean the same; origins are compared in lower case, methods in upper case."""
    assert of_oas(OAS) == of_classic(CLASSIC) == READ


@pytest.mark.parametrize("settings", [None, {}, {"enabled": False, "allowedOrigins": ["nonsense"]}])
def test_nothing_is_allowed_unless_it_is_enabled(settings: Any) -> None:
    """Missing or disabled settings allow nothing."""
    assert of_oas(settings) is None


def test_defaults_are_tyk_s_except_for_origins() -> None:
    """Defaults are Tyk's, except that no origin is allowed, where Tyk allows all."""
    cors = of_oas({"enabled": True})
    assert cors == Cors(
        allowed_methods=("GET", "POST", "HEAD"), allowed_headers=("Accept", "Content-Type", "X-Requested-With")
    )
    assert cors is not None
    assert cors_response_headers(cors, "https://app.example.test", "POST") == {"Vary": "Origin"}


@pytest.mark.parametrize(
    ("member", "value", "fault"),
    [
        ("allowedOrigins", [7], "allowedOrigins[0]: a string is expected"),
        ("allowedOrigins", "https://a.test", "allowedOrigins: an array is expected"),
        ("maxAge", -1, "maxAge: a whole number from 0 to 2147483648 is expected"),
        ("maxAge", 1.5, "maxAge: a whole number from 0 to 2147483648 is expected"),
        ("maxAge", True, "maxAge: a whole number from 0 to 2147483648 is expected"),
        ("allowCredentials", "yes", "allowCredentials: true or false is expected"),
    ],
)
def test_a_member_of_another_type_is_refused_by_name(member: str, value: Any, fault: str) -> None:
    """Types are those of Tyk, which refuses others as well."""
    with pytest.raises(InvalidDefinition) as refused:
        of_oas(OAS | {member: value})
    assert f"middleware.global.cors.{fault}" in str(refused.value)


@pytest.mark.parametrize(
    ("origins", "admitted"),
    [
        (["app.example.test"], ()),
        (["https://a.test", "https://*"], ("https://a.test",)),
        (["https://*.*.test", "https://a*.test", "null", ""], ()),
        (["https://A.test/", " https://b.test "], ("https://a.test", "https://b.test")),
    ],
)
def test_c2_an_origin_that_no_browser_sends_admits_nobody(origins: list[str], admitted: tuple[str, ...]) -> None:
    """It is left out with a warning, as it has no effect in Tyk; a slash or blank too many is not counted."""
    notes = ImportNotes()
    document = changed(definition("orders-oas.json"), CORS, OAS | {"allowedOrigins": origins})
    cors = read_oas(document, api_id="a", now=NOW, notes=notes).cors
    assert cors is not None
    assert cors.allowed_origins == admitted
    assert len(notes.warnings) == len(origins) - len(admitted)
    assert all("allowedOrigins[" in said and "an origin such as" in said for said in notes.warnings)


def test_c2_methods_headers_and_an_age_that_browsers_do_not_know_are_left_out() -> None:
    """With a warning for each; an age over a week is a week, since browsers use less anyway."""
    notes = ImportNotes()
    settings = OAS | {"allowedMethods": ["GET POST", "put"], "allowedHeaders": ["X Y", "X-Z"], "maxAge": 2_592_000}
    document = changed(definition("orders-oas.json"), CORS, settings)
    cors = read_oas(document, api_id="a", now=NOW, notes=notes).cors
    assert cors is not None
    assert (cors.allowed_methods, cors.allowed_headers, cors.max_age) == (("PUT",), ("X-Z",), 604_800)
    assert [said.partition(": ")[0].rpartition(".")[2] for said in notes.warnings] == [
        "allowedMethods[0]",
        "allowedHeaders[0]",
    ]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.test", True),
        ("https://shop.example.test:8443", True),
        ("https://a.shop.example.test:8443", True),
        ("http://app.example.test", False),
        ("https://app.example.test:8443", True),
        ("https://app.example.test:444", False),
        ("https://app.example.test.evil.test", False),
        ("https://evilexample.test:8443", False),
        ("https://.example.test:8443", False),
        ("https://evil.test/.example.test:8443", False),
        ("https://evil.test:1@x.example.test:8443", False),
        ("https://evil.test#.example.test:8443", False),
        ("null", False),
        ("", False),
        (None, False),
    ],
)
def test_an_origin_is_named_or_it_is_not(origin: str | None, allowed: bool) -> None:
    """An origin matches exactly as browsers send it; a wildcard stands for subdomains only."""
    headers = cors_response_headers(READ, origin, "POST")
    assert headers == {"Vary": "Origin"} | (
        {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": "X-Request-Id",
        }
        if allowed
        else {}
    )


def test_every_origin_never_goes_with_credentials() -> None:
    """`*` is answered as `*` and never with credentials, whatever the definition says."""
    cors = of_oas(OAS | {"allowedOrigins": ["https://app.example.test", "*"]})
    assert cors is not None
    for headers in (
        cors_response_headers(cors, "https://app.example.test", "POST"),
        preflight_headers(cors, {"Origin": "https://evil.test", "Access-Control-Request-Method": "POST"}),
    ):
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in headers


def asked(**more: str) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return {"Origin": "https://app.example.test", "Access-Control-Request-Method": "POST"} | named


def test_a_preflight_gets_what_is_allowed() -> None:
    """A preflight gets the definition's methods, headers and max age."""
    assert preflight_headers(READ, asked()) == {
        "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        "Access-Control-Allow-Origin": "https://app.example.test",
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Methods": "POST, GET",
        "Access-Control-Allow-Headers": "Authorization",
        "Access-Control-Max-Age": "600",
    }


@pytest.mark.parametrize(
    "request_headers",
    [
        pytest.param(asked(Access_Control_Request_Method="DELETE"), id="method"),
        pytest.param(asked(Origin="https://evil.test"), id="origin"),
        pytest.param({"Origin": "https://app.example.test"}, id="no-method"),
        pytest.param({}, id="nothing"),
    ],
)
def test_a_preflight_for_more_than_is_allowed_gets_no_cors_headers(request_headers: dict[str, str]) -> None:
    """A preflight for more than is allowed gets no CORS headers."""
    assert list(preflight_headers(READ, request_headers)) == ["Vary"]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [("authorization, x-trace", "authorization, x-trace"), ("a: b", ""), ("a b", ""), ("", "")],
)
def test_every_header_is_listed_by_name(wanted: str, told: str) -> None:
    """With `*`, the requested headers are repeated if they are valid names."""
    cors = READ.model_copy(update={"allowed_headers": ("*",)})
    headers = preflight_headers(cors, asked(Access_Control_Request_Headers=wanted))
    assert headers["Access-Control-Allow-Headers"] == told
