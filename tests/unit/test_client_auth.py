"""Which client credentials a request has, and whether they agree."""

import base64
import contextlib
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.oauth.client_auth import Credentials, parse_basic, read_credentials
from libs.oauth.errors import InvalidClient, InvalidRequest, OAuthError

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@given(TEXT.filter(bool), TEXT)
def test_form_encoded_parts_are_read_back(client_id: str, secret: str) -> None:
    """RFC 6749 §2.3.1, appendix B: id and secret are form-encoded, then joined; any characters survive."""
    header = basic(quote_plus(client_id), quote_plus(secret))
    assert parse_basic(header)[0] == Credentials(client_id, secret or None)


@pytest.mark.parametrize(
    ("header", "client_id", "secret"),
    [
        pytest.param(basic("app", "s3cr3t"), "app", "s3cr3t", id="plain"),
        pytest.param("basic " + basic("app", "s3cr3t")[6:], "app", "s3cr3t", id="scheme-in-lower-case"),
        pytest.param("BASIC  " + basic("app", "s3cr3t")[6:] + " ", "app", "s3cr3t", id="spaces-around"),
        pytest.param(basic("app", "a:b:c"), "app", "a:b:c", id="colons-in-the-secret"),
        pytest.param(basic("a%3Ab", "x"), "a:b", "x", id="escaped-colon-in-the-id"),
        pytest.param(basic("app", "a+b"), "app", "a b", id="plus-is-a-space"),
        pytest.param(basic("app", "a%2Bb"), "app", "a+b", id="escaped-plus"),
        pytest.param(basic("app", ""), "app", None, id="d6-an-empty-secret-is-none"),
        pytest.param(basic("app", "100%"), "app", "100%", id="lone-percent"),
        pytest.param(basic("app", "%C3%A9"), "app", "é", id="utf-8"),
    ],
)
def test_a_basic_header_names_client_and_secret(header: str, client_id: str, secret: str | None) -> None:
    """Headers as real clients send them are understood."""
    assert parse_basic(header)[0] == Credentials(client_id, secret)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="empty"),
        pytest.param("Basic", id="scheme-alone"),
        pytest.param("Basic ", id="nothing-after-it"),
        pytest.param("Bearer abc", id="bearer"),
        pytest.param("Digest username=x", id="digest"),
        pytest.param("Basic !!!!", id="not-base64"),
        pytest.param("Basic YXBw", id="no-colon"),
        pytest.param("Basic YXBwOng", id="no-padding"),
        pytest.param("Basic YXBwOnM= x", id="more-after-it"),
        pytest.param("Basic é", id="not-ascii"),
        pytest.param("Basic \udcff\udcfe", id="bytes-that-are-no-text"),
        pytest.param("Basic " + base64.b64encode(b"\xff\xfe:x").decode(), id="not-utf-8"),
        pytest.param(basic("", "x"), id="no-id"),
        pytest.param(basic("a\0b", "x"), id="nul-in-the-id"),
        pytest.param(basic("app", "x\0"), id="nul-in-the-secret"),
        pytest.param("Basic " + "A" * 5000, id="endless"),
    ],
)
def test_a_malformed_header_is_invalid_client(header: str) -> None:
    """A malformed header is failed authentication (RFC 6749 §5.2)."""
    with pytest.raises(InvalidClient):
        parse_basic(header)


@pytest.mark.parametrize(
    ("header", "readings"),
    [
        pytest.param(basic("app", "a+b"), [("app", "a b"), ("app", "a+b")], id="plus-in-the-secret"),
        pytest.param(basic("app", "a%41"), [("app", "aA"), ("app", "a%41")], id="escape-in-the-secret"),
        pytest.param(basic("me+app", "x"), [("me app", "x"), ("me+app", "x")], id="plus-in-the-id"),
        pytest.param(basic("app", "%ff"), [("app", "%ff")], id="escapes-that-are-not-utf-8"),
        pytest.param(basic("app", "a%00"), [("app", "a%00")], id="nul-when-decoded"),
        pytest.param(basic("app", "plain"), [("app", "plain")], id="one-meaning"),
    ],
)
def test_c7_a_basic_header_may_not_be_encoded(header: str, readings: list[tuple[str, str]]) -> None:
    """Both meanings are tried, the decoded one first."""
    assert [(each.client_id, each.secret) for each in parse_basic(header)] == readings


def test_c7_the_body_decides_between_two_meanings() -> None:
    """Only the meaning that agrees with the body counts."""
    header = basic("app", "a+b")
    assert read_credentials(header, "app", "a+b", None) == [Credentials("app", "a+b")]
    assert read_credentials(header, "app", "a b", None) == [Credentials("app", "a b")]
    with pytest.raises(InvalidRequest):
        read_credentials(header, "app", "a%2Bb", None)


@given(st.text(max_size=80), st.booleans())
def test_any_header_is_answered(text: str, is_basic: bool) -> None:
    """No header raises anything but a refusal."""
    with contextlib.suppress(InvalidClient):
        parse_basic(f"Basic {text}" if is_basic else text)


HEADER = basic("app", "s3cr3t")


@pytest.mark.parametrize(
    ("authorization", "client_id", "client_secret", "secret", "credentials"),
    [
        pytest.param(HEADER, None, None, None, Credentials("app", "s3cr3t"), id="header"),
        pytest.param(None, "app", "s3cr3t", None, Credentials("app", "s3cr3t"), id="body"),
        pytest.param(None, "app", None, "s3cr3t", Credentials("app", "s3cr3t"), id="body-with-alias"),
        pytest.param(None, "app", "s3cr3t", "s3cr3t", Credentials("app", "s3cr3t"), id="body-with-both-names"),
        pytest.param(None, "app", None, None, Credentials("app", None), id="public"),
        pytest.param(None, "app", "", None, Credentials("app", None), id="public-with-empty-secret"),
        pytest.param(HEADER, "app", None, None, Credentials("app", "s3cr3t"), id="header-and-id"),
        pytest.param(HEADER, "app", "s3cr3t", None, Credentials("app", "s3cr3t"), id="header-and-body-agree"),
        pytest.param(HEADER, None, None, "s3cr3t", Credentials("app", "s3cr3t"), id="header-and-alias-agree"),
        pytest.param(basic("app", ""), "app", None, None, Credentials("app", None), id="d6-header-without-secret"),
        pytest.param(basic("app", ""), "app", "s3", None, Credentials("app", "s3"), id="d6-secret-in-the-body"),
        pytest.param(basic("app", ""), None, None, "s3", Credentials("app", "s3"), id="d6-alias-in-the-body"),
    ],
)
def test_credentials_are_read_where_they_are(
    authorization: str | None,
    client_id: str | None,
    client_secret: str | None,
    secret: str | None,
    credentials: Credentials,
) -> None:
    """Credentials are accepted in the header, the body, or both if equal."""
    assert read_credentials(authorization, client_id, client_secret, secret) == [credentials]


@pytest.mark.parametrize(
    ("authorization", "client_id", "client_secret", "secret", "error"),
    [
        pytest.param(None, None, None, None, InvalidClient, id="none"),
        pytest.param(None, "", "", "", InvalidClient, id="empty"),
        pytest.param(None, None, "s3cr3t", None, InvalidClient, id="secret-of-nobody"),
        pytest.param(HEADER, "other", None, None, InvalidRequest, id="ids-differ"),
        pytest.param(HEADER, "app", "other", None, InvalidRequest, id="secrets-differ"),
        pytest.param(HEADER, None, None, "other", InvalidRequest, id="alias-differs"),
        pytest.param(None, "app", "one", "two", InvalidRequest, id="body-differs-from-itself"),
        pytest.param(basic("app", ""), "other", "s3cr3t", None, InvalidRequest, id="d6-ids-differ-without-a-password"),
        pytest.param(basic("app", ""), "app", "one", "two", InvalidRequest, id="d6-body-differs-from-itself"),
        pytest.param("Bearer x", "app", "s3cr3t", None, InvalidClient, id="another-scheme-beside-a-good-body"),
        pytest.param("Basic !", "app", "one", "two", InvalidRequest, id="two-things-wrong-the-body-is-named"),
    ],
)
def test_disagreeing_credentials_are_refused(
    authorization: str | None,
    client_id: str | None,
    client_secret: str | None,
    secret: str | None,
    error: type[OAuthError],
) -> None:
    """RFC 6749 §2.3: different credentials in one request are refused."""
    with pytest.raises(error):
        read_credentials(authorization, client_id, client_secret, secret)


def test_a_secret_is_not_shown_by_accident() -> None:
    """The repr of credentials hides the secret, for logs and tracebacks."""
    assert "s3cr3t" not in repr(read_credentials(HEADER, None, None, None))
