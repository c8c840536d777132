"""Scopes: what may be asked for, what is granted, and that it never grows."""

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
    """An absent scope is not an empty one."""
    assert parse_scope(text) is None


@given(SCOPES)
def test_a_scope_is_kept_as_it_is(text: str) -> None:
    """RFC 6749 §3.3: a list of tokens; order and spelling are the client's."""
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
    """What the grammar of RFC 6749 §3.3 does not allow is invalid_scope."""
    with pytest.raises(InvalidScope):
        parse_scope(text)


@pytest.mark.parametrize(
    ("requested", "registered", "granted"),
    [
        pytest.param(None, None, None, id="nothing-asked-nothing-registered"),
        pytest.param("a b", None, "a b", id="unrestricted-client"),
        pytest.param(None, "a b", "a b", id="nothing-asked-is-all-it-may"),
        pytest.param("b", "a b", "b", id="part"),
        pytest.param("b a", "a b", "b a", id="all-in-another-order"),
    ],
)
def test_a_client_gets_what_it_may(requested: str | None, registered: str | None, granted: str | None) -> None:
    """A client gets what it asks for as far as it is registered, and all of that where it asks for nothing."""
    assert grant_scope(requested, registered) == granted


@pytest.mark.parametrize(
    ("requested", "registered"),
    [
        pytest.param("c", "a b", id="other"),
        pytest.param("a c", "a b", id="one-too-many"),
        pytest.param("A", "a", id="other-case"),
        pytest.param("a", "ab", id="part-of-a-word"),
    ],
)
def test_a_client_gets_no_more_than_it_may(requested: str, registered: str) -> None:
    """One token too many refuses the whole request."""
    with pytest.raises(InvalidScope):
        grant_scope(requested, registered)


@given(SCOPES, SCOPES)
def test_a_scope_is_never_widened(requested: str, granted: str) -> None:
    """RFC 6749 §6: whatever is asked for on refresh, what comes out was granted before."""
    allowed = set(granted.split(" "))
    try:
        narrowed = narrow_scope(requested, granted)
    except InvalidScope:
        assert not set(requested.split(" ")) <= allowed
    else:
        assert narrowed == requested
        assert set(requested.split(" ")) <= allowed


def test_nothing_asked_for_on_refresh_is_what_was_granted() -> None:
    """RFC 6749 §6: an omitted scope is "treated as equal to the scope originally granted"."""
    assert narrow_scope(None, "a b") == "a b"
    assert narrow_scope(None, None) is None


def test_a_grant_without_scope_has_nothing_to_narrow() -> None:
    """Asking for a scope where none was granted is asking for more."""
    with pytest.raises(InvalidScope):
        narrow_scope("a", None)
