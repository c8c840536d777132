"""Proof Key for Code Exchange: S256 only."""

import base64
import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.oauth.errors import InvalidGrant, InvalidRequest
from libs.oauth.pkce import parse_challenge, verify_code_verifier

# RFC 7636 Appendix B
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
VERIFIERS = st.text(string.ascii_letters + string.digits + "-._~", min_size=43, max_size=128)


def challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


@pytest.mark.parametrize("required", [True, False], ids=["required", "optional"])
def test_an_s256_challenge_is_accepted(required: bool) -> None:
    """A valid S256 challenge is bound to the code."""
    assert parse_challenge(CHALLENGE, "S256", required=required) == CHALLENGE


@pytest.mark.parametrize("challenge", [None, ""], ids=["absent", "empty"])
def test_no_challenge_is_none_where_none_is_needed(challenge: str | None) -> None:
    """A confidential client may omit PKCE unless its API requires it."""
    assert parse_challenge(challenge, None, required=False) is None


@pytest.mark.parametrize(
    ("challenge", "method", "required", "says"),
    [
        pytest.param(None, None, True, "required", id="missing"),
        pytest.param("", None, True, "required", id="empty"),
        pytest.param(None, "S256", False, "without code_challenge", id="method-alone"),
        pytest.param(None, "S256", True, "without code_challenge", id="method-alone-where-required"),
        pytest.param(CHALLENGE, None, False, "must be S256", id="method-absent-means-plain"),
        pytest.param(CHALLENGE, "plain", False, "must be S256", id="plain"),
        pytest.param(CHALLENGE, "s256", False, "must be S256", id="lower-case"),
        pytest.param("short", "plain", False, "must be S256", id="plain-and-malformed"),
        pytest.param(CHALLENGE[:-1], "S256", False, "malformed", id="short"),
        pytest.param(CHALLENGE + "A", "S256", False, "malformed", id="long"),
        pytest.param(CHALLENGE[:-1] + "=", "S256", False, "malformed", id="padding"),
        pytest.param(CHALLENGE[:-1] + "+", "S256", False, "malformed", id="standard-base64"),
        pytest.param(CHALLENGE + "\n", "S256", False, "malformed", id="newline"),
        pytest.param("é" * 43, "S256", False, "malformed", id="not-ascii"),
    ],
)
def test_anything_else_is_refused(challenge: str | None, method: str | None, required: bool, says: str) -> None:
    """RFC 7636 §4.4.1: an unusable challenge is invalid_request with the reason."""
    with pytest.raises(InvalidRequest) as refused:
        parse_challenge(challenge, method, required=required)
    assert says in refused.value.description


def test_the_example_of_the_rfc_is_proven() -> None:
    """The example of RFC 7636 appendix B verifies."""
    verify_code_verifier(VERIFIER, CHALLENGE)


@given(VERIFIERS)
def test_a_verifier_proves_its_challenge(verifier: str) -> None:
    """Any valid verifier matches the challenge made from it."""
    verify_code_verifier(verifier, challenge_of(verifier))


@given(VERIFIERS, VERIFIERS)
def test_a_verifier_proves_no_other_challenge(verifier: str, other: str) -> None:
    """A verifier matches no other challenge."""
    if verifier != other:
        with pytest.raises(InvalidGrant):
            verify_code_verifier(verifier, challenge_of(other))


@pytest.mark.parametrize("verifier", [None, ""], ids=["absent", "empty"])
def test_neither_verifier_nor_challenge_is_fine(verifier: str | None) -> None:
    """A code without a challenge needs no verifier."""
    verify_code_verifier(verifier, None)


@pytest.mark.parametrize(
    ("verifier", "challenge"),
    [
        pytest.param(VERIFIER, None, id="downgrade"),
        pytest.param(None, CHALLENGE, id="missing"),
        pytest.param("", CHALLENGE, id="empty"),
        pytest.param(VERIFIER[:-1], CHALLENGE, id="short"),
        pytest.param("a" * 42, challenge_of("a" * 42), id="proves-but-too-short"),
        pytest.param("a" * 129, challenge_of("a" * 129), id="proves-but-too-long"),
        pytest.param("a" * 42 + "+", challenge_of("a" * 42 + "+"), id="proves-but-character-not-allowed"),
        pytest.param("é" * 43, challenge_of("é" * 43), id="proves-but-not-ascii"),
        pytest.param(VERIFIER + "\n", CHALLENGE, id="newline"),
        pytest.param(CHALLENGE, CHALLENGE, id="the-challenge-itself"),
    ],
)
def test_a_wrong_or_missing_verifier_is_refused(verifier: str | None, challenge: str | None) -> None:
    """RFC 7636 §4.6: a wrong or missing verifier is invalid_grant; a verifier without a challenge is a downgrade."""
    with pytest.raises(InvalidGrant):
        verify_code_verifier(verifier, challenge)
