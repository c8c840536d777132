"""Encryption and keyed digests: the key ring (key rotation), sealed boxes to the notifier, keys derived from tokens.

- `KeyRing`: the server's own keys. Encrypts values in MongoDB and makes the digests that client secrets are compared
  with. Key rotation: add a key, make it current, run `python -m services reencrypt`, remove the old one.
- `Sealer` and `Opener`: libsodium sealed boxes. The token service seals webhooks; only the notifier can open them.
- `encrypt_with_token`: for values that only the holder of a code or refresh token may read again.
"""

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


class CannotDecrypt(Exception):
    """The value was encrypted or sealed with a key that this process does not have, or it was changed."""


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
    """The server's own keys, by id. The current key encrypts; every key decrypts, so that keys can be rotated."""

    def __init__(self, keys: Mapping[int, bytes], current: int) -> None:
        self._keys = dict(keys)
        self.current = current
        self._subkeys: dict[tuple[str, int], bytes] = {}
        self._macs: dict[tuple[str, int], hmac.HMAC] = {}

    @classmethod
    def parse(cls, text: str) -> "KeyRing":
        """Parse `<id>:<base64 of 32 bytes>[,…]`; the first key is current, ids are 0 to 255. Raises ValueError."""
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
        """The ids of old keys that are still accepted and can be removed once nothing is encrypted with them."""
        return sorted(self._keys.keys() - {self.current})

    def subkey(self, label: str, key_id: int) -> bytes:
        """A key for one purpose (`label`), derived from the key of this id. Raises CannotDecrypt for an unknown id."""
        subkey = self._subkeys.get((label, key_id))
        if subkey is None:
            if key_id not in self._keys:
                raise CannotDecrypt(f"key {key_id} is not in the ring")
            subkey = self._subkeys[label, key_id] = _derive(self._keys[key_id], f"tokenwire {label}")
        return subkey

    def subkeys(self, label: str) -> dict[int, bytes]:
        """By key id, the derived keys for one purpose."""
        return {key_id: self.subkey(label, key_id) for key_id in self._keys}

    def is_current(self, made: str) -> bool:
        """Whether a digest or an encrypted value was made with the current key."""
        return made.partition(".")[0] == str(self.current)

    def has_made(self, made: str) -> bool:
        """Whether a digest or an encrypted value was made with any key of this ring."""
        return made.partition(".")[0] in map(str, self._keys)

    def digest(self, label: str, value: bytes) -> str:
        """A keyed digest (HMAC-SHA-256) of a high-entropy secret, made with the current key; for `matches`."""
        return f"{self.current}.{encode(self._mac(label, self.current, value))}"

    def matches(self, label: str, digest: str, value: bytes) -> bool:
        """Whether `digest` was made of `value`; in constant time. False if its key is not in the ring any more."""
        key_id, _, mac = digest.partition(".")
        try:
            made = self._mac(label, int(key_id), value)
        except CannotDecrypt:
            return False
        return hmac.compare_digest(encode(made), mac)

    def _mac(self, label: str, key_id: int, value: bytes) -> bytes:
        keyed = self._macs.get((label, key_id))
        if keyed is None:
            keyed = self._macs[label, key_id] = _keyed_hmac(self.subkey(label, key_id))
        return _mac_of(keyed, value)

    def encrypt(self, label: str, value: bytes, about: str) -> str:
        """The value encrypted with the current key (AES-256-GCM).

        `about`, the id of its record, is authenticated: moved to another record, the value cannot be decrypted.
        """
        nonce = os.urandom(NONCE_BYTES)
        box = AESGCM(self.subkey(label, self.current)).encrypt(nonce, value, about.encode())
        return f"{self.current}.{encode(nonce + box)}"

    def decrypt(self, label: str, box: str, about: str) -> bytes:
        """Inverse of `encrypt`, with whichever key of the ring encrypted the value. Raises CannotDecrypt."""
        key_id, _, text = box.partition(".")
        try:
            raw = decode(text)
            return AESGCM(self.subkey(label, int(key_id))).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], about.encode())
        except (InvalidTag, ValueError) as error:
            raise CannotDecrypt("the value was changed, or belongs to another record") from error


def _token_key(token: str) -> bytes:
    # A single HMAC is enough, and takes a tenth of HKDF's time: the token has 160 random bits, and its SHA-256, which
    # the database has, does not reveal the key.
    return hmac.digest(token.encode(), b"tokenwire successor", "sha256")


def encrypt_with_token(token: str, value: bytes) -> bytes:
    """The value encrypted with a key that can be derived only from `token`, a code or a refresh token.

    The server itself cannot decrypt it afterwards, because it stores only the token's digest.
    """
    # A fixed nonce is safe: only one value is ever stored that was encrypted with this token's key.
    return AESGCM(_token_key(token)).encrypt(bytes(NONCE_BYTES), value, None)


def decrypt_with_token(token: str, box: bytes) -> bytes:
    """Inverse of `encrypt_with_token`. Raises CannotDecrypt."""
    try:
        return AESGCM(_token_key(token)).decrypt(bytes(NONCE_BYTES), box, None)
    except InvalidTag as error:
        raise CannotDecrypt("encrypted with another token") from error


class Sealer:
    """Seals values with the notifier's public key; cannot open them again."""

    def __init__(self, public_key: bytes) -> None:
        self._box = SealedBox(PublicKey(public_key))

    def seal(self, value: bytes) -> bytes:
        """A libsodium sealed box that only the notifier can open."""
        return self._box.encrypt(value)


class Opener:
    """Opens boxes that were sealed with the public key of any of these private keys, which are tried in order."""

    def __init__(self, private_keys: Sequence[bytes]) -> None:
        self._boxes = [SealedBox(PrivateKey(key)) for key in private_keys]

    def open(self, box: bytes) -> bytes:
        """The value in the box. Raises CannotDecrypt."""
        for candidate in self._boxes:
            try:
                return candidate.decrypt(box)
            except CryptoError:
                continue
        raise CannotDecrypt("sealed to a key that this process does not have")


def public_key_of(private_key: bytes) -> bytes:
    """The public half of a notifier key."""
    return bytes(PrivateKey(private_key).public_key)


def _keyed_hmac(key: bytes) -> hmac.HMAC:
    """An HMAC that has processed its key. Copying it takes half the time of starting a new one with the same key."""
    return hmac.new(key, digestmod="sha256")


def _mac_of(keyed: hmac.HMAC, value: bytes) -> bytes:
    mac = keyed.copy()
    mac.update(value)
    return mac.digest()


@lru_cache(maxsize=1)
def _dummy() -> tuple[hmac.HMAC, str]:
    return _keyed_hmac(os.urandom(KEY_BYTES)), encode(os.urandom(KEY_BYTES))


def dummy_comparison(value: bytes) -> None:
    """Take as long as `KeyRing.matches`, so that the time does not tell an unknown client from a wrong secret."""
    keyed, mac = _dummy()
    hmac.compare_digest(encode(_mac_of(keyed, value)), mac)


def sha256(text: str) -> bytes:
    """The digest that is stored in place of a code or token."""
    return hashlib.sha256(text.encode()).digest()
