"""How many failed logins are allowed, and which of them are counted together (brute-force protection)."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `failures` failures (or tokens) in each window of `seconds` seconds.

    Windows are aligned to the Unix epoch, so that every instance agrees on them.
    """

    failures: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """Parse `<number>/<seconds>`. Raises ValueError."""
        failures, _, seconds = text.partition("/")
        if not all(part.isascii() and part.isdecimal() and 0 < int(part) < 10**9 for part in (failures, seconds)):
            raise ValueError("<number>/<seconds> is expected, such as 20/60")
        return cls(int(failures), int(seconds))

    def window(self, now: datetime) -> int:
        """The number of the current window."""
        return int(now.timestamp()) // self.seconds

    def end(self, window: int) -> datetime:
        """When the window with this number ends."""
        return datetime.fromtimestamp((window + 1) * self.seconds, UTC)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of `libs.throttle.LoginThrottle`."""

    client: Limit
    """For one client from one address."""
    user: Limit
    """For one user from one address."""
    user_anywhere: Limit
    """For one user from anywhere, except from addresses where the user has logged in before."""
    address: Limit
    """For one address with any names; separately for client secrets, passwords and operator keys."""


class FailureCounter(NamedTuple):
    """Failures that are counted together. Its size is fixed, however long the client id or user name that was sent."""

    kind: str
    subject: bytes
    """A digest, so that neither memory nor MongoDB shows names and addresses."""
    limit: Limit
    exempt_place: "str | None" = None
    """The `known_place` to which this limit does not apply, if the user is known there."""
    client_id: str | None = None
    """For the log. Never a user name: people type passwords into the wrong field."""

    def key(self, window: int) -> str:
        """The `_id` under which it is counted in MongoDB."""
        return f"{self.subject.hex()}.{window}"


def digest(kind: str, *subject: str) -> bytes:
    """20 bytes that identify the subject among all kinds."""
    # NUL separates the parts unambiguously: it is refused in every parameter and credential.
    return hashlib.sha256("\0".join((kind, *subject)).encode(errors="surrogatepass")).digest()[:20]


def known_place(username: str, address: str) -> str:
    """The id under which it is remembered that this user has logged in from this address."""
    return digest("place", username, address).hex()
