"""Parsing of codes, tokens and public ids."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from libs.encryption import CannotDecrypt, KeyRing, decode, decrypt_with_token, encrypt_with_token
from libs.oauth.token_formats import OpaqueTokens, TokenKind, new_grant_id, parse_public_token_id, public_token_id
from tests.builders import KEYS
from tests.fuzz.extent import examples
from tests.fuzz.strange import any_text, bytes_like, texts_like

RING = KeyRing.parse(KEYS)
OPAQUE = OpaqueTokens(RING.subkeys("token tag"), RING.current, lambda size: b"r" * size)
ISSUED = tuple(
    OPAQUE.mint(kind, new_grant_id(bytes([number] * 16)), number).value for kind in TokenKind for number in (1, 77)
)
GRANT_ID = new_grant_id(bytes(16))


@examples(300)
@given(st.one_of(any_text, texts_like(*ISSUED)))
def test_only_what_was_issued_is_read(value: str) -> None:
    """Only issued values verify, not changed ones or invalid encodings."""
    found = [OPAQUE.read(kind, value) for kind in TokenKind]
    assert [each for each in found if each] == ([OPAQUE.read_any(value)] if value in ISSUED else [])
    assert value in ISSUED or OPAQUE.read_any(value) is None


@examples(200)
@given(texts_like(public_token_id(GRANT_ID, 7), public_token_id(GRANT_ID, 2**32)))
def test_a_public_id_is_read_or_is_none(text: str) -> None:
    """A parsed public id has the same spelling, apart from leading zeros."""
    found = parse_public_token_id(text)
    if found is not None:
        grant_id, generation = found
        assert text.startswith(f"{grant_id}.")
        assert text.endswith(str(generation))


@examples(150)
@given(bytes_like(encrypt_with_token("tw_rt_right", b"a pair")), st.sampled_from(["tw_rt_right", "tw_rt_wrong"]))
def test_a_sealed_value_is_opened_or_refused(box: bytes, holder: str) -> None:
    """A value is decrypted only unchanged, and by the holder of its token."""
    with suppress(CannotDecrypt):
        assert decrypt_with_token(holder, box) == b"a pair"
        assert holder == "tw_rt_right"


@examples(150)
@given(texts_like(RING.encrypt("client secret", b"a secret", "client-1"), RING.digest("client secret", b"a secret")))
def test_a_box_or_digest_of_the_key_ring_is_what_was_made_or_refused(text: str) -> None:
    """Changed stored ciphertexts and digests are refused with the expected error."""
    with suppress(CannotDecrypt, ValueError):
        assert RING.decrypt("client secret", text, "client-1") == b"a secret"
    with suppress(ValueError):
        decode(text)


@examples(100)
@given(texts_like(KEYS))
def test_a_key_ring_is_read_or_refused(text: str) -> None:
    """A keys setting is valid or raises ValueError, which becomes one line."""
    with suppress(ValueError):
        ring = KeyRing.parse(text)
        assert 0 <= ring.current <= 255
