"""The opaque format of codes and tokens: it carries the grant's id, and a tag that only this server can make.

After the prefix, base64url of: key id (1 byte), grant id (16), generation (4), random secret (20), tag (16).
The tag is HMAC-SHA-256 over prefix and all before it, cut to 128 bits: a forged or mistyped value is refused without
a database read, and a value of an old generation is proven to have been issued.
"""

import base64
import binascii
import enum
import hashlib
import hmac
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

ID_BYTES = 16
SECRET_BYTES = 20
TAG_BYTES = 16
_LENGTH = 1 + ID_BYTES + 4 + SECRET_BYTES + TAG_BYTES
_TEXT_LENGTH = _LENGTH * 4 // 3
MAX_GENERATION = 2**32 - 1


_HEAD = struct.Struct(f">B{ID_BYTES}sI")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _encoded(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE).decode()


class TokenKind(enum.Enum):
    """What a value is for; the prefix also helps secret scanners."""

    CODE = "tw_ac_"
    ACCESS = "tw_at_"
    REFRESH = "tw_rt_"

    def __init__(self, prefix: str) -> None:
        self.label = prefix.encode()


@dataclass(frozen=True, slots=True)
class Handle:
    """A value that this server issued: whose it is, and what it is kept as."""

    kind: TokenKind
    grant_id: str
    generation: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Minted:
    """A new value, shown once, and the digest under which it is kept."""

    value: str
    digest: bytes


def digest_of(value: str) -> bytes:
    """SHA-256: the only form in which a code or token is stored."""
    return hashlib.sha256(value.encode()).digest()


def new_grant_id(random: bytes) -> str:
    """A grant id of 16 random bytes, as text."""
    return _encoded(random).rstrip("=")


def public_token_id(grant_id: str, generation: int) -> str:
    """The name of an access token in events and lists: it locates the token and opens nothing."""
    return f"{grant_id}.{generation}"


def parse_public_token_id(text: str) -> tuple[str, int] | None:
    """Grant id and generation of a public token id; None if it is none."""
    grant_id, dot, generation = text.rpartition(".")
    well_formed = (
        dot and len(grant_id) == 22 and generation.isascii() and generation.isdecimal() and len(generation) < 11
    )
    return (grant_id, int(generation)) if well_formed else None


class TokenCodec:
    """Mints and reads codes and tokens under the server's tag keys."""

    def __init__(self, keys: Mapping[int, bytes], current: int, random: Callable[[int], bytes]) -> None:
        # Each key is taken in once: a copy of what comes of it costs half of beginning anew.
        self._macs = {key_id: hmac.new(key, digestmod="sha256") for key_id, key in keys.items()}
        self._current = current
        self._random = random

    def _tag(self, key_id: int, kind: TokenKind, signed: bytes) -> bytes:
        mac = self._macs[key_id].copy()
        mac.update(kind.label + signed)
        return mac.digest()[:TAG_BYTES]

    def mint(self, kind: TokenKind, grant_id: str, generation: int) -> Minted:
        """A new value with 160 random bits."""
        grant = base64.urlsafe_b64decode(grant_id + "==")
        signed = _HEAD.pack(self._current, grant, generation) + self._random(SECRET_BYTES)
        value = kind.value + _encoded(signed + self._tag(self._current, kind, signed))
        return Minted(value, digest_of(value))

    def read(self, kind: TokenKind, value: str) -> Handle | None:
        """Whose value this is; None unless this server issued it as this kind."""
        prefix = kind.value
        if len(value) != len(prefix) + _TEXT_LENGTH or not value.startswith(prefix):
            return None
        if "+" in value or "/" in value:  # the decoder takes them for - and _; a value is spelled in one way only
            return None
        try:
            raw = base64.b64decode(value[len(prefix) :], altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        signed, tag = raw[:-TAG_BYTES], raw[-TAG_BYTES:]
        if raw[0] not in self._macs or not hmac.compare_digest(tag, self._tag(raw[0], kind, signed)):
            return None
        grant_id = _encoded(raw[1 : 1 + ID_BYTES]).rstrip("=")
        generation = int.from_bytes(raw[1 + ID_BYTES : 5 + ID_BYTES], "big")
        return Handle(kind, grant_id, generation, digest_of(value))

    def read_any(self, value: str) -> Handle | None:
        """Whose value this is, whatever its kind."""
        for kind in TokenKind:
            if value.startswith(kind.value):
                return self.read(kind, value)
        return None
