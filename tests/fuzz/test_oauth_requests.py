"""Parts of OAuth requests: forms, JSON, Basic header, PKCE, scopes, redirect URIs."""

import base64
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from hypothesis import given
from hypothesis import strategies as st

from contracts.grants import CodeRequest, RevocationRequest, TokenRequest
from contracts.introspection import IntrospectionRequest
from libs.http.error_responses import oauth_body
from libs.http.forms import _parse_json, parse_query
from libs.oauth.client_auth import parse_basic, read_credentials
from libs.oauth.errors import InvalidClient, InvalidGrant, InvalidRequest, InvalidScope, OAuthError
from libs.oauth.pkce import parse_challenge, verify_code_verifier
from libs.oauth.redirect_uris import check_registrable, match_redirect_uri, with_query
from libs.oauth.scopes import narrow_scope, parse_scope
from tests.fuzz.extent import examples
from tests.fuzz.strange import any_text, bytes_like, documents_like, json_bytes, plain_text, texts_like

FORM = "grant_type=authorization_code&code=tw_ac_x&redirect_uri=https%3A%2F%2Fapp.example.test%2Fcb&scope=a+b"
BODY = {
    "grant_type": "password",
    "username": "alice",
    "password": "correct horse",
    "client_secret": "s3cret",
    "key_rules": {"rate": 1},
}
BASIC = "Basic " + base64.b64encode(b"client-1:a%3Asecret+of+24+characters").decode()
CALLBACK = "https://app.example.test/callback?a=b"
LOOPBACK = "http://127.0.0.1:5000/callback"
APP = "com.example.app:/callback"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def require_parameters(parameters: dict[str, str]) -> None:
    """No NUL and no empty values; any request model can be built from it."""
    assert all(value and "\0" not in name + value for name, value in parameters.items())
    for model in (CodeRequest, TokenRequest, RevocationRequest, IntrospectionRequest):
        with suppress(ValueError):
            model.model_validate(parameters)


@examples(300)
@given(texts_like(FORM, f"{FORM}&{FORM}"))
def test_a_form_is_read_or_refused(text: str) -> None:
    """Any form is read or refused: bad escapes, too many parameters, lone surrogates."""
    with suppress(InvalidRequest):
        require_parameters(parse_query(text, TokenRequest.model_fields))


@examples(300)
@given(bytes_like(json_bytes(BODY)) | documents_like(BODY).map(json_bytes))
def test_a_json_body_is_read_or_refused(body: bytes) -> None:
    """Any JSON is read or refused: other types and encodings, deep nesting."""
    with suppress(InvalidRequest):
        require_parameters(_parse_json(body, CodeRequest.model_fields, {"key_rules"}))


@examples(300)
@given(
    texts_like(BASIC, BASIC.lower()) | st.binary(max_size=60).map(lambda raw: f"Basic {base64.b64encode(raw).decode()}")
)
def test_a_basic_header_is_read_or_refused(header: str) -> None:
    """Any Basic header is read or refused, including non-UTF-8 ones."""
    with suppress(InvalidClient):
        for credentials in parse_basic(header):
            assert credentials.client_id
            (credentials.client_id + (credentials.secret or "")).encode()


@examples(200)
@given(st.none() | texts_like(BASIC), st.lists(st.none() | texts_like("client-1", "a:secret"), min_size=3, max_size=3))
def test_credentials_are_one_client_s_or_refused(header: str | None, said: list[str | None]) -> None:
    """Header and body together name one client or are refused."""
    with suppress(InvalidClient, InvalidRequest):
        for credentials in read_credentials(header, *said):
            assert said[0] in {None, "", credentials.client_id}


@examples(200)
@given(texts_like(CHALLENGE), texts_like("S256", "plain"), texts_like(VERIFIER), st.booleans())
def test_a_challenge_is_proven_or_refused(challenge: str, method: str, verifier: str, required: bool) -> None:
    """A challenge is verified by its own verifier only."""
    with suppress(InvalidRequest, InvalidGrant):
        bound = parse_challenge(challenge, method, required=required)
        verify_code_verifier(verifier, bound)
        assert (bound, verifier) in {(CHALLENGE, VERIFIER), (None, "")}


@examples(200)
@given(
    texts_like("read write"), texts_like("read write admin") | st.none(), st.sets(st.sampled_from(["read", "admin"]))
)
def test_a_scope_is_narrowed_or_refused(asked: str, granted: str | None, allowed: set[str]) -> None:
    """A scope is never widened beyond what was granted or is still allowed."""
    with suppress(InvalidScope):
        found = narrow_scope(parse_scope(asked), granted, allowed)
        assert set((found or "").split()) <= set((granted or "").split()) & allowed


@examples(300)
@given(texts_like(CALLBACK, LOOPBACK, APP, "http://[::1]:1/x", "https://user@host:99999/"), any_text)
def test_a_redirect_uri_is_registered_or_refused(uri: str, state: str) -> None:
    """A URI that can be registered can be redirected to."""
    with suppress(ValueError):
        registered = check_registrable(uri)
        assert match_redirect_uri(registered, (registered,)) == registered
        target = with_query(registered, {"code": "x"})
        assert urlsplit(target).query.endswith("code=x")
        target.encode("ascii")


@examples(300)
@given(texts_like(CALLBACK, LOOPBACK, "http://127.0.0.1:99999/callback", "http://[::1/"))
def test_a_requested_redirect_uri_is_registered_or_refused(requested: str) -> None:
    """A requested URI is compared, never followed."""
    with suppress(InvalidRequest):
        assert match_redirect_uri(requested, (CALLBACK, LOOPBACK)).partition("?")[0].endswith("/callback")


@examples(100)
@given(any_text, plain_text)
def test_an_error_has_the_characters_that_the_rfc_allows(description: str, detail: str) -> None:
    """RFC 6749 §5.2: %x20-21 / %x23-5B / %x5D-7E."""
    body: dict[str, Any] = oauth_body(OAuthError(description, detail=detail))
    assert all(" " <= character <= "~" and character not in '"\\' for character in body["error_description"])
