"""What is kept secret and how: each box opens for whom it was sealed, and for nobody else."""

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.sealing import (
    CannotOpen,
    KeyRing,
    Opener,
    Sealer,
    decode,
    encode,
    open_as_holder,
    public_key_of,
    seal_for_holder,
)

FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))
LABEL = "client secret"


def key(value: bytes) -> str:
    return base64.b64encode(value).decode()


OLD = KeyRing({1: FIRST}, 1)
NEW = KeyRing({2: SECOND}, 2)
BOTH = KeyRing({2: SECOND, 1: FIRST}, 2)


# The ring


@pytest.mark.parametrize(
    ("text", "current"),
    [
        pytest.param(f"1:{key(FIRST)}", 1, id="one"),
        pytest.param(f"2:{key(SECOND)},1:{key(FIRST)}", 2, id="newest-first"),
        pytest.param(f" 0:{key(FIRST)} , 255:{key(SECOND)} ", 0, id="spaces-and-bounds"),
    ],
)
def test_the_first_key_of_a_ring_is_current(text: str, current: int) -> None:
    """A rotation puts the new key in front; those behind it still read."""
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
    """The reason is fit for a log: it never quotes the key."""
    with pytest.raises(ValueError) as refused:
        KeyRing.parse(text)
    assert key(FIRST)[:12] not in str(refused.value)


def test_purposes_and_keys_do_not_share_subkeys() -> None:
    """Each purpose of each key has a subkey of its own, always the same, and the ring's key is none of them."""
    subkeys = [ring.subkey(label, ring.current) for ring in (OLD, NEW) for label in (LABEL, "token tag")]
    assert len({*subkeys, FIRST, SECOND}) == 6
    assert KeyRing.parse(f"1:{key(FIRST)}").subkey(LABEL, 1) == OLD.subkey(LABEL, 1)
    assert BOTH.subkeys(LABEL) == {1: OLD.subkey(LABEL, 1), 2: NEW.subkey(LABEL, 2)}


def test_a_key_that_is_not_here_has_no_subkey() -> None:
    """Whoever asks for it learns which one is missing."""
    with pytest.raises(CannotOpen, match="key 2"):
        OLD.subkey(LABEL, 2)


# Digests


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_a_digest_matches_its_value_only(value: bytes, other: bytes) -> None:
    """A keyed digest proves the value without telling it."""
    digest = OLD.digest(LABEL, value)
    assert OLD.matches(LABEL, digest, value)
    assert OLD.matches(LABEL, digest, other) is (other == value)


def test_a_digest_outlives_a_rotation_and_dies_with_its_key() -> None:
    """Digests made before a rotation match while the old key is in the ring; another purpose's never does."""
    digest = OLD.digest(LABEL, b"secret")
    assert BOTH.matches(LABEL, digest, b"secret")
    assert not NEW.matches(LABEL, digest, b"secret")
    assert not OLD.matches("operator key", digest, b"secret")
    assert BOTH.digest(LABEL, b"secret").startswith("2.")


# Boxes of the ring


@given(st.binary(max_size=200), st.text(max_size=20))
def test_a_box_gives_back_what_was_put_in(value: bytes, about: str) -> None:
    """Any value, about any record; the same value twice does not look the same."""
    box = OLD.encrypt(LABEL, value, about)
    assert OLD.decrypt(LABEL, box, about) == value
    assert OLD.encrypt(LABEL, value, about) != box


def test_a_box_outlives_a_rotation() -> None:
    """What was encrypted before is read while the old key is in the ring, and new boxes are under the new key."""
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
    """Whoever writes to the database can neither move a secret to another record nor change it."""
    with pytest.raises(CannotOpen):
        ring.decrypt(label, box, about)


# Boxes for the holder of a token


@given(st.text(min_size=1, max_size=80), st.binary(max_size=200))
def test_the_holder_of_a_token_opens_its_box(token: str, value: bytes) -> None:
    """Who presents the token derives the key; nothing else is needed."""
    box = seal_for_holder(token, value)
    assert open_as_holder(token, box) == value
    with pytest.raises(CannotOpen):
        open_as_holder(token + "x", box)


@pytest.mark.parametrize("box", [b"", b"short", bytes(40)], ids=["empty", "short", "zeros"])
def test_what_was_not_sealed_for_a_holder_does_not_open(box: bytes) -> None:
    """Damage is a refusal."""
    with pytest.raises(CannotOpen):
        open_as_holder("token", box)


# Boxes for the notifier


@given(st.binary(max_size=300))
def test_only_the_notifier_opens_what_is_sealed_to_it(value: bytes) -> None:
    """The public half seals, the private half opens, another's does not."""
    box = Sealer(public_key_of(FIRST)).seal(value)
    assert Opener([FIRST]).open(box) == value
    with pytest.raises(CannotOpen):
        Opener([SECOND]).open(box)


def test_a_rotated_notifier_opens_old_boxes() -> None:
    """After a rotation the notifier holds both keys: what waits in queues and records still arrives."""
    old, new = Sealer(public_key_of(FIRST)).seal(b"old"), Sealer(public_key_of(SECOND)).seal(b"new")
    rotated = Opener([SECOND, FIRST])
    assert (rotated.open(old), rotated.open(new)) == (b"old", b"new")


def test_the_same_value_never_looks_the_same() -> None:
    """Nobody who sees two boxes learns that they hold the same token."""
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
    """A poisoned message is parked as what it is, not as a bug."""
    with pytest.raises(CannotOpen):
        Opener([SECOND, FIRST]).open(damage(SEALED))


# Text


@given(st.binary(max_size=100))
def test_base64url_is_read_back(value: bytes) -> None:
    """Without padding, in the alphabet that needs no escaping."""
    assert decode(encode(value)) == value
    assert not set("+/=") & set(encode(value))


@pytest.mark.parametrize("text", ["a", "a b", "é", "a*bc", "====="])
def test_what_is_not_base64url_is_a_value_error(text: str) -> None:
    """Text from outside may be anything."""
    with pytest.raises(ValueError):
        decode(text)
