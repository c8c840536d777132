"""Token formats: how authorization codes, access tokens and refresh tokens are spelled, minted and read.

`OpaqueTokens` is the only format today. JWT access tokens (RFC 9068) would be a second class that implements
`TokenFormat`, chosen where `libs/runtime.py` builds `Deps.token_format`; docs/adr/0030 says what else it needs.
"""

import base64
import binascii
import enum
import hashlib
import hmac
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

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
    """What a value is for. Secret scanners recognise a leaked value by the prefix of its kind."""

    CODE = "tw_ac_"
    ACCESS = "tw_at_"
    REFRESH = "tw_rt_"

    def __init__(self, prefix: str) -> None:
        self.label = prefix.encode()


_KINDS = {kind.value: kind for kind in TokenKind}
_PREFIX_LENGTH = 6


@dataclass(frozen=True, slots=True)
class PresentedToken:
    """A code or token that a request carries and this server issued.

    Authentic, but not necessarily valid: the grant tells whether it is expired, used or revoked.
    """

    kind: TokenKind
    grant_id: str
    generation: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class MintedToken:
    """A new code or token: its value goes to the client, its digest into the database."""

    value: str
    digest: bytes


class TokenFormat(Protocol):
    """Mints and reads the strings that clients hold."""

    def mint(self, kind: TokenKind, grant_id: str, generation: int) -> MintedToken:
        """A new value for this generation of the grant."""

    def read(self, kind: TokenKind, value: str) -> PresentedToken | None:
        """The grant and generation of the value; None unless this server issued it as this kind."""

    def read_any(self, value: str) -> PresentedToken | None:
        """The same for a value of any kind."""

    def kind_of(self, value: str) -> TokenKind | None:
        """The kind that the value claims to be, which nothing has verified yet; None for a value of no kind."""


def digest_of(value: str) -> bytes:
    """SHA-256: the only form in which a code or token is stored."""
    return hashlib.sha256(value.encode()).digest()


def new_grant_id(random: bytes) -> str:
    """A grant id from 16 random bytes: 22 characters of base64url."""
    return _encoded(random).rstrip("=")


def public_token_id(grant_id: str, generation: int) -> str:
    """The id of an access token in events and lists. It names the token and gives no access."""
    return f"{grant_id}.{generation}"


def parse_public_token_id(text: str) -> tuple[str, int] | None:
    """Grant id and generation of a public token id; None if the text is not one."""
    grant_id, dot, generation = text.rpartition(".")
    well_formed = (
        dot and len(grant_id) == 22 and generation.isascii() and generation.isdecimal() and len(generation) < 11
    )
    return (grant_id, int(generation)) if well_formed else None


class OpaqueTokens:
    """The opaque format: the value carries the grant's id, and a tag that only this server can compute.

    After the prefix comes base64url of: key id (1 byte), grant id (16), generation (4), random secret (20), tag (16).
    The tag is HMAC-SHA-256 over the prefix and everything before the tag, truncated to 128 bits. A forged or mistyped
    value is therefore refused without reading the database, and a value of an older generation is known to have been
    issued, so its reuse is evidence of theft (RFC 9700 §4.14.2), not a typing error.
    """

    def __init__(self, keys: Mapping[int, bytes], current: int, random: Callable[[int], bytes]) -> None:
        # One HMAC per key, set up once: copying its state costs half of keying a new one, on every request.
        self._macs = {key_id: hmac.new(key, digestmod="sha256") for key_id, key in keys.items()}
        self._current = current
        self._random = random

    def _tag(self, key_id: int, kind: TokenKind, signed: bytes) -> bytes:
        mac = self._macs[key_id].copy()
        mac.update(kind.label + signed)
        return mac.digest()[:TAG_BYTES]

    def mint(self, kind: TokenKind, grant_id: str, generation: int) -> MintedToken:
        """A new value with 160 random bits.

        RFC 6749 §10.10: the probability of guessing a token "MUST be less than or equal to 2^(-128) and SHOULD be less
        than or equal to 2^(-160)".
        """
        grant = base64.urlsafe_b64decode(grant_id + "==")
        signed = _HEAD.pack(self._current, grant, generation) + self._random(SECRET_BYTES)
        value = kind.value + _encoded(signed + self._tag(self._current, kind, signed))
        return MintedToken(value, digest_of(value))

    def read(self, kind: TokenKind, value: str) -> PresentedToken | None:
        """The grant and generation of the value; None unless this server issued it as this kind."""
        prefix = kind.value
        if len(value) != len(prefix) + _TEXT_LENGTH or not value.startswith(prefix):
            return None
        # The decoder also accepts + and / for - and _, which would give one token several spellings.
        if "+" in value or "/" in value:
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
        return PresentedToken(kind, grant_id, generation, digest_of(value))

    def read_any(self, value: str) -> PresentedToken | None:
        """The same for a value of any kind."""
        kind = self.kind_of(value)
        return self.read(kind, value) if kind is not None else None

    def kind_of(self, value: str) -> TokenKind | None:
        """The kind of the value's prefix; its tag is not verified. None where no kind has this prefix."""
        return _KINDS.get(value[:_PREFIX_LENGTH])
