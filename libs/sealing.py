"""What is kept secret and how: the key ring, boxes for the notifier, and boxes that only a token's holder opens."""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

KEY_BYTES = 32
NONCE_BYTES = 12


class CannotOpen(Exception):
    """The value was sealed under a key that is not here, or was changed."""


def encode(value: bytes) -> str:
    """Base64url without padding (RFC 4648 §5)."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Inverse of `encode`. Raises ValueError."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not base64url") from error


def _derive(secret: bytes, label: str) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=label.encode()).derive(secret)


class KeyRing:
    """The server's own keys, by id; the current one writes, all of them read."""

    def __init__(self, keys: Mapping[int, bytes], current: int) -> None:
        self._keys = dict(keys)
        self.current = current
        self._subkeys: dict[tuple[str, int], bytes] = {}
        self._macs: dict[tuple[str, int], hmac.HMAC] = {}

    @classmethod
    def parse(cls, text: str) -> "KeyRing":
        """Read `<id>:<base64 of 32 bytes>[,…]`; the first is current, ids are 0 to 255. Raises ValueError."""
        keys: dict[int, bytes] = {}
        order: list[int] = []
        for entry in text.split(","):
            name, _, value = entry.strip().partition(":")
            if not name.isdecimal() or int(name) > 255 or int(name) in keys:
                raise ValueError("each key is <id>:<base64 of 32 bytes>, with distinct ids from 0 to 255")
            try:
                key = base64.b64decode(value, validate=True)
            except binascii.Error as error:
                raise ValueError(f"key {name} is not base64") from error
            if len(key) != KEY_BYTES:
                raise ValueError(f"key {name} has {len(key)} bytes, not {KEY_BYTES}")
            keys[int(name)] = key
            order.append(int(name))
        return cls(keys, order[0])

    @property
    def older(self) -> list[int]:
        """The ids of the keys that only read."""
        return sorted(self._keys.keys() - {self.current})

    def subkey(self, label: str, key_id: int) -> bytes:
        """The key of this ring for one purpose. Raises CannotOpen for an id that is not here."""
        subkey = self._subkeys.get((label, key_id))
        if subkey is None:
            if key_id not in self._keys:
                raise CannotOpen(f"key {key_id} is not in the ring")
            subkey = self._subkeys[label, key_id] = _derive(self._keys[key_id], f"tokenwire {label}")
        return subkey

    def subkeys(self, label: str) -> dict[int, bytes]:
        """Every key of this ring for one purpose."""
        return {key_id: self.subkey(label, key_id) for key_id in self._keys}

    def is_current(self, made: str) -> bool:
        """Whether a digest or a box was made under the current key."""
        return made.partition(".")[0] == str(self.current)

    def has_made(self, made: str) -> bool:
        """Whether a digest or a box was made under a key that is here."""
        return made.partition(".")[0] in map(str, self._keys)

    def digest(self, label: str, value: bytes) -> str:
        """A keyed digest to compare a high-entropy secret with."""
        return f"{self.current}.{encode(self._mac(label, self.current, value))}"

    def matches(self, label: str, digest: str, value: bytes) -> bool:
        """Whether `digest` was made of `value`; takes the same time for every value."""
        key_id, _, mac = digest.partition(".")
        try:
            made = self._mac(label, int(key_id), value)
        except CannotOpen:
            return False
        return hmac.compare_digest(encode(made), mac)

    def _mac(self, label: str, key_id: int, value: bytes) -> bytes:
        begun = self._macs.get((label, key_id))
        if begun is None:
            begun = self._macs[label, key_id] = _begun(self.subkey(label, key_id))
        return _finished(begun, value)

    def encrypt(self, label: str, value: bytes, about: str) -> str:
        """The value under the current key (AES-256-GCM), bound to the record it is `about`."""
        nonce = os.urandom(NONCE_BYTES)
        box = AESGCM(self.subkey(label, self.current)).encrypt(nonce, value, about.encode())
        return f"{self.current}.{encode(nonce + box)}"

    def decrypt(self, label: str, box: str, about: str) -> bytes:
        """Inverse of `encrypt`. Raises CannotOpen."""
        key_id, _, text = box.partition(".")
        try:
            raw = decode(text)
            return AESGCM(self.subkey(label, int(key_id))).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], about.encode())
        except (InvalidTag, ValueError) as error:
            raise CannotOpen("the value was changed, or belongs to another record") from error


def seal_for_holder(token: str, value: bytes) -> bytes:
    """The value under a key that only a holder of `token` can derive; the database, which has its digest, can not."""
    # The derived key seals exactly one value, so a fixed nonce is never repeated under it.
    return AESGCM(_derive(token.encode(), "tokenwire successor")).encrypt(bytes(NONCE_BYTES), value, None)


def open_as_holder(token: str, box: bytes) -> bytes:
    """Inverse of `seal_for_holder`. Raises CannotOpen."""
    try:
        return AESGCM(_derive(token.encode(), "tokenwire successor")).decrypt(bytes(NONCE_BYTES), box, None)
    except InvalidTag as error:
        raise CannotOpen("sealed for another token") from error


class Sealer:
    """Seals to the notifier's public key; cannot open."""

    def __init__(self, public_key: bytes) -> None:
        self._box = SealedBox(PublicKey(public_key))

    def seal(self, value: bytes) -> bytes:
        """A libsodium sealed box that only the notifier opens."""
        return self._box.encrypt(value)


class Opener:
    """Opens what was sealed to any of the notifier's keys, the newest first."""

    def __init__(self, private_keys: Sequence[bytes]) -> None:
        self._boxes = [SealedBox(PrivateKey(key)) for key in private_keys]

    def open(self, box: bytes) -> bytes:
        """The sealed value. Raises CannotOpen."""
        for candidate in self._boxes:
            try:
                return candidate.decrypt(box)
            except CryptoError:
                continue
        raise CannotOpen("sealed to a key that is not here")


def public_key_of(private_key: bytes) -> bytes:
    """The public half of a notifier key."""
    return bytes(PrivateKey(private_key).public_key)


def _begun(key: bytes) -> hmac.HMAC:
    """The key taken in, once: a copy of what comes of it costs half of beginning anew."""
    return hmac.new(key, digestmod="sha256")


def _finished(begun: hmac.HMAC, value: bytes) -> bytes:
    mac = begun.copy()
    mac.update(value)
    return mac.digest()


@lru_cache(maxsize=1)
def _decoy() -> tuple[hmac.HMAC, str]:
    return _begun(os.urandom(KEY_BYTES)), encode(os.urandom(KEY_BYTES))


def decoy_comparison(value: bytes) -> None:
    """Spend what comparing a secret costs, so that an unknown client and a wrong secret look alike."""
    begun, mac = _decoy()
    hmac.compare_digest(encode(_finished(begun, value)), mac)


def sha256(text: str) -> bytes:
    """The digest under which a code or token is kept."""
    return hashlib.sha256(text.encode()).digest()
