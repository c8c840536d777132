"""Scopes: requested, granted, and never widened."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.oauth.errors import InvalidScope
from libs.oauth.scopes import grant_scope, narrow_scope, parse_scope

WORDS = st.text(string.ascii_letters + string.digits + ":/!._-", min_size=1, max_size=12)
SCOPES = st.lists(WORDS, min_size=1, max_size=6, unique=True).map(" ".join)


@pytest.mark.parametrize("text", [None, ""], ids=["absent", "empty"])
def test_no_scope_asked_for_is_none(text: str | None) -> None:
    """A missing scope is not an empty one."""
    assert parse_scope(text) is None


@given(SCOPES)
def test_a_scope_is_kept_as_it_is(text: str) -> None:
    """RFC 6749 §3.3: order and spelling are kept."""
    assert parse_scope(text) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(" ", id="only-a-space"),
        pytest.param("a ", id="trailing-space"),
        pytest.param(" a", id="leading-space"),
        pytest.param("a  b", id="two-spaces"),
        pytest.param("a\tb", id="tab"),
        pytest.param("a\n", id="newline"),
        pytest.param('"a"', id="quote"),
        pytest.param("a\\b", id="backslash"),
        pytest.param("é", id="not-ascii"),
        pytest.param("a\x7f", id="delete"),
        pytest.param("a\0", id="nul"),
        pytest.param("a" * 2049, id="endless"),
    ],
)
def test_a_malformed_scope_is_refused(text: str) -> None:
    """RFC 6749 §3.3: a malformed scope is invalid_scope."""
    with pytest.raises(InvalidScope):
        parse_scope(text)


DECLARED = ("a", "b", "c")


@pytest.mark.parametrize(
    ("requested", "registered", "granted"),
    [
        pytest.param(None, None, None, id="nothing-asked-nothing-registered"),
        pytest.param("a b", None, "a b", id="unrestricted-client"),
        pytest.param(None, "a b", "a b", id="nothing-asked-is-all-it-may"),
        pytest.param("b", "a b", "b", id="part"),
        pytest.param("b a", "a b", "b a", id="all-in-another-order"),
        pytest.param(None, "d b a", "b a", id="a19-registered-and-not-declared"),
        pytest.param(None, "d", None, id="a19-nothing-of-it-declared"),
    ],
)
def test_a_client_gets_the_scope_it_is_registered_for(
    requested: str | None, registered: str | None, granted: str | None
) -> None:
    """A client gets what it requests of its registered scope, or all of it by default."""
    assert grant_scope(requested, registered, DECLARED) == granted


@pytest.mark.parametrize(
    ("requested", "registered"),
    [
        pytest.param("c", "a b", id="other"),
        pytest.param("a c", "a b", id="one-too-many"),
        pytest.param("A", "a", id="other-case"),
        pytest.param("a", "ab", id="part-of-a-word"),
        pytest.param("d", None, id="a19-undeclared"),
        pytest.param("a d", None, id="a19-one-undeclared"),
        pytest.param("d", "a d", id="a19-registered-and-not-declared"),
    ],
)
def test_a_client_gets_no_scope_beyond_its_own(requested: str, registered: str | None) -> None:
    """One scope too many refuses the request."""
    with pytest.raises(InvalidScope):
        grant_scope(requested, registered, DECLARED)


@pytest.mark.parametrize("registered", [None, "a"])
def test_a19_an_api_that_declares_nothing_grants_nothing(registered: str | None) -> None:
    """If the API declares no scopes, any request is refused, and the default is empty."""
    assert grant_scope(None, registered, ()) is None
    with pytest.raises(InvalidScope):
        grant_scope("a", registered, ())


@given(SCOPES, SCOPES, SCOPES)
def test_a_scope_is_never_widened(requested: str, granted: str, allowed: str) -> None:
    """RFC 6749 §6: a refresh yields only what was granted and is still allowed."""
    original, now = set(granted.split(" ")), set(allowed.split(" "))
    try:
        narrowed = narrow_scope(requested, granted, now)
    except InvalidScope:
        wanted = set(requested.split(" "))
        assert not wanted <= original or not wanted & now
    else:
        assert narrowed
        assert set(narrowed.split(" ")) == set(requested.split(" ")) & now
        assert set(narrowed.split(" ")) <= original


def test_an_omitted_scope_on_refresh_is_the_granted_one() -> None:
    """RFC 6749 §6: an omitted scope is "treated as equal to the scope originally granted"."""
    assert narrow_scope(None, "a b", DECLARED) == "a b"
    assert narrow_scope(None, None, DECLARED) is None


def test_a16_scopes_no_longer_allowed_are_left_out() -> None:
    """Scopes that are no longer allowed are left out; requesting only such is refused."""
    assert narrow_scope(None, "a b", ("b",)) == "b"
    assert narrow_scope("a b", "a b", ("b",)) == "b"
    assert narrow_scope(None, "a b", ()) is None
    with pytest.raises(InvalidScope):
        narrow_scope("a", "a b", ("b",))


def test_a_grant_without_scope_has_nothing_to_narrow() -> None:
    """If no scope was granted, requesting one on refresh is refused."""
    with pytest.raises(InvalidScope):
        narrow_scope("a", None, DECLARED)
