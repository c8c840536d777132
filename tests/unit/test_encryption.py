"""Encryption: each value can be decrypted by its intended reader and by nobody else."""

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.encryption import (
    CannotDecrypt,
    KeyRing,
    Opener,
    Sealer,
    decode,
    decrypt_with_token,
    encode,
    encrypt_with_token,
    public_key_of,
)

FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))
LABEL = "client secret"


def key(value: bytes) -> str:
    return base64.b64encode(value).decode()


OLD = KeyRing({1: FIRST}, 1)
NEW = KeyRing({2: SECOND}, 2)
BOTH = KeyRing({2: SECOND, 1: FIRST}, 2)


# Keys


@pytest.mark.parametrize(
    ("text", "current"),
    [
        pytest.param(f"1:{key(FIRST)}", 1, id="one"),
        pytest.param(f"2:{key(SECOND)},1:{key(FIRST)}", 2, id="newest-first"),
        pytest.param(f" 0:{key(FIRST)} , 255:{key(SECOND)} ", 0, id="spaces-and-bounds"),
    ],
)
def test_the_first_key_of_a_ring_is_current(text: str, current: int) -> None:
    """A key rotation puts the new key in front; the keys after it still decrypt."""
    assert KeyRing.parse(text).current == current


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(key(FIRST), id="no-id"),
        pytest.param(f"x:{key(FIRST)}", id="id-no-number"),
        pytest.param(f"256:{key(FIRST)}", id="id-too-great"),
        pytest.param(f"-1:{key(FIRST)}", id="id-negative"),
        pytest.param(f"1:{key(FIRST)},1:{key(SECOND)}", id="id-twice"),
        pytest.param("1:", id="no-key"),
        pytest.param("1:not base64!", id="not-base64"),
        pytest.param(f"1:{key(FIRST[:31])}", id="short"),
        pytest.param(f"1:{key(FIRST + b'x')}", id="long"),
        pytest.param(f"1:{key(FIRST)},", id="comma-at-the-end"),
    ],
)
def test_a_wrong_ring_is_refused_without_repeating_it(text: str) -> None:
    """The reason can be logged: it never quotes the key."""
    with pytest.raises(ValueError) as refused:
        KeyRing.parse(text)
    assert key(FIRST)[:12] not in str(refused.value)


def test_purposes_and_keys_do_not_share_subkeys() -> None:
    """Each purpose of each key has its own subkey, always the same, and never the key itself."""
    subkeys = [ring.subkey(label, ring.current) for ring in (OLD, NEW) for label in (LABEL, "token tag")]
    assert len({*subkeys, FIRST, SECOND}) == 6
    assert KeyRing.parse(f"1:{key(FIRST)}").subkey(LABEL, 1) == OLD.subkey(LABEL, 1)
    assert BOTH.subkeys(LABEL) == {1: OLD.subkey(LABEL, 1), 2: NEW.subkey(LABEL, 2)}


def test_a_key_that_is_not_here_has_no_subkey() -> None:
    """The error says which key is missing."""
    with pytest.raises(CannotDecrypt, match="key 2"):
        OLD.subkey(LABEL, 2)


# Digests


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_a_digest_matches_its_value_only(value: bytes, other: bytes) -> None:
    """A keyed digest proves the value without revealing it."""
    digest = OLD.digest(LABEL, value)
    assert OLD.matches(LABEL, digest, value)
    assert OLD.matches(LABEL, digest, other) is (other == value)


def test_a_digest_is_valid_as_long_as_its_key_is_in_the_ring() -> None:
    """Digests of an old key match while it is in the ring; those of another purpose never do."""
    digest = OLD.digest(LABEL, b"secret")
    assert BOTH.matches(LABEL, digest, b"secret")
    assert not NEW.matches(LABEL, digest, b"secret")
    assert not OLD.matches("operator key", digest, b"secret")
    assert BOTH.digest(LABEL, b"secret").startswith("2.")


# Values encrypted with our keys


@given(st.binary(max_size=200), st.text(max_size=20))
def test_a_box_gives_back_what_was_put_in(value: bytes, about: str) -> None:
    """Any value, for any record; the same value encrypted twice looks different."""
    box = OLD.encrypt(LABEL, value, about)
    assert OLD.decrypt(LABEL, box, about) == value
    assert OLD.encrypt(LABEL, value, about) != box


def test_a_box_outlives_a_rotation() -> None:
    """Old values can be decrypted while the old key is in the ring; new ones are encrypted with the new key."""
    assert BOTH.decrypt(LABEL, OLD.encrypt(LABEL, b"secret", "app"), "app") == b"secret"
    assert NEW.decrypt(LABEL, BOTH.encrypt(LABEL, b"secret", "app"), "app") == b"secret"


BOX = OLD.encrypt(LABEL, b"secret", "app")


def flipped(box: str) -> str:
    raw = bytearray(decode(box.partition(".")[2]))
    raw[-1] ^= 1
    return f"1.{encode(bytes(raw))}"


@pytest.mark.parametrize(
    ("ring", "label", "box", "about"),
    [
        pytest.param(OLD, LABEL, BOX, "other", id="moved-to-another-record"),
        pytest.param(OLD, "api definition", BOX, "app", id="moved-to-another-field"),
        pytest.param(NEW, LABEL, BOX, "app", id="key-gone"),
        pytest.param(BOTH, LABEL, BOX.replace("1.", "2.", 1), "app", id="another-key-claimed"),
        pytest.param(OLD, LABEL, flipped(BOX), "app", id="one-bit-changed"),
        pytest.param(OLD, LABEL, BOX[:-4], "app", id="cut"),
        pytest.param(OLD, LABEL, "1.AAAA", "app", id="shorter-than-a-nonce"),
        pytest.param(OLD, LABEL, "1.", "app", id="empty"),
        pytest.param(OLD, LABEL, "1.***", "app", id="not-base64"),
        pytest.param(OLD, LABEL, "x.AAAA", "app", id="no-key-id"),
        pytest.param(OLD, LABEL, "", "app", id="nothing"),
    ],
)
def test_a_box_opens_nowhere_else(ring: KeyRing, label: str, box: str, about: str) -> None:
    """An attacker with write access to the database can neither move a secret to another record nor change it."""
    with pytest.raises(CannotDecrypt):
        ring.decrypt(label, box, about)


# Values encrypted for the holder of a token


@given(st.text(min_size=1, max_size=80), st.binary(max_size=200))
def test_the_holder_of_a_token_opens_its_box(token: str, value: bytes) -> None:
    """The key is derived from the token alone."""
    box = encrypt_with_token(token, value)
    assert decrypt_with_token(token, box) == value
    with pytest.raises(CannotDecrypt):
        decrypt_with_token(token + "x", box)


@pytest.mark.parametrize("box", [b"", b"short", bytes(40)], ids=["empty", "short", "zeros"])
def test_damaged_ciphertexts_are_refused(box: bytes) -> None:
    """A damaged value raises CannotDecrypt."""
    with pytest.raises(CannotDecrypt):
        decrypt_with_token("token", box)


# Values encrypted for the notifier


@given(st.binary(max_size=300))
def test_only_the_notifier_opens_what_is_sealed_to_it(value: bytes) -> None:
    """Sealed with the public key, opened with the private key; another private key does not open it."""
    box = Sealer(public_key_of(FIRST)).seal(value)
    assert Opener([FIRST]).open(box) == value
    with pytest.raises(CannotDecrypt):
        Opener([SECOND]).open(box)


def test_a_rotated_notifier_opens_old_boxes() -> None:
    """After a rotation the notifier has both keys, and opens boxes from queues and records that used the old one."""
    old, new = Sealer(public_key_of(FIRST)).seal(b"old"), Sealer(public_key_of(SECOND)).seal(b"new")
    rotated = Opener([SECOND, FIRST])
    assert (rotated.open(old), rotated.open(new)) == (b"old", b"new")


def test_the_same_value_never_looks_the_same() -> None:
    """Two boxes with the same token look different."""
    sealer = Sealer(public_key_of(FIRST))
    assert sealer.seal(b"token") != sealer.seal(b"token")


SEALED = Sealer(public_key_of(FIRST)).seal(b"token")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda box: b"", id="empty"),
        pytest.param(lambda box: box[:20], id="shorter-than-a-key"),
        pytest.param(lambda box: box[:-1], id="cut"),
        pytest.param(lambda box: bytes([box[0] ^ 1]) + box[1:], id="one-bit-changed"),
        pytest.param(lambda box: bytes(len(box)), id="zeros"),
    ],
)
def test_a_damaged_box_is_a_refusal(damage: Callable[[bytes], bytes]) -> None:
    """A malformed message raises CannotDecrypt, so that it is dead-lettered and not reported as a bug."""
    with pytest.raises(CannotDecrypt):
        Opener([SECOND, FIRST]).open(damage(SEALED))


# base64url


@given(st.binary(max_size=100))
def test_base64url_is_read_back(value: bytes) -> None:
    """Without padding, in an alphabet that needs no escaping."""
    assert decode(encode(value)) == value
    assert not set("+/=") & set(encode(value))


@pytest.mark.parametrize("text", ["a", "a b", "é", "a*bc", "====="])
def test_invalid_base64url_is_a_value_error(text: str) -> None:
    """Any text from outside is handled."""
    with pytest.raises(ValueError):
        decode(text)
