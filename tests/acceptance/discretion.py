"""Checks logs for secrets: every secret that was sent or received during the tests."""

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

_ISSUED = re.compile(r"tw_(?:at|rt|ac|ok)_[A-Za-z0-9_-]{20,}")
_SECRET_FIELDS = frozenset({"secret", "client_secret", "password", "sharedSecret", "shared_secret", "key"})
_SHORTEST = 6
"""Shorter secrets are not searched for; they would be found by chance."""


class Secrets:
    """Remembers secrets, and finds them in text."""

    def __init__(self, *known: str) -> None:
        self._values = set(known)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, *values: str) -> None:
        """Remember these."""
        self._values.update(value for value in values if len(value) >= _SHORTEST)

    def add_basic(self, client_id: str, secret: str) -> None:
        """Remember the secret and its HTTP Basic encoding (RFC 7617)."""
        self.add(secret, base64.b64encode(f"{client_id}:{secret}".encode()).decode())

    def overhear(self, said: Any) -> None:
        """Remember every secret in a body: whatever looks like an issued token, or has the name of a secret."""
        if isinstance(said, bytes | str):
            self.add(*_ISSUED.findall(said if isinstance(said, str) else said.decode(errors="replace")))
        elif isinstance(said, dict):
            self.add(*(value for name, value in said.items() if name in _SECRET_FIELDS and isinstance(value, str)))
            self._overhear_each(said.values())
        elif isinstance(said, list):
            self._overhear_each(said)

    def _overhear_each(self, members: Iterable[Any]) -> None:
        for member in members:
            self.overhear(member)

    def found_in(self, text: str) -> set[str]:
        """The secrets in the text, in clear or URL-encoded."""
        # A test run issues tens of thousands of secrets and has long logs: so look up each word, instead of searching
        # for each secret.
        issued = {value for value in self._values if _ISSUED.fullmatch(value)}
        lengths = {len(value) for value in issued}
        looking_so = {run[:length] for run in set(_ISSUED.findall(text)) for length in lengths}
        rest = (value for value in self._values - issued if value in text or quote(value, safe="") in text)
        return (issued & looking_so) | set(rest)
