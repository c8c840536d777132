"""The opaque format of codes and tokens: locates the grant, and cannot be forged."""

import base64
import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.oauth.token_formats import (
    MAX_GENERATION,
    OpaqueTokens,
    PresentedToken,
    TokenKind,
    digest_of,
    new_grant_id,
    parse_public_token_id,
    public_token_id,
)

OLD, NEW = bytes(32), bytes(range(32))
OPAQUE = OpaqueTokens({7: NEW}, 7, os.urandom)
GRANT_IDS = st.binary(min_size=16, max_size=16).map(new_grant_id)
GENERATIONS = st.integers(0, MAX_GENERATION)


@given(st.sampled_from(TokenKind), GRANT_IDS, GENERATIONS)
def test_minted_values_are_read_back(kind: TokenKind, grant_id: str, generation: int) -> None:
    """A minted value contains grant and generation, and has the stored digest."""
    minted = OPAQUE.mint(kind, grant_id, generation)
    assert OPAQUE.read(kind, minted.value) == PresentedToken(kind, grant_id, generation, minted.digest)
    assert OPAQUE.read_any(minted.value) == OPAQUE.read(kind, minted.value)
    assert minted.digest == digest_of(minted.value) == hashlib.sha256(minted.value.encode()).digest()


@given(GRANT_IDS, GENERATIONS)
def test_a_value_needs_no_escaping(grant_id: str, generation: int) -> None:
    """A value is safe in URLs, forms and headers."""
    alphabet = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    for kind in TokenKind:
        assert set(OPAQUE.mint(kind, grant_id, generation).value) <= alphabet


def test_no_two_values_are_the_same() -> None:
    """With 160 random bits no two values are equal, even for the same grant and generation."""
    grant_id = new_grant_id(bytes(16))
    assert len({OPAQUE.mint(TokenKind.REFRESH, grant_id, 2).value for _ in range(1000)}) == 1000


def test_all_of_the_randomness_is_in_the_value() -> None:
    """All 20 random bytes are in the value."""
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return b"\xa5" * count

    value = OpaqueTokens({7: NEW}, 7, random).mint(TokenKind.CODE, new_grant_id(bytes(16)), 0).value
    assert asked == [20]
    assert b"\xa5" * 20 in base64.urlsafe_b64decode(value.removeprefix("tw_ac_"))


@given(st.data(), st.sampled_from(TokenKind), GRANT_IDS, GENERATIONS)
def test_a_mistyped_value_is_refused(data: st.DataObject, kind: TokenKind, grant_id: str, generation: int) -> None:
    """Any single changed character is detected without the database."""
    value = OPAQUE.mint(kind, grant_id, generation).value
    place = data.draw(st.integers(0, len(value) - 1))
    character = data.draw(st.characters().filter(lambda other: other != value[place]))
    assert OPAQUE.read(kind, value[:place] + character + value[place + 1 :]) is None


DASHES = OpaqueTokens({7: NEW}, 7, lambda count: (b"\xff\xfe\xfb\xef\xbe" * 4)[:count])
VALUE = DASHES.mint(TokenKind.ACCESS, new_grant_id(b"\xff" * 16), 1).value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param("tw_at_", id="prefix-alone"),
        pytest.param(VALUE[:-1], id="cut"),
        pytest.param(VALUE + "A", id="longer"),
        pytest.param(f"{VALUE}\n", id="newline"),
        pytest.param(VALUE.upper(), id="upper-case"),
        pytest.param("tw_at_" + VALUE[6:].replace("_", "/"), id="standard-base64-slash"),
        pytest.param("tw_at_" + VALUE[6:].replace("-", "+"), id="standard-base64-plus"),
        pytest.param(VALUE.replace("tw_at_", "tw_rt_"), id="other-prefix"),
        pytest.param("tw_at_" + "\ud800" * 76, id="surrogates"),
        pytest.param("tw_at_" + "é" * 76, id="not-ascii"),
        pytest.param("tw_at_" + "=" * 76, id="padding"),
        pytest.param("tw_at_" + "A" * 76, id="zeros"),
    ],
)
def test_values_never_minted_are_refused(value: str) -> None:
    """Near misses are refused without exceptions."""
    assert {"-", "_"} < set(VALUE[6:])
    assert OPAQUE.read(TokenKind.ACCESS, VALUE) is not None
    assert OPAQUE.read(TokenKind.ACCESS, value) is None


@given(st.text(max_size=120))
def test_any_text_may_be_presented(text: str) -> None:
    """Any text is refused without exceptions."""
    assert OPAQUE.read_any(text) is None
    assert OPAQUE.read_any(f"tw_rt_{text}") is None


@pytest.mark.parametrize("kind", TokenKind)
def test_a_value_is_of_one_kind_only(kind: TokenKind) -> None:
    """The tag covers the kind, so a refresh token is not accepted as another kind."""
    value = OPAQUE.mint(kind, new_grant_id(bytes(16)), 1).value
    for other in set(TokenKind) - {kind}:
        assert OPAQUE.read(other, value) is None
        assert OPAQUE.read(other, other.value + value.removeprefix(kind.value)) is None


def test_values_of_an_old_key_live_on_after_a_rotation() -> None:
    """The first key mints; values of the other keys are accepted while these exist."""
    old = OpaqueTokens({1: OLD}, 1, os.urandom).mint(TokenKind.ACCESS, new_grant_id(bytes(16)), 1).value
    both, new = OpaqueTokens({2: NEW, 1: OLD}, 2, os.urandom), OpaqueTokens({2: NEW}, 2, os.urandom)
    assert both.read(TokenKind.ACCESS, old) is not None
    assert new.read(TokenKind.ACCESS, old) is None
    assert new.read(TokenKind.ACCESS, both.mint(TokenKind.ACCESS, new_grant_id(bytes(16)), 1).value) is not None


def test_another_servers_value_is_refused() -> None:
    """Another server's key with the same id does not verify."""
    other = OpaqueTokens({7: OLD}, 7, os.urandom)
    assert OPAQUE.read(TokenKind.CODE, other.mint(TokenKind.CODE, new_grant_id(bytes(16)), 0).value) is None


@given(GRANT_IDS, GENERATIONS)
def test_a_public_id_is_read_back(grant_id: str, generation: int) -> None:
    """A public id contains grant and generation."""
    assert parse_public_token_id(public_token_id(grant_id, generation)) == (grant_id, generation)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("a" * 22, id="no-generation"),
        pytest.param(f"{'a' * 22}.", id="empty-generation"),
        pytest.param(f"{'a' * 21}.1", id="short-grant-id"),
        pytest.param(f"{'a' * 22}.-1", id="negative"),
        pytest.param(f"{'a' * 22}.١", id="digits-of-another-script"),
        pytest.param(f"{'a' * 22}.²", id="superscript"),
        pytest.param(f"{'a' * 22}.{'1' * 11}", id="endless"),
        pytest.param(VALUE, id="a-token"),
    ],
)
def test_other_text_is_no_public_id(text: str) -> None:
    """Other text, including a raw token, is no public id."""
    assert parse_public_token_id(text) is None
