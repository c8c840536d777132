"""Scopes: what may be asked for, and what is granted (RFC 6749 §3.3)."""

import re

from libs.oauth.errors import InvalidScope

# scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+( [\x21\x23-\x5B\x5D-\x7E]+)*")
_LONGEST = 2048


def parse_scope(text: str | None) -> str | None:
    """The requested scope, or None where none was asked for. Raises InvalidScope."""
    if not text:
        return None
    if len(text) > _LONGEST or not _SCOPE.fullmatch(text):
        raise InvalidScope("scope is malformed")
    return text


def grant_scope(requested: str | None, registered: str | None) -> str | None:
    """What a client gets: what it asked for, all it may have where it asked for nothing. Raises InvalidScope."""
    if registered is None or requested is None:
        return requested or registered
    return narrow_scope(requested, registered)


def narrow_scope(requested: str | None, granted: str | None) -> str | None:
    """The requested part of what was granted; all of it where nothing was asked for.

    RFC 6749 §6: the requested scope "MUST NOT include any scope not originally granted". Raises InvalidScope.
    """
    if requested is None:
        return granted
    if not set(requested.split(" ")) <= set((granted or "").split(" ")):
        raise InvalidScope("scope exceeds what may be granted")
    return requested
