"""The opaque format of codes and tokens: it locates the grant, and only this server can make it."""

import base64
import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.oauth.tokens import (
    MAX_GENERATION,
    Handle,
    TokenCodec,
    TokenKind,
    digest_of,
    new_grant_id,
    parse_public_token_id,
    public_token_id,
)

OLD, NEW = bytes(32), bytes(range(32))
CODEC = TokenCodec({7: NEW}, 7, os.urandom)
GRANT_IDS = st.binary(min_size=16, max_size=16).map(new_grant_id)
GENERATIONS = st.integers(0, MAX_GENERATION)


@given(st.sampled_from(TokenKind), GRANT_IDS, GENERATIONS)
def test_what_was_minted_is_read_back(kind: TokenKind, grant_id: str, generation: int) -> None:
    """A value says whose grant it is and of which generation, and is known by the digest that is stored."""
    minted = CODEC.mint(kind, grant_id, generation)
    assert CODEC.read(kind, minted.value) == Handle(kind, grant_id, generation, minted.digest)
    assert CODEC.read_any(minted.value) == CODEC.read(kind, minted.value)
    assert minted.digest == digest_of(minted.value) == hashlib.sha256(minted.value.encode()).digest()


@given(GRANT_IDS, GENERATIONS)
def test_a_value_needs_no_escaping(grant_id: str, generation: int) -> None:
    """A code or token stands in a URL, a form or a header as it is."""
    alphabet = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    for kind in TokenKind:
        assert set(CODEC.mint(kind, grant_id, generation).value) <= alphabet


def test_no_two_values_are_the_same() -> None:
    """160 random bits: the same grant and generation never give one value twice, even where two servers race."""
    grant_id = new_grant_id(bytes(16))
    assert len({CODEC.mint(TokenKind.REFRESH, grant_id, 2).value for _ in range(1000)}) == 1000


def test_all_of_the_randomness_is_in_the_value() -> None:
    """What the random source gives is in the value whole: 20 bytes."""
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return b"\xa5" * count

    value = TokenCodec({7: NEW}, 7, random).mint(TokenKind.CODE, new_grant_id(bytes(16)), 0).value
    assert asked == [20]
    assert b"\xa5" * 20 in base64.urlsafe_b64decode(value.removeprefix("tw_ac_"))


@given(st.data(), st.sampled_from(TokenKind), GRANT_IDS, GENERATIONS)
def test_a_mistyped_value_is_nobodys(data: st.DataObject, kind: TokenKind, grant_id: str, generation: int) -> None:
    """Any one character changed, in any place, to anything: refused, and no database was asked."""
    value = CODEC.mint(kind, grant_id, generation).value
    place = data.draw(st.integers(0, len(value) - 1))
    character = data.draw(st.characters().filter(lambda other: other != value[place]))
    assert CODEC.read(kind, value[:place] + character + value[place + 1 :]) is None


DASHES = TokenCodec({7: NEW}, 7, lambda count: (b"\xff\xfe\xfb\xef\xbe" * 4)[:count])
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
def test_what_was_never_minted_is_nobodys(value: str) -> None:
    """Near misses are refused, and nothing about them raises."""
    assert {"-", "_"} < set(VALUE[6:])
    assert CODEC.read(TokenKind.ACCESS, VALUE) is not None
    assert CODEC.read(TokenKind.ACCESS, value) is None


@given(st.text(max_size=120))
def test_any_text_may_be_presented(text: str) -> None:
    """Text from the network is read without raising, and is nobody's."""
    assert CODEC.read_any(text) is None
    assert CODEC.read_any(f"tw_rt_{text}") is None


@pytest.mark.parametrize("kind", TokenKind)
def test_a_value_is_of_one_kind_only(kind: TokenKind) -> None:
    """A refresh token is no access token and no code, even under the other's prefix: the tag covers it."""
    value = CODEC.mint(kind, new_grant_id(bytes(16)), 1).value
    for other in set(TokenKind) - {kind}:
        assert CODEC.read(other, value) is None
        assert CODEC.read(other, other.value + value.removeprefix(kind.value)) is None


def test_values_of_an_old_key_live_on_after_a_rotation() -> None:
    """The ring's first key mints; values of its others are read until their key is taken out."""
    old = TokenCodec({1: OLD}, 1, os.urandom).mint(TokenKind.ACCESS, new_grant_id(bytes(16)), 1).value
    both, new = TokenCodec({2: NEW, 1: OLD}, 2, os.urandom), TokenCodec({2: NEW}, 2, os.urandom)
    assert both.read(TokenKind.ACCESS, old) is not None
    assert new.read(TokenKind.ACCESS, old) is None
    assert new.read(TokenKind.ACCESS, both.mint(TokenKind.ACCESS, new_grant_id(bytes(16)), 1).value) is not None


def test_another_servers_value_is_nobodys() -> None:
    """The same key id with another key is another server."""
    other = TokenCodec({7: OLD}, 7, os.urandom)
    assert CODEC.read(TokenKind.CODE, other.mint(TokenKind.CODE, new_grant_id(bytes(16)), 0).value) is None


@given(GRANT_IDS, GENERATIONS)
def test_a_public_id_is_read_back(grant_id: str, generation: int) -> None:
    """The public id of a token locates it: grant and generation."""
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
def test_what_is_no_public_id_is_none(text: str) -> None:
    """Anything else is no public id; a raw token is not one either."""
    assert parse_public_token_id(text) is None
