"""How many failed attempts are allowed, and which of them are counted together."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Limit:
    """So many failures in each window of so many seconds, counted from the epoch, so that every instance agrees."""

    failures: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """Read `<failures>/<seconds>`. Raises ValueError."""
        failures, _, seconds = text.partition("/")
        if not all(part.isascii() and part.isdecimal() and 0 < int(part) < 10**9 for part in (failures, seconds)):
            raise ValueError("<failures>/<seconds> is expected, such as 20/60")
        return cls(int(failures), int(seconds))

    def window(self, now: datetime) -> int:
        """The number of the window that it is."""
        return int(now.timestamp()) // self.seconds

    def end(self, window: int) -> datetime:
        """When the window is over."""
        return datetime.fromtimestamp((window + 1) * self.seconds, UTC)


@dataclass(frozen=True, slots=True)
class Limits:
    """Where too many failures end."""

    client: Limit
    """Of one client at one address."""
    user: Limit
    """Of one user at one address."""
    user_anywhere: Limit
    """Of one user, wherever from, but for addresses where the user is known."""
    address: Limit
    """Of one address, whoever it claims to be; client secrets, passwords and operator keys each."""


class Tally(NamedTuple):
    """Failures that are counted together."""

    kind: str
    subject: tuple[str, ...]
    limit: Limit
    unless: "Place | None" = None
    """Where this limit does not hold."""

    def key(self, window: int) -> str:
        """Under which it is counted; names and addresses are not to be read from it."""
        return _digest(self.kind, *self.subject, str(window))


class Place(NamedTuple):
    """An address where a user has proven who it is."""

    username: str
    address: str

    @property
    def key(self) -> str:
        """Under which it is remembered."""
        return _digest("place", self.username, self.address)


def _digest(*parts: str) -> str:
    # No part has a NUL: it is refused in every parameter and credential.
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:40]
