"""The format of codes and tokens, and their public ids: whatever is presented, it is read or it is none."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from libs.oauth.tokens import TokenCodec, TokenKind, new_grant_id, parse_public_token_id, public_token_id
from libs.sealing import CannotOpen, KeyRing, decode, open_as_holder, seal_for_holder
from tests.builders import KEYS
from tests.fuzz.extent import examples
from tests.fuzz.strange import any_text, bytes_like, texts_like

RING = KeyRing.parse(KEYS)
CODEC = TokenCodec(RING.subkeys("token tag"), RING.current, lambda size: b"r" * size)
ISSUED = tuple(
    CODEC.mint(kind, new_grant_id(bytes([number] * 16)), number).value for kind in TokenKind for number in (1, 77)
)
GRANT_ID = new_grant_id(bytes(16))


@examples(300)
@given(st.one_of(any_text, texts_like(*ISSUED)))
def test_only_what_was_issued_is_read(value: str) -> None:
    """Also with a letter changed, and also what no encoding can spell."""
    found = [CODEC.read(kind, value) for kind in TokenKind]
    assert [each for each in found if each] == ([CODEC.read_any(value)] if value in ISSUED else [])
    assert value in ISSUED or CODEC.read_any(value) is None


@examples(200)
@given(texts_like(public_token_id(GRANT_ID, 7), public_token_id(GRANT_ID, 2**32)))
def test_a_public_id_is_read_or_is_none(text: str) -> None:
    """What is read is spelled as it was, leading zeros aside."""
    found = parse_public_token_id(text)
    if found is not None:
        grant_id, generation = found
        assert text.startswith(f"{grant_id}.")
        assert text.endswith(str(generation))


@examples(150)
@given(bytes_like(seal_for_holder("tw_rt_right", b"a pair")), st.sampled_from(["tw_rt_right", "tw_rt_wrong"]))
def test_a_sealed_value_is_opened_or_refused(box: bytes, holder: str) -> None:
    """By whoever holds the token it was sealed for, unchanged."""
    with suppress(CannotOpen):
        assert open_as_holder(holder, box) == b"a pair"
        assert holder == "tw_rt_right"


@examples(150)
@given(texts_like(RING.encrypt("client secret", b"a secret", "client-1"), RING.digest("client secret", b"a secret")))
def test_a_box_or_digest_of_the_key_ring_is_what_was_made_or_refused(text: str) -> None:
    """Stored text that was tampered with is refused in the ring's own words."""
    with suppress(CannotOpen, ValueError):
        assert RING.decrypt("client secret", text, "client-1") == b"a secret"
    with suppress(ValueError):
        decode(text)


@examples(100)
@given(texts_like(KEYS))
def test_a_key_ring_is_read_or_refused(text: str) -> None:
    """With a ValueError, which the settings turn into one line."""
    with suppress(ValueError):
        ring = KeyRing.parse(text)
        assert 0 <= ring.current <= 255
